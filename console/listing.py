"""Lists: rows in columns for people, ``{data, total, next_cursor}`` for machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from console.answer import Listing, Parameters
from console.render import Value
from console.session import Session

T = TypeVar("T")


class Column(NamedTuple):
    """A heading, and what stands below it in a row."""

    name: str
    value: Callable[..., Value]


def fetch(session: Session, path: str, query: Parameters | None = None) -> Listing:
    """Return the wanted rows of a list."""
    paging = session.paging
    return session.client.collect(path, query, limit=paging.limit, cursor=paging.cursor)


def show(session: Session, listing: Listing, rows: Sequence[T], columns: Sequence[Column]) -> None:
    """Write a list; ``rows`` are the listing's, decoded."""
    if session.out.as_json:
        session.out.json(msgspec.json.encode(listing))
        return
    if not rows:
        session.out.note("none")
        return
    session.out.table([column.name for column in columns], ([column.value(row) for column in columns] for row in rows))
    if listing.next_cursor:
        total = f"{listing.total}" if listing.total_exact else f"more than {listing.total}"
        session.out.note(f"{len(rows)} of {total}; --all shows the rest")


def show_list(
    session: Session, path: str, kind: type[T], columns: Sequence[Column], query: Parameters | None = None
) -> None:
    """Fetch a list and write it."""
    listing = fetch(session, path, query)
    show(session, listing, [] if session.out.as_json else listing.rows(kind), columns)
