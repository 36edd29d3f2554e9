"""Reading the audit trail."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from coordinator.audit import store
from coordinator.database.listing import EXACT_TOTAL, Rows
from coordinator.web.paging import Page, PageQuery, page_of, window
from coordinator.web.table import Call, NoBody, Permission, Route

_EVENT_ID = "[0-9]{1,18}"


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


async def list_events(call: Call[NoBody, AuditQuery]) -> Page[AuditEvent]:
    """List events, newest first."""
    where, query = window(call.query, _EVENT_ID), call.query
    filters = {name: getattr(query, name) for name in ("actor", "action", "resource_type", "resource_id")}
    before = int(where.after[1]) if where.after else None
    async with call.ctx.db.connection() as conn:
        found = await store.select(conn, filters, where.limit + 1, where.offset, before)
        rows = Rows(found, await store.count(conn, filters, EXACT_TOTAL + 1))
    return page_of(rows, where, lambda row: AuditEvent(**row), "at")


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
