"""Plays every chapter of every target to the full, and writes what came of it into docs/journeys.md.

Usage: ``make journeys`` or, for some types, ``make journeys ARGS='nginx haproxy'``. The page is written when all ran.
"""

from __future__ import annotations

import argparse
import datetime as dt
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab.processes import REPOSITORY
from tests.journeys.stage import Stage, playing
from tests.journeys.targets.chapters import CHAPTERS, WHOLE, Road
from tests.journeys.targets.subject import Chapter, Subject, every_subject, title

PAGE = REPOSITORY / "docs" / "journeys.md"


@dataclass(frozen=True)
class Result:
    """How one chapter of one subject went: seconds, or a word."""

    subject: type[Subject]
    chapter: Chapter
    seconds: float
    word: str


def main() -> int:
    """Play; exit code 1 when a chapter failed."""
    parser = argparse.ArgumentParser(prog="make journeys", description=__doc__)
    parser.add_argument("types", nargs="*", help="types of targets; default: all")
    types = parser.parse_args().types
    chosen = [subject for subject in every_subject() if not types or subject.target_type in types]
    results = list[Result]()
    with tempfile.TemporaryDirectory(prefix="certctl-journeys-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        for subject in chosen:
            results += _play(subject, Path(folder))
    if chosen == every_subject():
        PAGE.write_text(page(results))
        sys.stdout.write(f"written to {PAGE}\n")
    return 1 if any(result.word == "FAILED" for result in results) else 0


def _play(subject: type[Subject], folder: Path) -> list[Result]:
    """Play all chapters of a subject on a platform of its own; what comes after a failure is not played."""
    sys.stdout.write(f"{title(subject)} ({subject.version()})\n")
    results = list[Result]()
    place = folder / title(subject).replace(", ", "-").replace("_", "-")
    with playing(place) as stage:
        road: Road | None = None
        for chapter, play in CHAPTERS.items():
            started = time.monotonic()
            word = "skipped" if chapter in subject.skips else "played"
            try:
                if word == "played":
                    road = road or _road(stage, place, subject)
                    play(road)
            except Exception:  # noqa: BLE001 - a failure of any kind is a result, and is shown
                traceback.print_exc()
                word = "FAILED"
            results.append(Result(subject, chapter, time.monotonic() - started, word))
            sys.stdout.write(f"  {chapter:<26}{results[-1].seconds:7.1f} s  {word}\n")
            sys.stdout.flush()
            if word == "FAILED":
                break
    return results


def _road(stage: Stage, folder: Path, subject: type[Subject]) -> Road:
    program = folder / "program"
    program.mkdir(parents=True)
    return Road(stage, stage.coordinator(), subject(program), WHOLE)


def page(results: Sequence[Result]) -> str:
    """Return the page for these results."""
    heads = ["target", *CHAPTERS]
    lines = [_row(heads), _row("---" for _ in heads)]
    subjects = list(dict.fromkeys(result.subject for result in results))
    for subject in subjects:
        went = {result.chapter: result for result in results if result.subject is subject}
        lines.append(_row([title(subject), *(_cell(went.get(chapter)) for chapter in CHAPTERS)]))
    versions = "\n".join(_row([title(subject), f"`{subject.version()}`"]) for subject in subjects)
    reasons = "\n".join(
        f"- {title(subject)}, {chapter}: {reason}." for subject in subjects for chapter, reason in subject.skips.items()
    )
    today = dt.datetime.now(dt.UTC).date().isoformat()
    table = "\n".join(lines)
    return f"""# Journeys

Every type of target is played through the same chapters on its real program, by a real coordinator and a real agent:
`make journeys` writes this page; `make test` plays a quick cut. What a chapter asks is in `tests/journeys/targets`.

Played on {today}, Linux {platform.release()}, Python {platform.python_version()}. Seconds of each chapter:

{table}

Renewal under load: {WHOLE.renewals} renewals while a visitor comes on new connections, none of whom may fail, and again
with kept connections, of which no more may break than when the program is only reloaded as often. kill -9: the agent
dies at {", ".join(f"`{point}`" for point in WHOLE.points)}.

## Programs

| target | version |
|---|---|
{versions}

## Chapters that were not played

{reasons or "None."}
"""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(result: Result | None) -> str:
    if result is None:
        return "not reached"
    return f"{result.seconds:.1f}" if result.word == "played" else result.word


if __name__ == "__main__":
    sys.exit(main())
