"""Lists: pages by number or by cursor, sorted, filtered, as JSON, CSV or JSON Lines; one shape of answer.

A query struct's fields beyond those of ``PageQuery`` are the list's filters, by name. A cursor is the sort and the key
of the last row, and so stays right when rows are inserted meanwhile. ``total`` is exact up to 10,000 but
for some searches; numbered pages end there too, and cursors go on.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import EXACT_TOTAL, After, Listing, Order, Rows, Window
from coordinator.web import tables
from coordinator.web.table import Call, Streamed, Strict
from core.errors import InvalidInput

T = TypeVar("T", bound=msgspec.Struct)
MAX_ROWS = 500
_ROW_ID = r"[a-z0-9-]{1,64}"
_MOST_KEY = 2000
Shape = Callable[[Connection, Sequence[Row]], Awaitable[list[T]]]
"""Turns rows into what is answered; all of a page at once, so that what belongs to them takes one statement."""


def _said(description: str, **schema: int) -> msgspec.Meta:
    """Describe a parameter; its bounds are checked further down, with the remedy."""
    return msgspec.Meta(description=description, extra_json_schema=dict(schema))


_SIZE = {"minimum": 1, "maximum": MAX_ROWS}


class PageQuery(Strict):
    """Query parameters of every list: ``page`` and ``per_page``, or ``cursor`` and ``page_size``.

    ``sort`` names a column, with ``-`` in front from the highest value down. ``fields`` is a comma list of what each
    row shall have. ``format`` csv or jsonl streams the whole list.
    """

    page: Annotated[int, _said("The page's number, with per_page.", minimum=1)] | None = None
    per_page: Annotated[int, _said("Rows of a page, with page.", **_SIZE)] | None = None
    cursor: Annotated[str, _said("An earlier answer's next_cursor.")] | None = None
    page_size: Annotated[int, _said("Rows of a page, with cursor.", **_SIZE)] | None = None
    sort: Annotated[str, _said("What the rows are sorted by; with - in front from the highest down.")] | None = None
    fields: Annotated[str, _said("The fields of a row that are wanted, a comma list.")] | None = None
    format: Annotated[Literal["json", "csv", "jsonl"], _said("csv and jsonl stream all rows, whatever the page.")] = (
        "json"
    )


class Page(msgspec.Struct, Generic[T], kw_only=True):
    """A page of a list. ``next_cursor`` is null on the last one."""

    data: list[T]
    total: int
    total_exact: bool
    next_cursor: str | None
    page: int | None
    per_page: int


def filters_of(query: PageQuery) -> dict[str, Any]:
    """Return the filters of a list's query by name, those that are not given as None."""
    own = set(query.__struct_fields__) - set(PageQuery.__struct_fields__)
    return {name: getattr(query, name) for name in query.__struct_fields__ if name in own}


def plain(view: type[T]) -> Shape[T]:
    """Return the shape of rows whose columns are the fields of what is answered."""

    async def shape(_conn: Connection, rows: Sequence[Row]) -> list[T]:
        return [of_row(view, row) for row in rows]

    return shape


def of_row(view: type[T], row: Row) -> T:
    """Return a row's columns as a struct with fields of the same names."""
    return view(**{name: row[name] for name in view.__struct_fields__})


async def read_page(
    call: Call[Any, Any], listing: Listing, view: type[T], shape: Shape[T] | None = None, **filters: Any
) -> Page[T] | Streamed:
    """Return the page of a list that a call's query asks for, each row as a ``view``.

    ``filters`` are those that do not stand in the query.
    """
    query: PageQuery = call.query
    wanted, shape = {**filters_of(query), **filters}, shape or plain(view)
    chosen = _chosen_fields(query, view)
    where = window(query, listing)
    if query.format != "json":
        pieces = _pieces(call, listing, shape, wanted)
        return tables.streamed(query.format, chosen or view.__struct_fields__, pieces)
    async with call.ctx.db.connection() as conn:
        rows = await listing.read(conn, where, wanted, call.actor.scope)
        shown = await shape(conn, rows.found[: where.limit])
    page = page_of(rows, where, shown)
    return page if chosen is None else _sparse(page, chosen)


async def _pieces(
    call: Call[Any, Any], listing: Listing, shape: Shape[T], wanted: dict[str, Any]
) -> AsyncIterator[list[T]]:
    order = _order(call.query, listing)
    async with call.ctx.db.connection() as conn:
        async for rows in listing.stream(conn, order, wanted, call.actor.scope):
            yield await shape(conn, rows)


def window(query: PageQuery, listing: Listing) -> Window:
    """Check the paging parameters; raise ``InvalidInput`` that names the wrong one."""
    if query.cursor is not None and query.page is not None:
        raise InvalidInput.of("page", "goes with per_page; with a cursor, leave it out")
    size_name = "per_page" if query.page_size is None else "page_size"
    size = query.per_page if query.page_size is None else query.page_size
    size = 50 if size is None else size
    if not 1 <= size <= MAX_ROWS:
        raise InvalidInput.of(size_name, f"is {size}; a page holds 1 to {MAX_ROWS} rows")
    order = _order(query, listing)
    if query.cursor is not None:
        return Window(size, 0, _decode_cursor(query.cursor, listing, order), None, order)
    page = 1 if query.page is None else query.page
    if page < 1:
        raise InvalidInput.of("page", "counts from 1")
    if page * size > EXACT_TOTAL:
        raise InvalidInput.of("page", f"page × {size_name} is at most {EXACT_TOTAL}; go on with next_cursor instead")
    return Window(size, (page - 1) * size, None, page, order)


def page_of(rows: Rows, where: Window, shown: list[T]) -> Page[T]:
    """Build the answer; the one row beyond the limit only tells that there is more."""
    more = len(rows.found) > where.limit
    return Page(
        data=shown,
        total=min(rows.total, EXACT_TOTAL),
        total_exact=rows.exact and rows.total <= EXACT_TOTAL,
        next_cursor=_encode_cursor(where.order, rows.found[where.limit - 1]) if more else None,
        page=where.page,
        per_page=where.limit,
    )


def _order(query: PageQuery, listing: Listing) -> Order:
    if query.sort is None:
        return listing.default_order
    name = query.sort.removeprefix("-")
    if name not in listing.sorts:
        raise InvalidInput.of("sort", f"is {query.sort[:40]!r}; this list is sorted by {', '.join(listing.sorts)}")
    return Order(name, query.sort.startswith("-"))


def _chosen_fields(query: PageQuery, view: type[msgspec.Struct]) -> tuple[str, ...] | None:
    if query.fields is None:
        return None
    chosen = tuple(dict.fromkeys(query.fields.split(",")))
    for name in chosen:
        if name not in view.__struct_fields__:
            raise InvalidInput.of("fields", f"there is no {name[:40]!r}; there are {', '.join(view.__struct_fields__)}")
    return chosen


def _sparse(page: Page[T], chosen: tuple[str, ...]) -> Page[Any]:
    return msgspec.structs.replace(page, data=[{name: getattr(row, name) for name in chosen} for row in page.data])


def _encode_cursor(order: Order, row: Row) -> str:
    words = [order.name, order.descending, row["sort_key"], str(row["id"])]
    return base64.urlsafe_b64encode(msgspec.json.encode(words)).decode().rstrip("=")


def _decode_cursor(text: str, listing: Listing, order: Order) -> After:
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        name, descending, key, row_id = msgspec.json.decode(raw, type=tuple[str, bool, str, str])
    except (ValueError, msgspec.MsgspecError) as error:
        raise _foreign_cursor() from error
    pattern = f"{listing.id_prefix}-{_ROW_ID}" if listing.id_prefix else "[0-9]{1,18}"
    if not re.fullmatch(pattern, row_id) or len(key) > _MOST_KEY or "\0" in key or not _reads(listing, name, key):
        raise _foreign_cursor()
    if Order(name, descending) != order:
        raise InvalidInput.of("cursor", "belongs to another sort; ask with the sort that it came from")
    return After(key, row_id)


_KEYS = {
    "text": r"(?s:.*)",
    "bigint": r"-?[0-9]{1,18}",
    "timestamptz": r"infinity|\d{4,6}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?\+00",
}
"""What PostgreSQL writes for a sort key of each type; anything else would be an error of a statement."""


def _reads(listing: Listing, name: str, key: str) -> bool:
    return name in listing.sorts and re.fullmatch(_KEYS[listing.sorts[name].type], key) is not None


def _foreign_cursor() -> InvalidInput:
    return InvalidInput.of("cursor", "is not one that this list gave; start again without it")
