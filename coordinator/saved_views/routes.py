"""Saved views over HTTP: everybody's own, and those that others share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import msgspec

from coordinator.database.driver import Record as Row
from coordinator.saved_views import service, store
from coordinator.web import etag
from coordinator.web.paging import Page, PageQuery, read_page
from coordinator.web.resource import body_with_id, merged, patch_of
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Streamed, Strict
from core.errors import Conflict, Forbidden, NotFound, PreconditionFailed
from core.ids import check_chosen, new_id

_ALL, _PREFIX = "/api/v1/views", "sv"
Word = Annotated[str, msgspec.Meta(max_length=64)]
Text = Annotated[str, msgspec.Meta(max_length=1000)]


class SavedViewBody(Strict):
    """A list by its path below ``/api/v1/``, and the query parameters that filter and sort it.

    They are tried when the view is saved. A shared one is seen by others, whose own scope decides what they find.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    page: Annotated[str, msgspec.Meta(max_length=64)] = "certificates"
    filters: dict[Word, Text] = msgspec.field(default_factory=dict)
    shared: bool = False


class SavedView(msgspec.Struct):
    """A view; ``owner`` is who saved it and alone may change it."""

    id: str
    owner: str
    name: str
    page: str
    filters: dict[str, str]
    shared: bool
    revision: int
    created_at: datetime
    updated_at: datetime


class SavedViewQuery(PageQuery):
    """Filters of the list of views."""

    name: str | None = None
    page_of: str | None = None
    mine: bool | None = None


CreateSavedView = body_with_id(SavedViewBody, "CreateSavedView", _PREFIX)
SavedViewPatch = patch_of(SavedViewBody)


def _shape(row: Row) -> SavedView:
    return SavedView(**{name: row[name] for name in SavedView.__struct_fields__})


async def list_views(call: Call[NoBody, SavedViewQuery]) -> Page[SavedView] | Streamed:
    """List one's own views and those that others share; with ``mine`` only one's own."""
    owner = str(call.actor)
    conditions: dict[str, Any] = {
        "visible": store.caller(owner, call.actor.scope),
        "mine": owner if call.query.mine else None,
        "page": call.query.page_of,
        "page_of": None,
    }
    return await read_page(call, store.LISTING, SavedView, **conditions)


async def get(call: Call[NoBody, NoQuery]) -> SavedView:
    """Return one view; its ETag is its revision."""
    async with call.ctx.db.connection() as conn:
        return _shape(await service.found(conn, call))


async def remove(call: Call[NoBody, NoQuery]) -> None:
    """Remove a view of one's own."""
    async with call.ctx.db.transaction() as tx:
        row = await service.own(tx, call)
        etag.check(call, row)
        await store.TABLE.remove(tx, row["id"])
        await service.record(call, tx, "removed", row)


def routes_over(lists: service.Lists) -> list[Route]:
    """Return the routes of views of these lists."""

    async def create(call: Call[Any, NoQuery]) -> SavedView:
        """Save a view of one's own."""
        view_id = new_id(_PREFIX) if call.body.id is None else check_chosen(_PREFIX, call.body.id)
        values = await service.values_of(call, call.tx, lists, call.body)
        return _shape(await service.make(call, view_id, values))

    async def changed(call: Call[Any, NoQuery], body_of: Callable[[Row], SavedViewBody]) -> SavedView:
        async with call.ctx.db.transaction() as tx:
            row = await service.own(tx, call)
            etag.check(call, row)
            values = await service.values_of(call, tx, lists, body_of(row))
            return _shape(await service.change(call, tx, row["id"], values))

    async def replace(call: Call[SavedViewBody, NoQuery]) -> SavedView:
        """Replace a view of one's own."""
        return await changed(call, lambda _row: call.body)

    async def merge(call: Call[Any, NoQuery]) -> SavedView:
        """Change parts of a view of one's own (RFC 7396)."""
        return await changed(call, lambda row: merged(SavedViewBody, row, call.body))

    read, write, one, changes = (
        Permission.READ,
        Permission.VIEWS,
        f"{_ALL}/{{view_id}}",
        (NotFound, Forbidden, PreconditionFailed, Conflict),
    )
    return [
        Route("GET", _ALL, list_views, read, "List saved views", Page[SavedView], query=SavedViewQuery),
        Route("POST", _ALL, create, write, "Save a view", SavedView, CreateSavedView, status=201, errors=(Conflict,)),
        Route("GET", one, get, read, "Get a saved view", SavedView, errors=(NotFound,)),
        Route("PUT", one, replace, write, "Replace a saved view", SavedView, SavedViewBody, errors=changes),
        Route("PATCH", one, merge, write, "Change parts of a saved view", SavedView, SavedViewPatch, errors=changes),
        Route("DELETE", one, remove, write, "Remove a saved view", None, status=204, errors=changes),
    ]
