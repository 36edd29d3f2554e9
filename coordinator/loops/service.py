"""The loops: each ticks at its interval or when it is woken, on the coordinator whose turn it is, never twice at once.

A tick takes what it works on with SKIP LOCKED, so that even two of them would double nothing.

What must not be missed does not depend on a loop being punctual: changes queue their jobs themselves, timers wake at
the earliest due moment, and a tick that finds nothing to do is the usual one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from coordinator.database.connection import Transaction
from coordinator.database.driver import Record as Row
from coordinator.database.wakeups import Waiter
from coordinator.loops import store
from coordinator.loops.running import Runs, ran_topic, tick
from coordinator.loops.ticks import CLEANING, LOOPS, RENEWALS, Loop
from coordinator.loops.turn import Turn
from core.clock import ManualClock
from core.errors import CertctlError

if TYPE_CHECKING:
    from coordinator.context import Context

__all__ = ["ASKED", "CLEANING", "LOOPS", "RENEWALS", "Loop", "ask", "ran_topic", "run", "runs"]
log = structlog.get_logger()
ASKED = "loops-asked"
"""The topic that tells the coordinator with the turn that somebody asks for a run."""
_SHORTEST_PAUSE_S = 0.02
_LOOK_S = 30.0
"""How long a request whose wake-up was lost waits."""


async def runs(tx: Transaction) -> tuple[str, dict[str, Row]]:
    """Return who has the turn, empty when nobody has, and what is known of each loop's runs by its name."""
    return await store.runner(tx), {row["name"]: row for row in await store.runs(tx)}


async def ask(tx: Transaction, name: str) -> int:
    """Ask for a run of a loop; it is over when as many were answered as this returns."""
    tx.wake(ASKED)
    return await store.ask(tx, name)


async def run(ctx: Context) -> None:
    """Run every loop, whenever it is this coordinator's turn, until cancelled."""
    turn, waiters, known = Turn(ctx.name), dict[str, Waiter](), Runs()

    def began() -> None:
        for waiter in waiters.values():
            waiter.wake()

    async with asyncio.TaskGroup() as group:
        for loop in LOOPS:
            waiters[loop.name] = ctx.db.wakeups.subscribe(loop.topic or loop.name)
            group.create_task(_run_loop(ctx, loop, turn, waiters[loop.name], known), name=f"loop {loop.name}")
        asked = ctx.db.wakeups.subscribe(ASKED)
        group.create_task(_hear(ctx, turn, asked, known, dict(waiters)), name="loops asked for")
        waiters[ASKED] = asked
        group.create_task(turn.keep(ctx, began), name="turn")


async def _run_loop(ctx: Context, loop: Loop, turn: Turn, waiter: Waiter, known: Runs) -> None:
    interval_s = loop.every_s(ctx)
    with waiter:
        if isinstance(ctx.clock, ManualClock):
            ctx.clock.on_move(waiter.wake)
        while not ctx.stopping:
            pause_s = await tick(ctx, loop, turn.runner, known) if turn.ours else interval_s
            if loop.rest_s:
                await asyncio.sleep(loop.rest_s)
            await waiter.wait(max(_SHORTEST_PAUSE_S, min(pause_s, interval_s)))


async def _hear(ctx: Context, turn: Turn, asked: Waiter, known: Runs, loops: dict[str, Waiter]) -> None:
    """Wake the loops that somebody asks for."""
    with asked:
        while not ctx.stopping:
            await asked.wait(_LOOK_S)
            if not turn.ours:
                continue
            try:
                async with ctx.db.connection() as conn:
                    found = await store.asked(conn)
            except CertctlError as error:
                log.debug("loops_not_heard", detail=error.detail)
                continue
            for name in found.keys() & loops.keys():
                known.asked[name] = found[name]
                loops[name].wake()
