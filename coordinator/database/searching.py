"""Lists that are also searched by words, through an inverted index.

Such an index gives all rows with a word or none: for a word that nearly every row has, that is the whole table, and the
planner cannot tell how common the beginning of a word is. So the first rows of the list are looked through as they
come; a common word fills a page from these. Otherwise the table's statistics say whether the word is common elsewhere,
and the list is read on, or rare, and the index has few enough rows to take them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from coordinator.database.connection import Connection
from coordinator.database.driver import Record
from coordinator.database.listing import EVERYTHING, EXACT_TOTAL, Listing, Order, Rows, Scope, Window

NEAR = 10_000
"""Rows that are looked through: about ten milliseconds."""
_SURE = 1.5
"""How far beyond the exact totals an estimate has to lie to be believed."""
_DENSE = 0.25
"""The share of rows from which it is less work to count them as they come."""
_COMMON, _UNIVERSAL = 0.02, 0.9
"""Shares of rows from which a word is common, and from which it does not matter to a search with others."""


class _Known(NamedTuple):
    """Of a search: the share of rows that have it, as far as that is known, and the words to ask the index for."""

    share: float
    words: str


@dataclass(frozen=True)
class SearchedListing(Listing):
    """A list with the filter ``words``; ``plain`` are filters that leave nearly everything in."""

    words: str = "q"
    column: str = "search"
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
        conditions = rest, found
        rows, known = await self._found(conn, where, conditions, values)
        if self._is_end(where, rows):
            return Rows(rows, where.offset + len(rows))
        if known is not None and known.share <= _COMMON:
            return Rows(rows, await self._count(conn, conditions, *self._indexed(values, known.words)))
        narrowed = scope != EVERYTHING or any(others[name] is not None for name in others if name not in self.plain)
        return Rows(rows, await self._total(conn, conditions, values, narrowed=narrowed))

    async def first(
        self, conn: Connection, where: Window, wanted: Mapping[str, object], scope: Scope = EVERYTHING
    ) -> list[Record]:
        """Return the rows of a window of a search; how many there are in all is not asked."""
        rest, values = self.matching({**wanted, self.words: None}, scope)
        values.append(wanted[self.words])
        rows, _ = await self._found(conn, where, (rest, self.filters[self.words].format(f"${len(values)}")), values)
        return rows

    async def _found(
        self, conn: Connection, where: Window, conditions: tuple[str, str], values: list[object]
    ) -> tuple[list[Record], _Known | None]:
        """Return the rows of a window, and what had to be known of the search for that."""
        rows = await self._page(conn, where, conditions, values)
        if len(rows) > where.limit:
            return rows, None
        known = await self._known(conn, str(values[-1]))
        return await self._page(conn, where, conditions, *self._elsewhere(where, conditions[0], values, known)), known

    async def _page(
        self, conn: Connection, where: Window, conditions: tuple[str, str], values: Sequence[object], source: str = ""
    ) -> list[Record]:
        """Return a page out of a source, or out of the list's first rows."""
        rest, found = conditions
        beyond, tail, arguments = self._window(where, values)
        near = f"(SELECT * FROM {self.source} WHERE {rest}{beyond} {self._in(where.order)} LIMIT {NEAR})"
        source = source or f"{near} AS {self.source}"
        columns = self._columns(where.order)
        return await conn.fetch(f"SELECT {columns} FROM {source} WHERE {rest} AND {found}{beyond} {tail}", *arguments)

    def _elsewhere(
        self, where: Window, rest: str, values: Sequence[object], known: _Known
    ) -> tuple[Sequence[object], str]:
        """Return where to look when the first rows have too little: the whole list in its order, or the index."""
        if known.share <= _COMMON:
            return self._indexed(values, known.words)
        after, _, _ = self._window(where, values)
        return values, self._ordered(rest + after, where.order)

    async def _known(self, conn: Connection, words: str) -> _Known:
        """Return what the table's statistics say of a search.

        How often several words meet is not among that; the index finds out fast.
        """
        found = await conn.fetch(
            f"""
            SELECT word[1] AS word, coalesce(sum(freq) FILTER (WHERE starts_with(elem, word[1])), 0)::float8 AS share
            FROM regexp_matches($1, '''([^'']+)''', 'g') AS word
            LEFT JOIN (
              SELECT unnest(most_common_elems::text::text[]) AS elem, unnest(most_common_elem_freqs) AS freq
              FROM pg_stats
              WHERE schemaname = current_schema() AND tablename = '{self.source}' AND attname = '{self.column}'
            ) AS known ON true
            GROUP BY word
            """,
            words,
        )
        parting = [row for row in found if row["share"] < _UNIVERSAL]
        if not parting:
            return _Known(1.0, words)
        asked = " & ".join(f"'{row['word']}':*" for row in parting)
        return _Known(parting[0]["share"] if len(parting) == 1 else 0.0, asked)

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
        known = await self._known(conn, str(values[-1]))
        share = max(known.share, seen["found"] / seen["read"])
        if not narrowed and share * seen["rows"] > _SURE * EXACT_TOTAL:
            return EXACT_TOTAL + 1
        if share > _DENSE:
            return await self._count(conn, conditions, values, self._ordered(rest, self.default_order))
        return await self._count(conn, conditions, *self._indexed(values, known.words))

    @staticmethod
    async def _count(conn: Connection, conditions: tuple[str, str], values: Sequence[object], source: str) -> int:
        matches = f"SELECT FROM {source} WHERE {' AND '.join(conditions)} LIMIT {EXACT_TOTAL + 1}"
        return int(await conn.fetchval(f"SELECT count(*) FROM ({matches}) AS matches", *values))

    def _ordered(self, rest: str, order: Order) -> str:
        """Return the rows in the list's order; OFFSET keeps the planner from asking the index instead."""
        return f"(SELECT * FROM {self.source} WHERE {rest} {self._in(order)} OFFSET 0) AS {self.source}"

    def _indexed(self, values: Sequence[object], words: str) -> tuple[Sequence[object], str]:
        """Return what the index has of some words, with the statement's arguments.

        OFFSET keeps the planner from reading the list in its order instead. Words that nearly every row has are left
        out: to ask for the beginning of one, the index makes a note of every row.
        """
        found = self.filters[self.words].format(f"${len(values) + 1}")
        return [*values, words], f"(SELECT * FROM {self.source} WHERE {found} OFFSET 0) AS {self.source}"
