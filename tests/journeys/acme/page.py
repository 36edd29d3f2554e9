"""Writes what came of cases as docs/acme-clients.md, and keeps it in docs/acme-clients.json."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from benchmarks.lab.processes import REPOSITORY
from tests.journeys.acme.client import Challenge
from tests.journeys.acme.matrix import Account, Names, Then
from tests.journeys.acme.play import OK, Row

PAGE = REPOSITORY / "docs" / "acme-clients.md"
COLUMNS = [*Challenge, Names.SEVERAL, Names.WILDCARD, Names.IP, Account.BOUND, Then.RENEW, Then.REVOKE]
COLUMNS += [Then.KEY_CHANGE, Then.ARI]
_INTRODUCTION = """# ACME clients

Unmodified ACME clients against certctl's own server: two coordinators on one PostgreSQL, who are asked in turn. `make
journeys` plays every case that a client can and writes this page; `make test` plays a selection in which any two values
of challenge, names, account and what follows meet. What is looked at after each is in
[play.py](../tests/journeys/acme/play.py): names, chain, and whether renewal, revocation and the like had their effect.

A mark says how many cases with it went well, `FAILED` that one did not, a dash that the client cannot or was not asked.
"""


def keep(rows: Iterable[Row], path: Path = PAGE) -> None:
    """Write page and results; clients that were not played keep what they had."""
    new = list(rows)
    played = {row.client for row in new}
    told = sorted([*new, *(row for row in kept(path) if row.client not in played)], key=lambda row: row.client)
    path.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(told)) + b"\n")
    path.write_text(page(told))


def kept(path: Path = PAGE) -> list[Row]:
    """Return the results that are kept."""
    results = path.with_suffix(".json")
    return msgspec.json.decode(results.read_bytes(), type=list[Row]) if results.exists() else []


def page(rows: Sequence[Row]) -> str:
    """Return the page for these results."""
    names = sorted({row.client for row in rows})
    grid = [_line(["client", *COLUMNS]), _line(["---"] * (1 + len(COLUMNS)))]
    programs = [_line(["client", "version", "server", "played on", "cases", "seconds"]), _line(["---"] * 6)]
    for name in names:
        own = [row for row in rows if row.client == name]
        grid.append(_line([name, *(_cell(own, column) for column in COLUMNS)]))
        first, seconds = own[0], sum(row.seconds for row in own)
        programs.append(_line([name, f"`{first.version}`", first.server, first.date, str(len(own)), f"{seconds:.1f}"]))
    failures = [f"- {_asked(row)}: {row.outcome}".replace("|", "\\|") for row in rows if row.outcome != OK]
    parts = [_INTRODUCTION, _text(grid), "## Programs\n", _text(programs), "## Failures\n"]
    return "\n".join([*parts, _text(failures) if failures else "None.\n"])


def _cell(rows: Sequence[Row], column: str) -> str:
    met = [row for row in rows if column in {row.challenge, row.names, row.account, row.then}]
    if any(row.outcome != OK for row in met):
        return "FAILED"
    return f"✓ {len(met)}" if met else "–"


def _asked(row: Row) -> str:
    return f"{row.client}, {row.challenge}, {row.names}, {row.account}, {row.then}"


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
