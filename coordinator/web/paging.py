"""Lists: pages by number or by cursor, one shape of answer.

A cursor is the sort key of the last row, ``created_at`` and ``id``, and so stays right when rows are inserted
meanwhile. ``total`` is exact up to 10,000; numbered pages end there too, and cursors go on.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

import msgspec

from coordinator.web.table import Strict
from core.errors import InvalidInput

T = TypeVar("T")
R = TypeVar("R")
MAX_ROWS = 500
EXACT_TOTAL = 10_000


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


class Window(NamedTuple):
    """Which rows to read: ``limit`` rows after the key ``after``, or from ``offset``."""

    limit: int
    offset: int
    after: tuple[datetime, str] | None
    page: int | None


def window(query: PageQuery) -> Window:
    """Check the paging parameters; raise ``InvalidInput`` that names the wrong one."""
    if query.cursor is not None and query.page is not None:
        raise InvalidInput.of("page", "goes with per_page; with a cursor, leave it out")
    size_name = "per_page" if query.page_size is None else "page_size"
    size = query.per_page if query.page_size is None else query.page_size
    size = 50 if size is None else size
    if not 1 <= size <= MAX_ROWS:
        raise InvalidInput.of(size_name, f"is {size}; a page holds 1 to {MAX_ROWS} rows")
    if query.cursor is not None:
        return Window(size, 0, _decode_cursor(query.cursor), None)
    page = 1 if query.page is None else query.page
    if page < 1:
        raise InvalidInput.of("page", "counts from 1")
    if page * size > EXACT_TOTAL:
        raise InvalidInput.of("page", f"page × {size_name} is at most {EXACT_TOTAL}; go on with next_cursor instead")
    return Window(size, (page - 1) * size, None, page)


def page_of(
    rows: Sequence[R], total: int, where: Window, shape: Callable[[R], T], key: Callable[[R], tuple[datetime, str]]
) -> Page[T]:
    """Build the answer from ``limit + 1`` rows: the extra one only tells that there is more."""
    shown = rows[: where.limit]
    more = len(rows) > where.limit
    return Page(
        data=[shape(row) for row in shown],
        total=min(total, EXACT_TOTAL),
        total_exact=total <= EXACT_TOTAL,
        next_cursor=_encode_cursor(*key(shown[-1])) if more else None,
        page=where.page,
        per_page=where.limit,
    )


def _encode_cursor(moment: datetime, row_id: str) -> str:
    return base64.urlsafe_b64encode(f"{moment.isoformat()}|{row_id}".encode()).decode().rstrip("=")


def _decode_cursor(text: str) -> tuple[datetime, str]:
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        moment, _, row_id = raw.partition("|")
        return datetime.fromisoformat(moment), row_id
    except (ValueError, binascii.Error) as error:
        raise InvalidInput.of("cursor", "is not one that this server gave; start again without it") from error
