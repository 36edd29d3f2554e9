"""Following what happens: woken by every coordinator's commits, read from the audit trail, told once and in order."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.audit import service as audit
from coordinator.database.driver import Record as Row
from coordinator.database.listing import EVERYTHING
from coordinator.events import store
from coordinator.events.store import Place
from coordinator.metrics import service as metrics
from coordinator.web.table import Actor, Permission
from core.errors import CertctlError, TooManyRequests

if TYPE_CHECKING:
    from coordinator.context import Context

LONGEST_S = 300.0
"""A stream ends then, and its caller comes back with the last id: a credential that was withdrawn opens no other."""
HEARTBEAT_S = 15.0
REST_S = 0.05
UNSETTLED_S = 0.25
MOST_OF_ONE, MOST = 8, 500
"""Streams of one caller, and of all, on one coordinator."""
_AT_ONCE = 200


class Streams:
    """Who follows events here, and how often."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def begin(self, caller: str) -> None:
        """Count a stream; raise ``TooManyRequests`` when that is one too many."""
        if self._open[caller] >= MOST_OF_ONE or self._open.total() >= MOST:
            detail = (
                f"you follow events {self._open[caller]} times here; at most {MOST_OF_ONE} of one caller, {MOST} of all"
            )
            raise TooManyRequests(detail, retry_after_s=HEARTBEAT_S)
        self._open[caller] += 1
        metrics.event_streams(self._open.total())

    def end(self, caller: str) -> None:
        """Forget a stream."""
        self._open[caller] -= 1
        self._open += Counter()  # without those that are gone
        metrics.event_streams(self._open.total())


class Event(msgspec.Struct, omit_defaults=True):
    """Something that happened. Who reads the audit trail is told by whom, and all of the details."""

    id: int
    at: str
    action: str
    resource_type: str
    resource_id: str
    job_id: str = ""
    target_id: str = ""
    actor: str = ""
    request_id: str = ""
    details: dict[str, Any] = msgspec.field(default_factory=dict)


def reads_the_trail(actor: Actor) -> bool:
    """Say whether somebody may know all that the trail has."""
    return Permission.AUDIT_READ in actor.permissions and actor.scope == EVERYTHING


async def pieces(ctx: Context, actor: Actor, place: Place | None, resource_id: str | None) -> AsyncIterator[bytes]:
    """Yield the stream, from behind a place or from now on; it ends when the time is up or the coordinator stops.

    Who asks has begun it among ``ctx.streams``, and it is ended there with it.
    """
    try:
        async for piece in _pieces(ctx, actor, place, resource_id):
            yield piece
    except CertctlError:  # the database is away; the caller comes back with the last id that it saw
        return
    finally:
        ctx.streams.end(str(actor))


async def _pieces(ctx: Context, actor: Actor, place: Place | None, resource_id: str | None) -> AsyncIterator[bytes]:
    deadline = time.monotonic() + LONGEST_S
    if actor.expires_at is not None:
        deadline = min(deadline, time.monotonic() + (actor.expires_at - ctx.clock.now()).total_seconds())
    with ctx.db.wakeups.subscribe(audit.SEALING) as waiter:
        yield b"retry: 2000\n\n"
        told = time.monotonic()
        while not ctx.stopping and (left := deadline - time.monotonic()) > 0:
            text, place, more, unsettled = await _next(ctx, actor, place, resource_id)
            if text or time.monotonic() - told >= HEARTBEAT_S:
                yield text or f": alive\nid: {place}\n\n".encode()
                told = time.monotonic()
            if more:
                continue
            pause_s = UNSETTLED_S if unsettled else told + HEARTBEAT_S - time.monotonic()
            if await waiter.wait(min(pause_s, left)):
                await asyncio.sleep(REST_S)  # what is committed in the same moment is read at once


async def _next(
    ctx: Context, actor: Actor, place: Place | None, resource_id: str | None
) -> tuple[bytes, Place, bool, bool]:
    """Return what there is to tell, up to which place that is, whether there is more, and whether more will be soon."""
    everything = reads_the_trail(actor)
    async with ctx.db.connection() as conn:
        until = await store.horizon(conn)
        if place is None or place.era != until.era or place.xact > until.xact:
            # Of a time before the database was restored: what happened meanwhile cannot be said.
            begin = Place(until.era, until.xact, 0)
            text = b"" if place is None else f"event: reset\nid: {begin}\ndata: {{}}\n\n".encode()
            return text or f"id: {begin}\n\n".encode(), begin, False, False
        wanted = store.Wanted(place, until, resource_id, everything=everything)
        rows = await store.after(conn, wanted, actor.scope, _AT_ONCE)
    if len(rows) == _AT_ONCE:
        place = Place(until.era, rows[-1]["xact"], rows[-1]["id"])
    else:
        place = Place(until.era, until.xact, 0)
    return (
        b"".join(_told(until.era, row, everything=everything) for row in rows),
        place,
        len(rows) == _AT_ONCE,
        until.open,
    )


def _told(era: int, row: Row, *, everything: bool) -> bytes:
    details = row["details"]
    event = Event(row["id"], row["at"].isoformat(), row["action"], row["resource_type"], row["resource_id"])
    event.job_id, event.target_id = str(details.get("job_id") or ""), str(details.get("target_id") or "")
    if everything:
        event.actor, event.request_id, event.details = row["actor"], row["request_id"], details
    place = Place(era, row["xact"], row["id"])
    return f"id: {place}\ndata: {msgspec.json.encode(event).decode()}\n\n".encode()
