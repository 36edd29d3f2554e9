"""Whose turn it is to run the loops: one coordinator's at a time, as long as it keeps saying so.

The turn saves work; no rule rests on it. A coordinator that was frozen may believe for a moment that it still has it,
and then two of them tick: what a tick takes is locked in the database, so that it is done once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from coordinator.encryption import service as encryption
from coordinator.loops import store
from coordinator.metrics import service as metrics
from core.crash import crash_point
from core.errors import CertctlError

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.context import Context

log = structlog.get_logger()
TURN_S, KEEP_EVERY_S = 6.0, 2.0
"""How long loops stand still at most after the coordinator that ran them has died, and how often it says it lives."""
_GIVE_UP_DEADLINE_S = 2.0


class Turn:
    """What this coordinator knows of its turn."""

    def __init__(self, runner: str) -> None:
        self.runner = runner
        self._until = 0.0

    @property
    def ours(self) -> bool:
        """Say whether this coordinator runs the loops now."""
        return time.monotonic() < self._until

    async def take(self, ctx: Context) -> bool:
        """Take the turn if it is free, extend it if it is ours; say whether it began just now."""
        asked, had = time.monotonic(), self.ours
        async with ctx.db.connection() as conn:
            await encryption.say(ctx, conn)
            taken = await store.take_turn(conn, self.runner, timedelta(seconds=TURN_S))
        # Counted from before the question: by the database's clock it ends later, never earlier.
        self._until = asked + TURN_S if taken else 0.0
        metrics.loops_run_here(running=self.ours)
        if taken and not had:
            crash_point("loops.turn_taken")
        return self.ours and not had

    async def keep(self, ctx: Context, began: Callable[[], None]) -> None:
        """Take and extend the turn until cancelled or stopped; ``began`` is called whenever it becomes ours."""
        try:
            while not ctx.stopping:
                try:
                    if await self.take(ctx):
                        log.info("loops_run_here")
                        began()
                except CertctlError as error:
                    log.debug("turn_not_kept", detail=error.detail)
                await asyncio.sleep(KEEP_EVERY_S)
        finally:
            await self._give_up(ctx)

    async def _give_up(self, ctx: Context) -> None:
        """Let another coordinator take over at once."""
        self._until = 0.0
        with contextlib.suppress(CertctlError, TimeoutError):
            async with asyncio.timeout(_GIVE_UP_DEADLINE_S), ctx.db.connection() as conn:
                await store.give_up_turn(conn, self.runner)
