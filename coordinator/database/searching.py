"""Lists that are also searched by words, through an inverted index.

Such an index gives all rows with a word or none: for a word that nearly every row has, that is the whole table, and the
planner cannot tell how common the beginning of a word is. So the first rows of the list are looked through as they
come. A common word fills a page from these. For any other the index has few enough rows to take them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coordinator.database.connection import Connection
from coordinator.database.driver import Record
from coordinator.database.listing import EVERYTHING, EXACT_TOTAL, Listing, Rows, Scope, Window

NEAR = 10_000
"""Rows that are looked through: about ten milliseconds."""
_SURE = 1.5
"""How far beyond the exact totals an estimate has to lie to be believed."""
_DENSE = 0.25
"""The share of rows from which it is less work to count them as they come."""


@dataclass(frozen=True)
class SearchedListing(Listing):
    """A list with the filter ``words``; ``plain`` are filters that leave nearly everything in."""

    words: str = "q"
    plain: frozenset[str] = frozenset()

    async def read(
        self, conn: Connection, where: Window, wanted: Mapping[str, object], scope: Scope = EVERYTHING
    ) -> Rows:
        """Return the rows of a window and the total of the list, which is estimated where a search finds very many."""
        if wanted.get(self.words) is None:
            return await super().read(conn, where, wanted, scope)
        others = {**wanted, self.words: None}
        rest, values = self.matching(others, scope)
        values.append(wanted[self.words])
        found = self.filters[self.words].format(f"${len(values)}")
        rows, rare = await self._page(conn, where, (rest, found), values)
        if self._is_end(where, rows):
            return Rows(rows, where.offset + len(rows))
        if rare:
            return Rows(rows, await self._count(conn, self._indexed(found), rest, values))
        narrowed = scope != EVERYTHING or any(others[name] is not None for name in others if name not in self.plain)
        return Rows(rows, await self._total(conn, (rest, found), values, narrowed=narrowed))

    async def _page(
        self, conn: Connection, where: Window, conditions: tuple[str, str], values: Sequence[object]
    ) -> tuple[list[Record], bool]:
        """Return a page, and whether the first rows had too little of it, so that the index was asked."""
        rest, found = conditions
        beyond, tail, arguments = self._window(where, values)
        columns, order = self._columns(where.order), self._in(where.order)
        near = f"(SELECT * FROM {self.source} WHERE {rest}{beyond} {order} LIMIT {NEAR}) AS {self.source}"
        rows = await conn.fetch(f"SELECT {columns} FROM {near} WHERE {found} {tail}", *arguments)
        if len(rows) > where.limit:
            return rows, False
        all_of_them = self._indexed(found)
        statement = f"SELECT {columns} FROM {all_of_them} WHERE {rest}{beyond} {tail}"
        return await conn.fetch(statement, *arguments), True

    async def _total(
        self, conn: Connection, conditions: tuple[str, str], values: Sequence[object], *, narrowed: bool
    ) -> int:
        rest, found = conditions
        near = f"(SELECT * FROM {self.source} WHERE {rest} {self._in(self.default_order)} LIMIT {NEAR}) AS near"
        seen = await conn.fetchrow(
            f"""
            SELECT count(*) AS read, count(*) FILTER (WHERE {found}) AS found,
              (SELECT reltuples::float8 FROM pg_class WHERE oid = '{self.source}'::regclass) AS rows
            FROM {near}
            """,
            *values,
        )
        assert seen is not None  # noqa: S101 - an aggregate has one row
        if seen["read"] < NEAR:
            return int(seen["found"])
        if not narrowed and seen["found"] / seen["read"] * seen["rows"] > _SURE * EXACT_TOTAL:
            return EXACT_TOTAL + 1
        if seen["found"] / seen["read"] > _DENSE:
            in_order = f"(SELECT * FROM {self.source} WHERE {rest} {self._in(self.default_order)} OFFSET 0)"
            return await self._count(conn, f"{in_order} AS {self.source}", found, values)
        return await self._count(conn, self._indexed(found), rest, values)

    @staticmethod
    async def _count(conn: Connection, source: str, condition: str, values: Sequence[object]) -> int:
        matches = f"SELECT FROM {source} WHERE {condition} LIMIT {EXACT_TOTAL + 1}"
        return int(await conn.fetchval(f"SELECT count(*) FROM ({matches}) AS matches", *values))

    def _indexed(self, found: str) -> str:
        """Return what the index has; OFFSET keeps the planner from reading the list in its order instead."""
        return f"(SELECT * FROM {self.source} WHERE {found} OFFSET 0) AS {self.source}"
