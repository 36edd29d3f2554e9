"""The life of certificates as it is told: that one falls due (Expiring), has expired, or is valid again (Active).

What life is follows from the row and the clock at any time; here each change of it is told once. Timers wake at the
next such moment.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from coordinator.announcements import service as announcements
from coordinator.announcements.service import Change, Severity
from coordinator.certificates import store
from core.crash import crash_point

if TYPE_CHECKING:
    from coordinator.context import Context

SHORT_LIVED = timedelta(hours=1)
_BATCH = 200
_TOLD: dict[str, tuple[str, Severity]] = {
    "valid": ("certificate.active", "info"),
    "due": ("certificate.expiring", "info"),
    "expired": ("certificate.expired", "error"),
}


async def tell(ctx: Context, *, shorter_than: timedelta | None = None) -> None:
    """Tell of all lives that have changed, or of those of short-lived certificates."""
    while await _tell_some(ctx, shorter_than):
        pass


async def next_change(ctx: Context) -> datetime | None:
    """Return when the next certificate falls due or expires."""
    async with ctx.db.connection() as conn:
        return await store.next_life(conn)


async def _tell_some(ctx: Context, shorter_than: timedelta | None) -> bool:
    async with ctx.db.transaction() as tx:
        rows = await store.changed_lives(tx, ctx.clock.now(), shorter_than, _BATCH)
        for row in rows:
            event, severity = _TOLD[row["life"]]
            details = {name: row[name] for name in ("common_name", "expires_at", "service")}
            await announcements.tell(tx, Change(event, "certificate", row["id"], severity, details))
        await store.set_told_lives(tx, [(row["id"], row["life"]) for row in rows])
        if rows:
            crash_point("certificate.life_told")
    return len(rows) == _BATCH
