"""Sending what is queued, each channel by a loop of its own: a receiver that hangs keeps nobody else's message.

A message is sent before that is stored, so that a crash in between sends it again, under the same id: at least once.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from connectors.notifiers.base import DEADLINE_S, Message, Notifier
from coordinator.notifications import channels, store
from coordinator.web.paging import of_row
from core.crash import crash_point
from core.errors import CertctlError

if TYPE_CHECKING:
    from coordinator.context import Context
    from coordinator.database.driver import Record as Row

log = structlog.get_logger()
ATTEMPTS = 10
FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)
_LEASE = timedelta(seconds=3 * DEADLINE_S)
_AT_ONCE = 20


async def deliver(ctx: Context, channel: str) -> float | None:
    """Send what is due on a channel; return the seconds until the next is, None without any. Any replica may run it."""
    while True:
        async with ctx.db.transaction() as tx:
            rows = await store.take(tx, channel, _AT_ONCE, _LEASE)
            if rows:
                crash_point("notification.taken")
        async with asyncio.TaskGroup() as group:
            for row in rows:
                group.create_task(_deliver(ctx, channels.notifier(ctx.settings, channel), row))
        if len(rows) < _AT_ONCE:
            break
    async with ctx.db.connection() as conn:
        return await store.seconds_to_next(conn, channel)


async def _deliver(ctx: Context, notifier: Notifier | None, row: Row) -> None:
    error = channels.missing(row["channel"])
    if notifier is not None:
        try:
            await notifier.send(of_row(Message, row), row["recipient"])
        except CertctlError as failure:
            error = failure.detail
        else:
            error = ""
            crash_point("notification.sent")
    async with ctx.db.transaction() as tx:
        if error:
            pause = pause_after(row["retry_count"])
            await store.failed(tx, row["id"], error, pause)
            about = {"notification_id": row["id"], "channel": row["channel"], "attempt": row["retry_count"]}
            log.warning("notification_not_sent", **about, dead=pause is None, error=error)
        else:
            await store.sent(tx, row["id"])
        crash_point("notification.stored")


def pause_after(attempts: int) -> timedelta | None:
    """Return how long to wait after so many attempts in vain; None when there were enough."""
    if attempts >= ATTEMPTS:
        return None
    return min(FIRST_PAUSE * (1 << (attempts - 1)), LONGEST_PAUSE)
