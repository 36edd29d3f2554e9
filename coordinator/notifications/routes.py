"""Notifications over HTTP: what was told, what has not arrived, what nobody has seen."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from coordinator.database.listing import Window
from coordinator.notifications import service, store
from coordinator.web.paging import Page, PageQuery, of_row, read_page
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Streamed
from core.errors import Conflict, NotFound

Status = Literal["pending", "failed", "sent", "dead"]
Type = Literal["certificate_expiring", "certificate_failing", "certificate_drifted",
               "approval_requested", "approval_rejected", "approval_expired",
               "policy_violation", "agent_offline", "agent_online"]  # fmt: skip


class Notification(msgspec.Struct):
    """One message on one channel.

    ``status``: ``failed`` is tried again at ``next_retry_at``, ``dead`` is not, unless it is requeued. ``read_at`` says
    when somebody has seen it here.
    """

    id: str
    type: str
    severity: str
    certificate_id: str | None
    channel: str
    recipient: str
    subject: str
    message: str
    status: Status
    retry_count: int
    next_retry_at: datetime | None
    last_error: str
    sent_at: datetime | None
    read_at: datetime | None
    created_at: datetime


class NotificationQuery(PageQuery):
    """Filters of the list of notifications."""

    status: Status | None = None
    type: Type | None = None
    severity: Literal["info", "warning", "error", "critical"] | None = None
    channel: str | None = None
    certificate_id: str | None = None
    unread: bool | None = None


class NotificationCounts(msgspec.Struct):
    """How many there are; exact up to 10,000, one more stands for whatever is beyond."""

    unread: int
    pending: int
    failed: int
    dead: int


async def list_notifications(call: Call[NoBody, NotificationQuery]) -> Page[Notification] | Streamed:
    """List notifications, newest first."""
    return await read_page(call, store.LISTING, Notification)


async def counts(call: Call[NoBody, NoQuery]) -> NotificationCounts:
    """Count what wants to be looked at."""
    wanted: dict[str, dict[str, object]] = {status: {"status": status} for status in ("pending", "failed", "dead")}
    wanted["unread"] = {"unread": True}
    where = Window(1, 0, None, None, store.LISTING.default_order)
    async with call.ctx.db.connection() as conn:
        found = {
            name: (await store.LISTING.read(conn, where, filters, call.actor.scope)).total
            for name, filters in wanted.items()
        }
    return NotificationCounts(**found)


async def get(call: Call[NoBody, NoQuery]) -> Notification:
    """Return one notification."""
    return await _one(call)


async def read(call: Call[NoBody, NoQuery]) -> Notification:
    """Mark a notification as seen."""
    async with call.ctx.db.transaction() as tx:
        await service.read(tx, call.actor, _id(call), call.request_id)
    return await _one(call)


async def requeue(call: Call[NoBody, NoQuery]) -> Notification:
    """Send a notification again that has not arrived."""
    async with call.ctx.db.transaction() as tx:
        await service.requeue(tx, call.actor, _id(call), call.request_id)
    return await _one(call)


async def _one(call: Call[Any, Any]) -> Notification:
    async with call.ctx.db.connection() as conn:
        return of_row(Notification, await service.found(conn, _id(call), call.actor.scope))


def _id(call: Call[Any, Any]) -> str:
    return call.path["notification_id"]


_ALL = "/api/v1/notifications"
_ONE = f"{_ALL}/{{notification_id}}"
ROUTES = [
    Route("GET", _ALL, list_notifications, Permission.READ, "List notifications", Page[Notification],
          query=NotificationQuery),
    Route("GET", f"{_ALL}/counts", counts, Permission.READ, "Count notifications", NotificationCounts),
    Route("GET", _ONE, get, Permission.READ, "Get a notification", Notification, errors=(NotFound,)),
    Route("POST", f"{_ONE}/read", read, Permission.NOTIFICATIONS_WRITE, "Mark a notification as seen", Notification,
          errors=(NotFound,)),
    Route("POST", f"{_ONE}/requeue", requeue, Permission.NOTIFICATIONS_WRITE, "Send a notification again",
          Notification, errors=(NotFound, Conflict)),
]  # fmt: skip
