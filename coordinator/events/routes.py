"""The stream of events over HTTP, as the HTML standard describes server-sent events."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from coordinator.events import service
from coordinator.events.store import Place
from coordinator.web.table import Call, NoBody, Permission, Route, Streamed, Strict
from core.errors import InvalidInput, TooManyRequests

_PLACE = re.compile(r"([0-9]{1,9})\.([0-9]{1,18})\.([0-9]{1,18})")
_HEADERS = {"X-Accel-Buffering": "no"}  # nginx would keep events back


class EventQuery(Strict):
    """``after`` is the id to go on behind, for who cannot send ``Last-Event-ID``, which goes before it.

    With ``resource_id`` only what happened to that.
    """

    after: str | None = None
    resource_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None


async def follow(call: Call[NoBody, EventQuery]) -> Streamed:
    """Follow what happens from now on, or from behind the event that ``Last-Event-ID`` names.

    Events come once and in order, each with the id to go on behind. A comment every 15 seconds says that the connection
    is alive. A stream ends after five minutes; who comes back misses nothing. An event of the type ``reset`` says that
    the last id is not of this trail. Within the caller's scope; who and details are told to who reads the audit trail.
    """
    text = call.headers.get("Last-Event-ID") or call.query.after
    field = "Last-Event-ID" if call.headers.get("Last-Event-ID") else "after"
    place = _place(text, field)
    call.ctx.streams.begin(str(call.actor))
    pieces = service.pieces(call.ctx, call.actor, place, call.query.resource_id)
    return Streamed(pieces, "text/event-stream", _HEADERS)


def _place(text: str | None, field: str) -> Place | None:
    if not text:
        return None
    found = _PLACE.fullmatch(text)
    if found is None:
        raise InvalidInput.of(field, "is not the id of an event of this stream; leave it out to begin now")
    return Place(*map(int, found.groups()))


ROUTES = [
    Route(
        "GET",
        "/api/v1/events",
        follow,
        Permission.READ,
        "Follow what happens",
        None,
        query=EventQuery,
        errors=(TooManyRequests,),
        content_type="text/event-stream",
    )
]
