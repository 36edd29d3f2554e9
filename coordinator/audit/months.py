"""The months that events are kept in: made ahead, and dropped when retention says so.

A month goes as a whole, with the coordinator's signature on its going; what the chain says of its events stays. Without
that signature a missing month is a hole, whoever had the right to make it.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import structlog

from coordinator.access.service import SYSTEM
from coordinator.audit import service, store
from core import trail
from core.crash import crash_point

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger()
MONTHS_AHEAD = 3


async def keep(ctx: Context) -> None:
    """Make the months to come and drop those whose retention is over."""
    async with ctx.db.connection() as conn:
        today = (await store.now(conn)).date()
        expired = await store.expired_months(conn)
    for month in months_from(today, MONTHS_AHEAD):
        await _make(ctx, month)
    for month in expired:
        await _drop(ctx, month)


def months_from(day: date, ahead: int) -> list[date]:
    """Return the first days of the month of ``day`` and of as many after it."""
    first = day.year * 12 + day.month - 1
    return [date(number // 12, number % 12 + 1, 1) for number in range(first, first + ahead + 1)]


async def _make(ctx: Context, month: date) -> None:
    async with ctx.db.transaction() as tx:
        made = await store.make_month(tx, month)
        if made:
            crash_point("audit.month_made")
    if made:
        log.info("audit_month_made", month=month.isoformat())


async def _drop(ctx: Context, month: date) -> None:
    assert ctx.trail.key is not None  # noqa: S101 - nothing is served before it is there
    async with ctx.db.transaction() as tx:
        at = await store.now(tx)
        signature = trail.sign_month(ctx.trail.key, month, at)
        dropped = await store.drop_month(tx, month, at, ctx.trail.key_id, signature)
        if dropped:
            details = {"month": month, "retention": str(ctx.settings.audit_retention or "")}
            await service.record(tx, SYSTEM, "audit.month_dropped", "audit", f"{month:%Y-%m}", details)
            crash_point("audit.month_dropped")
    if dropped:
        log.info("audit_month_dropped", month=month.isoformat())
