"""Reading the audit trail."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from coordinator.audit import store
from coordinator.web.paging import Page, PageQuery, read_page
from coordinator.web.table import Call, NoBody, Permission, Route, Streamed


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
    """Filters of the trail."""

    actor: str | None = None
    action: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None


async def list_events(call: Call[NoBody, AuditQuery]) -> Page[AuditEvent] | Streamed:
    """List events, newest first."""
    return await read_page(call, store.LISTING, AuditEvent)


ROUTES = [
    Route(
        "GET",
        "/api/v1/audit",
        list_events,
        Permission.AUDIT_READ,
        "List audit events",
        Page[AuditEvent],
        query=AuditQuery,
    )
]
