"""Break the code on purpose and see that the tests notice: ``make mutants``, or some by ``ARGS='NAME …'``."""

from __future__ import annotations

import argparse
import sys

from tests.mutants.defect import Defect
from tests.mutants.defects import DEFECTS
from tests.mutants.run import Run, place, try_defect, try_unchanged


def main() -> int:
    """Try the defects and print a row for each; 1 when one goes unnoticed, or the tests fail without any."""
    parser = argparse.ArgumentParser(prog="make mutants ARGS=…", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="defects to try; all when none is named")
    parser.add_argument("--by", action="append", metavar="TEST", help="let this test notice them, not their own ones")
    options = parser.parse_args()
    if unknown := set(options.names) - {defect.name for defect in DEFECTS}:
        parser.error(f"no defect is called {', '.join(sorted(unknown))}")
    chosen = [defect for defect in DEFECTS if not options.names or defect.name in options.names]
    tests = {defect.name: tuple(options.by or defect.tests) for defect in chosen}
    unchanged = try_unchanged(chosen, dict.fromkeys(test for some in tests.values() for test in some))
    _tell("defect", "place", "noticed by", "s")
    _tell("(none)", "", "nobody, as it should be" if unchanged.passed else _verdict(unchanged), unchanged.seconds)
    if not unchanged.passed:
        sys.stdout.write(unchanged.output)
        return 1
    unnoticed = [defect.name for defect in chosen if not _try(defect, tests[defect.name])]
    sys.stdout.write(f"{len(chosen) - len(unnoticed)} of {len(chosen)} defects were noticed\n")
    return 1 if unnoticed else 0


def _try(defect: Defect, tests: tuple[str, ...]) -> bool:
    run = try_defect(defect, tests)
    _tell(defect.name, place(defect), _verdict(run), run.seconds)
    if not run.noticed:
        sys.stdout.write(f"  {defect.means}: {'nobody minds' if run.passed else run.output}\n")
    return run.noticed


def _verdict(run: Run) -> str:
    if run.noticed:
        return run.first_failed
    return "NOBODY" if run.passed else f"NOBODY COULD RUN (pytest ended with {run.status})"


def _tell(name: str, where: str, by: str, seconds: float | str) -> None:
    took = f"{seconds:.1f}" if isinstance(seconds, float) else seconds
    sys.stdout.write(f"{name:36}{where:42}{took:>6}  {by}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
