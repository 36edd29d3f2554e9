"""``python -m benchmarks.checker --database URL --state FOLDER … --log FILE …``: look, tell, exit 1 on findings."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.checker.rules import check
from benchmarks.checker.world import World, read

SHOWN = 10


def main() -> int:
    """Check once."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checker", description=__doc__)
    parser.add_argument("--database", required=True, help="URL of the PostgreSQL database")
    parser.add_argument("--state", action="append", default=[], type=Path, help="an agent's state folder")
    parser.add_argument("--log", action="append", default=[], type=Path, help="a coordinator's log, as JSON lines")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    world = read(options.database, options.state, options.log)
    findings = check(world)
    sys.stdout.write(json.dumps(findings, indent=1) + "\n" if options.json else tell(world, findings))
    return 1 if any(findings.values()) else 0


def tell(world: World, findings: dict[str, list[str]]) -> str:
    """Return a table of what was looked at and what was found."""
    counts = {table: len(rows) for table, rows in world.tables.items()}
    counts |= {"disks": len(world.disks), "keys": sum(len(disk.keys) for disk in world.disks.values())}
    counts |= {"signatures": len(world.signatures)}
    lines = ["looked at " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()), ""]
    for rule, found in findings.items():
        lines.append(f"{rule:26}{len(found) or 'ok'!s:>6}")
        lines += [f"    {finding}" for finding in found[:SHOWN]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
