"""Agents that went silent, and those that are heard again: stored and told once each.

Whether an agent counts as online follows from when it was seen last; here a change of that is noticed. After a time in
which this coordinator could not hear agents, or not store that, nobody is called silent before all had time to return.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from coordinator.agents import store
from coordinator.announcements import service as announcements
from coordinator.announcements.service import Change
from core.crash import crash_point

if TYPE_CHECKING:
    from coordinator.context import Context

TOPIC = store.HEALTH
_BATCH = 500


async def check(ctx: Context) -> float | None:
    """Tell of agents that went silent and of those that are back; return the seconds to the next who might be."""
    while await _tell_some(ctx):
        pass
    async with ctx.db.connection() as conn:
        wait_s = await store.seconds_to_silence(conn)
    return wait_s if wait_s is None else max(wait_s, _not_before_s(ctx))


def _not_before_s(ctx: Context) -> float:
    return max(0.0, ctx.polls.hearing_since + store.AWAY_AFTER.total_seconds() - time.monotonic())


async def _tell_some(ctx: Context) -> bool:
    async with ctx.db.transaction() as tx:
        silent = [] if _not_before_s(ctx) else await store.take_silent(tx, _BATCH)
        for row in silent:
            details = {"name": row["name"], "last_seen_at": row["last_seen_at"]}
            await announcements.tell(tx, Change("agent.offline", "agent", row["id"], "warning", details))
        back = await store.take_heard(tx, _BATCH)
        for row in back:
            details = {"name": row["name"], "offline_since": row["offline_since"]}
            await announcements.tell(tx, Change("agent.online", "agent", row["id"], "info", details))
        if silent or back:
            crash_point("agent.health_told")
    return _BATCH in {len(silent), len(back)}
