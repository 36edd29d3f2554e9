"""The rules of saved views: they belong to who saved them, others see those that are shared, and each one works.

That it works is found out by asking the list for one row, as its owner would: whatever it refuses is refused here.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from coordinator.audit import service as audit
from coordinator.database import driver
from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row
from coordinator.saved_views import store
from coordinator.web.paging import PageQuery
from coordinator.web.reading import query_of
from coordinator.web.table import Call, NoBody, Permission, Route
from core.errors import Conflict, FieldError, Forbidden, InvalidInput, NotFound

if TYPE_CHECKING:
    from coordinator.context import Context

MOST, MOST_FILTERS = 200, 50
_ROOT = "/api/v1/"
_OF_PAGES = {"page", "per_page", "cursor", "page_size", "format"}
"""Query parameters that say which part of a list is read, and how: they do not belong to a view."""
Lists = Mapping[str, Route]
Call_ = Call[Any, Any]


def lists_of(routes: list[Route]) -> dict[str, Route]:
    """Return the lists that there can be views of, by the part of their path that names them."""
    found = [r for r in routes if r.method == "GET" and "{" not in r.path and issubclass(r.query, PageQuery)]
    return {route.path.removeprefix(_ROOT): route for route in found}


class Wish(Protocol):
    """What somebody wants to save."""

    name: str
    page: str
    filters: dict[str, str]
    shared: bool


async def values_of(call: Call_, conn: Connection, lists: Lists, body: Wish) -> dict[str, Any]:
    """Return a body's columns after trying the view; raise ``InvalidInput`` that names the filter."""
    route = lists.get(body.page)
    if route is None:
        raise InvalidInput.of("page", f"is {body.page[:40]!r}; there are views of {', '.join(sorted(lists))}")
    if isinstance(route.access, Permission) and route.access not in call.actor.permissions:
        detail = f"the role {call.actor.role!r} does not read {body.page}"
        raise Forbidden(detail)
    if not body.name.strip():
        raise InvalidInput.of("name", "is empty; people find the view by it")
    if len(body.filters) > MOST_FILTERS:
        raise InvalidInput.of("filters", f"are {len(body.filters)}; a view has at most {MOST_FILTERS}")
    for name in _OF_PAGES & set(body.filters):
        raise InvalidInput.of(f"filters.{name}", "says which part of a list to read; a view has none")
    try:
        query = query_of({**body.filters, "per_page": "1"}, route)
        await route.handler(replace(call, ctx=_borrowing(call.ctx, conn), query=query, body=NoBody(), path={}))
    except InvalidInput as error:
        wrong = tuple(FieldError(f"filters.{each.field}", each.problem) for each in error.errors)
        raise InvalidInput(error.detail, errors=wrong) from error
    scope = call.actor.scope
    return {
        "owner": str(call.actor),
        "name": body.name,
        "page": body.page,
        "filters": body.filters,
        "shared": body.shared,
        "teams": None if scope.teams is None else list(scope.teams),
        "environments": None if scope.environments is None else list(scope.environments),
    }


def _borrowing(ctx: Context, conn: Connection) -> Context:
    """Return a context whose database is one connection: a request that holds one must not wait for a second."""
    borrowed = copy.copy(ctx)
    borrowed.db = _Borrowed(conn)  # type: ignore[assignment]  # a list asks for a connection and for nothing else
    return borrowed


class _Borrowed:
    """Stands for the database where one connection is all that is used of it."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend the connection."""
        yield self._conn


async def found(conn: Connection, call: Call_) -> Row:
    """Return the view in the path, if the caller may see it; raise ``NotFound``."""
    view_id = call.path["view_id"]
    row = await store.visible(conn, view_id, store.caller(str(call.actor), call.actor.scope))
    if row is None:
        detail = f"there is no view {view_id}"
        raise NotFound(detail)
    return row


async def own(tx: Transaction, call: Call_) -> Row:
    """Return the view in the path, locked, for its owner to change; raise ``NotFound`` or ``Forbidden``."""
    await found(tx, call)
    row = await store.TABLE.get(tx, call.path["view_id"], lock=True)
    if row is None:
        detail = f"there is no view {call.path['view_id']}"
        raise NotFound(detail)
    if row["owner"] != str(call.actor):
        detail = "this view belongs to somebody else; save one of your own"
        raise Forbidden(detail)
    return row


async def make(call: Call_, view_id: str, values: dict[str, Any]) -> Row:
    """Store a new view; raise ``Conflict`` when the name is taken or there are too many."""
    await store.lock_owner(call.tx, values["owner"])
    if await store.count(call.tx, values["owner"]) >= MOST:
        detail = f"you have {MOST} views; remove some first"
        raise Conflict(detail)
    row = await _written(call.tx, store.TABLE.insert(call.tx, view_id, values))
    await record(call, call.tx, "created", row)
    return row


async def change(call: Call_, tx: Transaction, view_id: str, values: dict[str, Any]) -> Row:
    """Replace a locked view."""
    row = await _written(tx, store.TABLE.replace(tx, view_id, values))
    await record(call, tx, "updated", row)
    return row


async def _written(tx: Transaction, writing: Awaitable[Row]) -> Row:
    try:
        async with tx.savepoint():
            return await writing
    except driver.UniqueViolation as error:
        detail = "you have a view with this name or id already; choose another"
        raise Conflict(detail) from error


async def record(call: Call_, tx: Transaction, what: str, row: Row) -> None:
    """Record a change; filters may hold names of people and stay out of the trail."""
    details = {"name": row["name"], "page": row["page"], "shared": row["shared"]}
    await audit.record(tx, call.actor, f"saved_view.{what}", "saved_view", row["id"], details, call.request_id)
