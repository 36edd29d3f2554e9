"""Lists: pages by number or by cursor, one shape of answer.

A cursor is the sort key of the last row, ``created_at`` and ``id``, and so stays right when rows are inserted
meanwhile. ``total`` is exact up to 10,000; numbered pages end there too, and cursors go on.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import msgspec

from coordinator.database.driver import Record as Row
from coordinator.database.listing import EXACT_TOTAL, Listing, Rows, Window
from coordinator.web.table import Call, Strict
from core.errors import InvalidInput

T = TypeVar("T")
MAX_ROWS = 500
_ROW_ID = r"[a-z0-9-]{1,64}"


class PageQuery(Strict):
    """Query parameters of every list: ``page`` and ``per_page``, or ``cursor`` and ``page_size``."""

    page: int | None = None
    per_page: int | None = None
    cursor: str | None = None
    page_size: int | None = None


class Page(msgspec.Struct, Generic[T], kw_only=True):
    """A page of a list. ``next_cursor`` is null on the last one."""

    data: list[T]
    total: int
    total_exact: bool
    next_cursor: str | None
    page: int | None
    per_page: int


def window(query: PageQuery, row_id: str = _ROW_ID) -> Window:
    """Check the paging parameters; raise ``InvalidInput`` that names the wrong one.

    ``row_id`` is the pattern of the ids of the list's rows: a cursor of another list is refused by it.
    """
    if query.cursor is not None and query.page is not None:
        raise InvalidInput.of("page", "goes with per_page; with a cursor, leave it out")
    size_name = "per_page" if query.page_size is None else "page_size"
    size = query.per_page if query.page_size is None else query.page_size
    size = 50 if size is None else size
    if not 1 <= size <= MAX_ROWS:
        raise InvalidInput.of(size_name, f"is {size}; a page holds 1 to {MAX_ROWS} rows")
    if query.cursor is not None:
        return Window(size, 0, _decode_cursor(query.cursor, row_id), None)
    page = 1 if query.page is None else query.page
    if page < 1:
        raise InvalidInput.of("page", "counts from 1")
    if page * size > EXACT_TOTAL:
        raise InvalidInput.of("page", f"page × {size_name} is at most {EXACT_TOTAL}; go on with next_cursor instead")
    return Window(size, (page - 1) * size, None, page)


async def read_page(
    call: Call[Any, Any], listing: Listing, shape: Callable[[Row], T], **filters: str | None
) -> Page[T]:
    """Return the page of a list that a call's query asks for, each row in the ``shape`` of the answer."""
    where = list_window(call.query, listing)
    async with call.ctx.db.connection() as conn:
        rows = await listing.read(conn, where, **filters)
    return page_of(rows, where, shape, listing.moment)


def list_window(query: PageQuery, listing: Listing) -> Window:
    """Return which rows of a list a query asks for."""
    return window(query, f"{listing.id_prefix}-{_ROW_ID}")


def page_of(rows: Rows, where: Window, shape: Callable[[Row], T], moment: str = "created_at") -> Page[T]:
    """Build the answer; the one row beyond the limit only tells that there is more."""
    shown = rows.found[: where.limit]
    more = len(rows.found) > where.limit
    return Page(
        data=[shape(row) for row in shown],
        total=min(rows.total, EXACT_TOTAL),
        total_exact=rows.total <= EXACT_TOTAL,
        next_cursor=_encode_cursor(shown[-1][moment], shown[-1]["id"]) if more else None,
        page=where.page,
        per_page=where.limit,
    )


def _encode_cursor(moment: datetime, row_id: object) -> str:
    return base64.urlsafe_b64encode(f"{moment.isoformat()}|{row_id}".encode()).decode().rstrip("=")


def _decode_cursor(text: str, row_id: str) -> tuple[datetime, str]:
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        moment, _, found = raw.partition("|")
        key = datetime.fromisoformat(moment).astimezone(UTC), found
    except (ValueError, OverflowError) as error:
        raise _foreign_cursor() from error
    if datetime.fromisoformat(moment).tzinfo is None or not re.fullmatch(row_id, found):
        raise _foreign_cursor()
    return key


def _foreign_cursor() -> InvalidInput:
    return InvalidInput.of("cursor", "is not one that this list gave; start again without it")
