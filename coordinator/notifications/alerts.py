"""Ends that come near: each threshold of a renewal policy is told once for each version, late rather than never."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from coordinator.notifications import service, store
from coordinator.notifications.service import Event
from core.alerts import AlertRules
from core.crash import crash_point

if TYPE_CHECKING:
    from coordinator.context import Context
    from coordinator.database.driver import Record as Row

_BATCH = 500


async def watch(ctx: Context) -> bool:
    """Queue what crossed a threshold since the last look, some at a time; say whether there may be more.

    Any replica may run it at any time.
    """
    async with ctx.db.transaction() as tx:
        now = ctx.clock.now()
        since = await store.looked_until(tx, now)
        rows = await store.crossings(tx, since, now, _BATCH)
        events = [event for row in rows if (event := _event(row, since, now)) is not None]
        if events:
            await service.tell(tx, *events)
        more = len(rows) >= _BATCH
        await store.look_on(tx, rows[-1]["at"] if more else max(since, now))
        if events:
            crash_point("notification.queued")
    return more


def _event(row: Row, since: datetime, now: datetime) -> Event | None:
    """Return what is told of a crossing, if the policy has it told."""
    told = {
        "thresholds_days": (row["days"],),
        "severity_map": row["alert_severity_map"],
        "channels": row["alert_channels"],
    }
    rules = msgspec.convert(told, AlertRules, strict=False)
    for alert in rules.due(row["issued_at"], row["not_after"], since, now):
        end = f"{row['not_after']:%Y-%m-%d %H:%M} UTC"
        left = f"ends in {row['days']} days" if row["days"] else "has ended"
        why = f"\nNo newer one: {row['reason']}" if row["reason"] else ""
        return Event(
            key=f"expiring:{row['version_id']}:{row['days']}",
            type="certificate_expiring",
            severity=alert.severity,
            subject=f"{row['name']} {left}",
            message=f"Certificate {row['name']} ({row['certificate_id']}) on {row['agent_id']} ends at {end}.{why}",
            certificate_id=row["certificate_id"],
            channels=alert.channels,
        )
    return None
