"""Agents that went silent, and those that are heard again: stored and told once each.

Whether an agent counts as online follows from when it was seen last; here a change of that is noticed. After a time in
which this coordinator could not hear agents, or not store that, nobody is called silent before all had time to return.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from coordinator.agents import store
from coordinator.announcements import service as announcements
from coordinator.announcements.service import Change
from coordinator.database.connection import Transaction
from coordinator.database.driver import Record as Row
from coordinator.notifications import service as notifications
from coordinator.notifications.service import Event
from core.crash import crash_point

if TYPE_CHECKING:
    from coordinator.context import Context

TOPIC = store.HEALTH
_BATCH = 500
_NAMED = 50


async def check(ctx: Context) -> float | None:
    """Tell of agents that went silent and of those that are back; return the seconds to the next who might be."""
    while await _tell_some(ctx):
        pass
    async with ctx.db.connection() as conn:
        wait_s = await store.seconds_to_silence(conn)
    return wait_s if wait_s is None else max(wait_s, _not_before_s(ctx))


def _not_before_s(ctx: Context) -> float:
    return max(0.0, ctx.polls.hearing_since + store.AWAY_AFTER.total_seconds() - time.monotonic())


async def _tell_people(tx: Transaction, silent: Sequence[Row], back: Sequence[Row]) -> None:
    """Queue one message for all that went silent at once, and one for all that are back."""
    events = []
    if silent:
        key = f"offline:{silent[0]['id']}:{silent[0]['last_seen_at'].isoformat()}"
        events.append(Event(key, "agent_offline", "warning", f"{_who(silent)} silent", _names(silent)))
    if back:
        key = f"online:{back[0]['id']}:{back[0]['offline_since'].isoformat()}"
        events.append(Event(key, "agent_online", "info", f"{_who(back)} heard again", _names(back)))
    if events:
        await notifications.tell(tx, *events)


def _who(rows: Sequence[Row]) -> str:
    return f"{rows[0]['name']} is" if len(rows) == 1 else f"{len(rows)} agents are"


def _names(rows: Sequence[Row]) -> str:
    return ", ".join(row["name"] for row in rows[:_NAMED]) + (", …" if len(rows) > _NAMED else "")


async def _tell_some(ctx: Context) -> bool:
    async with ctx.db.transaction() as tx:
        silent: list[Row] = [] if _not_before_s(ctx) else await store.take_silent(tx, _BATCH)
        for row in silent:
            details = {"name": row["name"], "last_seen_at": row["last_seen_at"]}
            await announcements.tell(tx, Change("agent.offline", "agent", row["id"], "warning", details))
        back = await store.take_heard(tx, _BATCH)
        for row in back:
            details = {"name": row["name"], "offline_since": row["offline_since"]}
            await announcements.tell(tx, Change("agent.online", "agent", row["id"], "info", details))
        await _tell_people(tx, silent, back)
        if silent or back:
            crash_point("agent.health_told")
    return _BATCH in {len(silent), len(back)}
