"""Lists that are also searched by words, through an inverted index.

Such an index gives all rows with a word or none: for a word that nearly every row has, that is the whole table. The
table's statistics say how common words are. Where a page of what is searched for lies in the list's first rows, were
words spread evenly and apart from each other, it is read from these as they come, and otherwise the index is asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from coordinator.database.connection import Connection
from coordinator.database.driver import Record
from coordinator.database.listing import EVERYTHING, EXACT_TOTAL, Listing, Order, Rows, Scope, Window

NEAR = 10_000
"""Rows that are looked through where few would do: about ten milliseconds."""
FAR = 40_000
"""Rows from which it is less work to ask the index."""
_SAMPLE = 4_000
"""Rows from which it is estimated how many there are."""
_FEW = 25_000
"""Entries of the index that are counted rather than estimated."""
_SURE = 1.5
"""How far beyond the exact totals an estimate has to lie to be believed, and beyond the expected place a page."""
_DENSE = 0.25
"""The share of rows from which it is less work to count them as they come."""
_COMMON, _UNIVERSAL = 0.02, 0.9
"""Shares of rows from which a word is common, and from which it does not matter to a search with others."""


class _Known(NamedTuple):
    """Of a search: the share of rows that have it, the entries of the index for it, and the words to ask that for."""

    share: float
    entries: float
    words: str


@dataclass(frozen=True)
class SearchedListing(Listing):
    """A list with the filter ``words``, and ``mark``, which has an inverted index too.

    ``plain`` are filters that leave nearly everything in.
    """

    words: str = "q"
    mark: str = "tag"
    column: str = "search"
    plain: frozenset[str] = frozenset()

    async def read(
        self, conn: Connection, where: Window, wanted: Mapping[str, object], scope: Scope = EVERYTHING
    ) -> Rows:
        """Return the rows of a window and the total of the list, which is estimated where that finds very many."""
        sought = next((name for name in (self.words, self.mark) if wanted.get(name) is not None), None)
        if sought is None:
            return await super().read(conn, where, wanted, scope)
        others = {**wanted, sought: None}
        conditions, values = self._parted(others, wanted, sought, scope)
        known: _Known | None = None
        if sought == self.words:
            known = await self._known(conn, str(values[-1]))
            rows = await self._found(conn, where, conditions, values, known)
        else:
            rows = await self._rows(conn, where, " AND ".join(conditions), values)
        if self._is_end(where, rows):
            return Rows(rows, where.offset + len(rows))
        narrowed = scope != EVERYTHING or any(others[name] is not None for name in others if name not in self.plain)
        total, exact = await self._total(conn, conditions, values, known, narrowed=narrowed)
        return Rows(rows, total, exact)

    async def first(
        self, conn: Connection, where: Window, wanted: Mapping[str, object], scope: Scope = EVERYTHING
    ) -> list[Record]:
        """Return the rows of a window of a search; how many there are in all is not asked."""
        conditions, values = self._parted({**wanted, self.words: None}, wanted, self.words, scope)
        return await self._found(conn, where, conditions, values, await self._known(conn, str(values[-1])))

    def _parted(
        self, others: Mapping[str, object], wanted: Mapping[str, object], sought: str, scope: Scope
    ) -> tuple[tuple[str, str], list[object]]:
        """Return the condition of the other filters and that of what is sought, whose argument is the last."""
        rest, values = self.matching(others, scope)
        values.append(wanted[sought])
        return (rest, self.filters[sought].format(f"${len(values)}")), values

    async def _found(
        self, conn: Connection, where: Window, conditions: tuple[str, str], values: list[object], known: _Known
    ) -> list[Record]:
        """Return the rows of a window."""
        rest = conditions[0]
        expected = (where.offset + where.limit + 1) / known.share if known.share else FAR
        if expected < FAR:
            # Further where the index would be dear: the first rows may all be of one kind.
            reach = max(NEAR, int(_SURE * expected), int(known.entries / 3))
            rows = await self._page(conn, where, conditions, values, self._near(rest, where, values, reach))
            if len(rows) > where.limit:
                return rows
        if known.share > _COMMON:  # but not there: it is read on
            after, _, _ = self._window(where, values)
            return await self._page(conn, where, conditions, values, self._ordered(rest + after, where.order))
        return await self._page(conn, where, conditions, *self._indexed(values, known.words))

    async def _page(
        self, conn: Connection, where: Window, conditions: tuple[str, str], values: Sequence[object], source: str
    ) -> list[Record]:
        """Return a page out of a source."""
        rest, found = conditions
        beyond, tail, arguments = self._window(where, values)
        columns = self._columns(where.order)
        return await conn.fetch(f"SELECT {columns} FROM {source} WHERE {rest} AND {found}{beyond} {tail}", *arguments)

    def _near(self, rest: str, where: Window, values: Sequence[object], reach: int) -> str:
        """Return the first rows of a window's list, whatever they are."""
        beyond, _, _ = self._window(where, values)
        order = self._in(where.order)
        return f"(SELECT * FROM {self.source} WHERE {rest}{beyond} {order} LIMIT {reach}) AS {self.source}"

    async def _known(self, conn: Connection, words: str) -> _Known:
        """Return what the table's statistics say of a search, were its words apart from each other."""
        found = await conn.fetch(
            f"""
            SELECT word[1] AS word, coalesce(sum(freq) FILTER (WHERE starts_with(elem, word[1])), 0)::float8 AS share,
              (SELECT reltuples::float8 FROM pg_class WHERE oid = '{self.source}'::regclass) AS rows
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
            return _Known(1.0, found[0]["rows"], words)
        asked = " & ".join(f"'{row['word']}':*" for row in parting)
        entries = sum(row["share"] for row in parting) * max(0.0, found[0]["rows"])
        return _Known(math.prod(row["share"] for row in parting), entries, asked)

    async def _total(
        self,
        conn: Connection,
        conditions: tuple[str, str],
        values: Sequence[object],
        known: _Known | None,
        *,
        narrowed: bool,
    ) -> tuple[int, bool]:
        """Return how many there are, and whether that was counted."""
        if known is not None and known.entries <= _FEW:
            return await self._count(conn, conditions, *self._indexed(values, known.words)), True
        rest, found = conditions
        seen = await conn.fetchrow(
            f"""
            SELECT count(*) AS read, count(*) FILTER (WHERE {found}) AS found,
              (SELECT reltuples::float8 FROM pg_class WHERE oid = '{self.source}'::regclass) AS rows
            FROM (SELECT * FROM {self.source} WHERE {rest} {self._in(self.default_order)} LIMIT {_SAMPLE}) AS near
            """,
            *values,
        )
        assert seen is not None  # noqa: S101 - an aggregate has one row
        if seen["read"] < _SAMPLE:
            return int(seen["found"]), True
        share = max(known.share if known else 0.0, seen["found"] / seen["read"])
        if not narrowed and share * seen["rows"] > _SURE * EXACT_TOTAL:
            return EXACT_TOTAL + 1, True
        if known is None or share > _DENSE:
            source = self._ordered(rest, self.default_order) if share > _DENSE else self.source
            return await self._count(conn, conditions, values, source), True
        if not narrowed:
            return min(EXACT_TOTAL, max(1, round(share * seen["rows"]))), False
        return await self._count(conn, conditions, *self._indexed(values, known.words)), True

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
