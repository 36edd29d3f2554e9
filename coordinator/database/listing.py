"""Lists, read in one way: newest first, by number or after a row, with the filters that were given.

A store says what its list is made of; the statement is put together from that, so that the planner sees only the
conditions that hold. Nothing of a request becomes SQL text: values are arguments, names of filters are the store's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from coordinator.database.connection import Connection
from coordinator.database.driver import Record

EXACT_TOTAL = 10_000
"""Totals are exact up to here; counting on would cost more than it tells."""


class Window(NamedTuple):
    """Which rows to read: ``limit`` rows after the key ``after``, or from ``offset``."""

    limit: int
    offset: int
    after: tuple[datetime, str] | None
    page: int | None


class Rows(NamedTuple):
    """One row more than the window's limit if there is more, and how many match, at most one more than is exact."""

    found: list[Record]
    total: int


@dataclass(frozen=True)
class Listing:
    """A list of ``columns`` of ``source``, sorted by ``moment`` and ``id``.

    ``id_prefix`` is that of its rows' ids. ``filters`` are conditions by name, with ``{}`` where the value stands.
    """

    columns: str
    source: str
    id_prefix: str
    moment: str = "created_at"
    filters: Mapping[str, str] = field(default_factory=dict)
    always: str = "true"

    async def read(self, conn: Connection, where: Window, **wanted: str | None) -> Rows:
        """Return the rows of a window and the total of the list; a filter that is None does not filter."""
        values: list[object] = [value for value in wanted.values() if value is not None]
        names = [name for name, value in wanted.items() if value is not None]
        matching = " AND ".join(
            [self.always, *(self.filters[name].format(f"${place}") for place, name in enumerate(names, 1))]
        )
        rows = await self._rows(conn, where, matching, values)
        counted = (
            f"SELECT count(*) FROM (SELECT FROM {self.source} WHERE {matching} LIMIT {EXACT_TOTAL + 1}) AS matches"
        )
        return Rows(rows, int(await conn.fetchval(counted, *values)))

    async def _rows(self, conn: Connection, where: Window, matching: str, values: list[object]) -> list[Record]:
        arguments = [*values, where.limit + 1]
        tail = f"ORDER BY {self.moment} DESC, id DESC LIMIT ${len(arguments)}"
        if where.after is not None:
            arguments += where.after
            matching += f" AND ({self.moment}, id) < (${len(arguments) - 1}::timestamptz, ${len(arguments)}::text)"
        else:
            arguments.append(where.offset)
            tail += f" OFFSET ${len(arguments)}"
        return await conn.fetch(f"SELECT {self.columns} FROM {self.source} WHERE {matching} {tail}", *arguments)
