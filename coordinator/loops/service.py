"""The loops: each ticks at its interval or when it is woken, on the coordinator whose turn it is, never twice at once.

A tick takes what it works on with SKIP LOCKED, so that even two of them would double nothing.

What must not be missed does not depend on a loop being punctual: changes queue their jobs themselves, timers wake at
the earliest due moment, and a tick that finds nothing to do is the usual one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from coordinator.agents import service as agents
from coordinator.approvals import deciding as approvals
from coordinator.approvals.service import APPROVALS_TOPIC
from coordinator.audit import heads, months, sealing
from coordinator.audit import service as audit
from coordinator.bindings import service as bindings
from coordinator.database.wakeups import Waiter
from coordinator.idempotency import service as idempotency
from coordinator.issuance import service as issuance
from coordinator.limits import service as limits
from coordinator.loops.turn import Turn
from coordinator.notifications import alerts, channels, delivery
from coordinator.oidc import service as oidc
from coordinator.operations import service as operations
from coordinator.policies import service as policies
from coordinator.renewal_policies import service as renewal_policies
from coordinator.sessions import service as sessions
from coordinator.stats import service as stats
from core.clock import ManualClock, seconds_until
from core.errors import CertctlError

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger()
_SHORTEST_PAUSE_S = 0.02


@dataclass(frozen=True)
class Loop:
    """``tick`` returns the seconds until the next one should run, at most ``interval_s``; ``rest_s`` come first.

    The name is the topic that wakes it.
    """

    name: str
    interval_s: float
    tick: Callable[[Context], Awaitable[float]]
    rest_s: float = 0.0


async def _renewals(ctx: Context) -> float:
    """Follow changed policies, queue what is due, then sleep until the next certificate falls due."""
    while await renewal_policies.replan(ctx):
        pass
    while await bindings.renew_due(ctx):
        pass
    async with ctx.db.connection() as conn:
        moment = await bindings.next_due(conn)
    return RENEWALS.interval_s if moment is None else seconds_until(ctx.clock, moment)


async def _recovery(ctx: Context) -> float:
    """Finish what a dead coordinator left, and close gaps that nothing else is closing."""
    await issuance.finish_interrupted(ctx)
    await bindings.reconcile(ctx)
    return RECOVERY.interval_s


async def _cleaning(ctx: Context) -> float:
    await agents.purge(ctx)
    await idempotency.purge(ctx)
    await sessions.purge(ctx)
    await oidc.purge(ctx)
    await limits.purge(ctx)
    await operations.purge(ctx)
    return CLEANING.interval_s


async def _rules(ctx: Context) -> float:
    """Hold certificates against the rules that changed."""
    while await policies.scan(ctx):
        pass
    return RULES.interval_s


async def _operations(ctx: Context) -> float:
    """Work off what was asked for many certificates."""
    while not ctx.stopping and await operations.work(ctx):
        pass
    return OPERATIONS.interval_s


async def _approvals(ctx: Context) -> float:
    """Cancel what was not approved in time."""
    seconds = await approvals.expire(ctx)
    return APPROVALS.interval_s if seconds is None else seconds


async def _alerts(ctx: Context) -> float:
    """Queue what is to be told of ends that have come near."""
    while await alerts.watch(ctx):
        pass
    return ALERTS.interval_s


def _delivery(channel: str) -> Loop:
    """Return the loop that sends what is queued for a channel."""

    async def tick(ctx: Context) -> float:
        seconds = await delivery.deliver(ctx, channel)
        return loop.interval_s if seconds is None else seconds

    loop = Loop(channels.topic(channel), 60.0, tick)
    return loop


async def _sealing(ctx: Context) -> float:
    return await sealing.seal(ctx, SEALING.interval_s)


async def _heads(ctx: Context) -> float:
    return await heads.post_newest(ctx, HEADS.interval_s)


async def _months(ctx: Context) -> float:
    await months.keep(ctx)
    return MONTHS.interval_s


async def _tallies(ctx: Context) -> float:
    """Fold what has changed into the kept numbers."""
    while await stats.fold(ctx):
        pass
    return TALLIES.interval_s


RENEWALS = Loop("renewals", 60.0, _renewals)
RECOVERY = Loop("recovery", 10.0, _recovery)
CLEANING = Loop("cleaning", 600.0, _cleaning)
RULES = Loop("rules", 60.0, _rules)
OPERATIONS = Loop(operations.OPERATIONS_TOPIC, 10.0, _operations)
APPROVALS = Loop(APPROVALS_TOPIC, 60.0, _approvals)
ALERTS = Loop("alerts", 60.0, _alerts)
DELIVERIES = tuple(_delivery(channel) for channel in channels.CHANNELS)
# Many events of one moment become one batch; what is committed during the rest is sealed right after it.
SEALING = Loop(audit.SEALING, 2.0, _sealing, rest_s=0.3)
HEADS = Loop(sealing.EXPORTING, 300.0, _heads, rest_s=1.0)
TALLIES = Loop("tallies", 5.0, _tallies)
MONTHS = Loop("audit-months", 3600.0, _months)
LOOPS = (
    RENEWALS,
    RECOVERY,
    CLEANING,
    RULES,
    OPERATIONS,
    APPROVALS,
    ALERTS,
    *DELIVERIES,
    TALLIES,
    SEALING,
    HEADS,
    MONTHS,
)


async def run(ctx: Context) -> None:
    """Run every loop, whenever it is this coordinator's turn, until cancelled."""
    turn, waiters = Turn(), list[Waiter]()

    def began() -> None:
        for waiter in waiters:
            waiter.wake()

    async with asyncio.TaskGroup() as group:
        for loop in LOOPS:
            waiters.append(ctx.db.wakeups.subscribe(loop.name))
            group.create_task(_run_loop(ctx, loop, turn, waiters[-1]), name=f"loop {loop.name}")
        group.create_task(turn.keep(ctx, began), name="turn")


async def _run_loop(ctx: Context, loop: Loop, turn: Turn, waiter: Waiter) -> None:
    with waiter:
        if isinstance(ctx.clock, ManualClock):
            ctx.clock.on_move(waiter.wake)
        while not ctx.stopping:
            pause_s = await _tick(ctx, loop) if turn.ours else loop.interval_s
            if loop.rest_s:
                await asyncio.sleep(loop.rest_s)
            await waiter.wait(max(_SHORTEST_PAUSE_S, min(pause_s, loop.interval_s)))


async def _tick(ctx: Context, loop: Loop) -> float:
    """Run one tick; an error is told and costs one interval, never the loop."""
    started = time.perf_counter()
    try:
        pause_s = await loop.tick(ctx)
    except CertctlError as error:
        log.warning("loop_tick_failed", loop=loop.name, detail=error.detail)
        return min(loop.interval_s, 5.0)
    except Exception:
        log.exception("loop_tick_failed", loop=loop.name)
        return loop.interval_s
    log.debug("loop_ticked", loop=loop.name, ms=round((time.perf_counter() - started) * 1000, 1))
    return pause_s
