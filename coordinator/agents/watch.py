"""What is looked at for all waiting polls at once, a few statements for thousands of them.

Signs of life are stored in batches. Sessions that ended and agents that were retired have their polls ended. A wake-up
can be lost, for instance with the coordinator that would have sent it; then the work that lies there is found here. The
newest head of the audit trail, which every answer carries, is looked up here too: another coordinator may have sealed.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from coordinator.agents import store
from coordinator.audit import sealing
from coordinator.jobs import service as jobs
from core.errors import CertctlError

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger(__name__)
TICK_S = 5.0
CHECK_EVERY = 4
"""Ticks from one look at sessions and forgotten work to the next."""


async def run(ctx: Context) -> None:
    """Watch until cancelled; in each coordinator, since it is about the connections of its own."""
    tick = 0
    while True:
        await asyncio.sleep(TICK_S)
        tick += 1
        try:
            await store_signs(ctx)
            await sealing.refresh_head(ctx)
            ctx.polls.stored()
            if tick % CHECK_EVERY == 0:
                await check(ctx)
        except CertctlError as error:
            log.warning("polls_not_watched", detail=error.detail)
        except Exception:
            log.exception("polls_not_watched")


async def store_signs(ctx: Context) -> None:
    """Store which agents were seen since the last time, and how their clocks stand."""
    signs, ctx.polls.signs = ctx.polls.signs, {}
    if not signs:
        return
    now = time.monotonic()
    rows = [(agent_id, sign.time_ms, now - sign.at) for agent_id, sign in signs.items()]
    try:
        async with ctx.db.connection() as conn:
            was_offline = await store.touch(conn, rows)
    except CertctlError:
        ctx.polls.signs = signs | ctx.polls.signs
        raise
    if was_offline:
        ctx.db.wakeups.notify([store.HEALTH])


async def check(ctx: Context) -> None:
    """End the polls whose session is over or whose agent was retired; wake those for whom work lies ready."""
    waiting = dict(ctx.polls.waiting)
    if not waiting:
        return
    sessions = {agent_id: poll.asked.session for agent_id, poll in waiting.items()}
    async with ctx.db.connection() as conn:
        over = await store.without_standing(conn, sessions)
        due = await jobs.agents_with_unclaimed_work(conn)
    for agent_id in over:
        waiting[agent_id].end()
    for agent_id in due:
        if agent_id in waiting:
            waiting[agent_id].look_again()
