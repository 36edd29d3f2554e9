"""Reading the audit trail."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

import msgspec

from coordinator.audit import store
from coordinator.web.paging import Page, PageQuery, read_page
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Streamed
from core.errors import InvalidInput, NotFound

_EVENT_ID = "[0-9]{1,18}"
Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class AuditEvent(msgspec.Struct):
    """One thing that happened."""

    id: int
    at: datetime
    actor: str
    action: str
    resource_type: str
    resource_id: str
    request_id: str
    details: dict[str, Any]


class AuditQuery(PageQuery):
    """Filters of the trail; ``from`` is the first instant that counts, ``to`` the first that does not any more."""

    actor: Annotated[str, msgspec.Meta(pattern="^(system|anonymous|(key|agent):[a-z0-9-]{1,64})$")] | None = None
    action: Annotated[str, msgspec.Meta(pattern=r"^[a-z_]{1,64}\.[a-z_]{1,64}$")] | None = None
    resource_type: Annotated[str, msgspec.Meta(pattern="^[a-z_]{1,64}$")] | None = None
    resource_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None
    request_id: Annotated[str, msgspec.Meta(pattern="^req-[a-z0-9]{1,64}$")] | None = None
    since: Instant | None = msgspec.field(name="from", default=None)
    until: Instant | None = msgspec.field(name="to", default=None)


async def list_events(call: Call[NoBody, AuditQuery]) -> Page[AuditEvent] | Streamed:
    """List events, newest first."""
    query = call.query
    if query.since is not None and query.until is not None and query.since >= query.until:
        raise InvalidInput.of("to", "is not after 'from'")
    return await read_page(call, store.LISTING, AuditEvent)


async def get(call: Call[NoBody, NoQuery]) -> AuditEvent:
    """Return one event."""
    event_id, row = call.path["event_id"], None
    if re.fullmatch(_EVENT_ID, event_id):
        async with call.ctx.db.connection() as conn:
            row = await store.get(conn, int(event_id))
    if row is None:
        detail = f"there is no audit event {event_id}"
        raise NotFound(detail)
    return AuditEvent(**row)


ROUTES = [
    Route(
        "GET",
        "/api/v1/audit",
        list_events,
        Permission.AUDIT_READ,
        "List audit events",
        Page[AuditEvent],
        query=AuditQuery,
        listing=store.LISTING,
    ),
    Route(
        "GET",
        "/api/v1/audit/{event_id}",
        get,
        Permission.AUDIT_READ,
        "Get an audit event",
        AuditEvent,
        errors=(NotFound,),
    ),
]
