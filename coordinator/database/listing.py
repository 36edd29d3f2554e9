"""Lists, read in one way: sorted as asked for, by number or after a row, with the filters that were given.

A store says what its list is made of; the statement is put together from that, so that the planner sees only the
conditions that hold. Nothing of a request becomes SQL text: values are arguments, names of filters and sorts are the
store's. A list goes on after a row by that row's sort key and id, and so stays right when rows come in meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from coordinator.database.connection import Connection
from coordinator.database.driver import Record

EXACT_TOTAL = 10_000
"""Totals are exact up to here; counting on would cost more than it tells."""
PIECE = 500
"""Rows that a stream reads at a time."""


class Sort(NamedTuple):
    """What a list can be sorted by: an SQL expression that is never null, and its type."""

    sql: str
    type: str = "text"


CREATED = Sort("created_at", "timestamptz")


class After(NamedTuple):
    """The row that a page goes on after: its sort key in PostgreSQL's own words, and its id."""

    key: str
    id: str


class Order(NamedTuple):
    """A sort by its name, and its direction."""

    name: str
    descending: bool = True


class Window(NamedTuple):
    """Which rows to read: ``limit`` rows after a row, or from ``offset``."""

    limit: int
    offset: int
    after: After | None
    page: int | None
    order: Order


class Scope(NamedTuple):
    """What a caller may see: the teams and the environments, None where any."""

    teams: tuple[str, ...] | None = None
    environments: tuple[str, ...] | None = None

    def covers(self, other: Scope) -> bool:
        """Say whether whoever has this scope sees all that the other one lets see."""
        pairs = ((self.teams, other.teams), (self.environments, other.environments))
        return all(ours is None or (theirs is not None and set(theirs) <= set(ours)) for ours, theirs in pairs)

    def misses(self, team_id: str, environment: str) -> str:
        """Return which field of a thing with this team and environment lies outside; empty when it may be seen."""
        if self.teams is not None and team_id not in self.teams:
            return "team_id"
        if self.environments is not None and environment not in self.environments:
            return "environment"
        return ""


EVERYTHING = Scope()


def within(scope: Scope, values: list[object], table: str = "") -> str:
    """Return the condition of a scope on a table's team and environment; its values are added to the arguments."""
    conditions = ["true"]
    for column, allowed in (("team_id", scope.teams), ("environment", scope.environments)):
        if allowed is not None:
            values.append(list(allowed))
            conditions.append(f"{table and f'{table}.'}{column} = ANY(${len(values)})")
    return " AND ".join(conditions)


class Rows(NamedTuple):
    """One row more than the window's limit if there is more, and how many match, at most one more than is exact.

    That is an estimate unless ``exact``.
    """

    found: list[Record]
    total: int
    exact: bool = True


@dataclass(frozen=True)
class Listing:
    """A list of ``columns`` of ``source``; ``id_prefix`` is that of its rows' ids.

    ``filters`` are conditions by name, with ``{}`` where the value stands. The first of ``sorts`` is the default, from
    its highest value down. ``team`` and ``environment`` are the columns that a caller's scope is held against, those of
    another table where ``within`` says how its rows lead to these, with ``{}`` for the condition.
    """

    columns: str
    source: str
    id_prefix: str
    filters: Mapping[str, str] = field(default_factory=dict)
    sorts: Mapping[str, Sort] = field(default_factory=lambda: {"created_at": CREATED})
    id: str = "id"
    id_type: str = "text"
    always: str = "true"
    team: str = ""
    environment: str = ""
    within: str = "{}"

    @property
    def default_order(self) -> Order:
        """Return how the list is sorted unless asked otherwise."""
        return Order(next(iter(self.sorts)))

    async def read(
        self, conn: Connection, where: Window, wanted: Mapping[str, object], scope: Scope = EVERYTHING
    ) -> Rows:
        """Return the rows of a window and the total of the list; a filter that is None does not filter."""
        matching, values = self.matching(wanted, scope)
        rows = await self._rows(conn, where, matching, values)
        if self._is_end(where, rows):
            return Rows(rows, where.offset + len(rows))
        # Always in the default order, which follows every filter in its index; the planner would otherwise take the
        # table as it lies, or the order of another sort, and what matches may lie far away there.
        order = self._in(self.default_order)
        counted = f"SELECT FROM {self.source} WHERE {matching} {order} LIMIT {EXACT_TOTAL + 1}"
        return Rows(rows, int(await conn.fetchval(f"SELECT count(*) FROM ({counted}) AS matches", *values)))

    async def get(
        self, conn: Connection, row_id: str, wanted: Mapping[str, object], scope: Scope = EVERYTHING
    ) -> Record | None:
        """Return the row with this id, if the list has it."""
        matching, values = self.matching(wanted, scope)
        statement = f"SELECT {self.columns} FROM {self.source} WHERE {matching} AND {self.id} = ${len(values) + 1}"
        return await conn.fetchrow(statement, *values, row_id)

    async def stream(
        self, conn: Connection, order: Order, wanted: Mapping[str, object], scope: Scope = EVERYTHING
    ) -> AsyncIterator[list[Record]]:
        """Yield all rows, some at a time, each piece by a statement of its own."""
        matching, values = self.matching(wanted, scope)
        after: After | None = None
        while True:
            found = await self._rows(conn, Window(PIECE - 1, 0, after, None, order), matching, values)
            if found:
                yield found
            if len(found) < PIECE:
                return
            after = After(found[-1]["sort_key"], str(found[-1]["id"]))

    def matching(self, wanted: Mapping[str, object], scope: Scope = EVERYTHING) -> tuple[str, list[object]]:
        """Return the condition of the filters that are given and of the scope, with its arguments."""
        conditions, values = [self.always], list[object]()
        for name, value in wanted.items():
            if value is not None:
                values.append(value)
                conditions.append(self.filters[name].format(f"${len(values)}"))
        inside = list[str]()
        for column, allowed in ((self.team, scope.teams), (self.environment, scope.environments)):
            if column and allowed is not None:
                values.append(list(allowed))
                inside.append(f"{column} = ANY(${len(values)})")
        if inside:
            conditions.append(self.within.format(" AND ".join(inside)))
        return " AND ".join(conditions), values

    def holds(self, row: Record, scope: Scope) -> bool:
        """Say whether a row lies within a scope, as ``matching`` does for lists."""
        pairs = ((self.team, scope.teams), (self.environment, scope.environments))
        return all(not column or allowed is None or row[column] in allowed for column, allowed in pairs)

    async def _rows(self, conn: Connection, where: Window, matching: str, values: Sequence[object]) -> list[Record]:
        beyond, tail, arguments = self._window(where, values)
        columns = self._columns(where.order)
        return await conn.fetch(f"SELECT {columns} FROM {self.source} WHERE {matching}{beyond} {tail}", *arguments)

    def _window(self, where: Window, values: Sequence[object]) -> tuple[str, str, list[object]]:
        """Return what follows the conditions: one more, after a row; order and limit; and all arguments."""
        sort, arguments, beyond = self.sorts[where.order.name], [*values, where.limit + 1], ""
        tail = f"{self._in(where.order)} LIMIT ${len(arguments)}"
        if where.after is not None:
            arguments += where.after
            key = f"${len(arguments) - 1}::text::{sort.type}, ${len(arguments)}::text::{self.id_type}"
            beyond = f" AND ({sort.sql}, {self.id}) {'<' if where.order.descending else '>'} ({key})"
        elif where.offset:
            arguments.append(where.offset)
            tail += f" OFFSET ${len(arguments)}"
        return beyond, tail, arguments

    def _columns(self, order: Order) -> str:
        return f"{self.columns}, ({self.sorts[order.name].sql})::text AS sort_key"

    def _in(self, order: Order) -> str:
        direction = "DESC" if order.descending else "ASC"
        return f"ORDER BY {self.sorts[order.name].sql} {direction}, {self.id} {direction}"

    @staticmethod
    def _is_end(where: Window, rows: Sequence[Record]) -> bool:
        """Say whether these rows are the list's last, so that there is nothing left to count."""
        return where.after is None and (bool(rows) or not where.offset) and len(rows) <= where.limit
