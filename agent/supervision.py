"""Keeps a loop running: what crashes is logged and started again with a growing pause, and takes nothing else down.

The broad ``except`` here is the supervisor's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from agent.backoff import Backoff

log = structlog.get_logger(__name__)
LONG_RUN_S = 60.0
"""A loop that ran for so long was healthy: its next crash is a first one again."""


async def supervised(name: str, run_loop: Callable[[], Awaitable[None]]) -> None:
    """Run a loop to its end, starting it again whenever it crashes; cancellation passes through."""
    backoff = Backoff()
    while True:
        started = trio.current_time()
        try:
            await run_loop()
        except* Exception:
            log.exception("loop_crashed", loop=name)
        else:
            return
        if trio.current_time() - started > LONG_RUN_S:
            backoff.reset()
        await backoff.pause()
