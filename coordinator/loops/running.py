"""One tick, and what is kept of it for people: when it ran, how long, what went wrong, who asked for it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from coordinator.loops import store
from core.crash import crash_point
from core.errors import CertctlError

if TYPE_CHECKING:
    from coordinator.context import Context
    from coordinator.loops.ticks import Loop

log = structlog.get_logger()
_KEPT_EVERY_S = 10.0
_SOON_S = 5.0


@dataclass
class Runs:
    """What this process knows: runs asked for by loop, and when a run of each was stored last, and how it ended."""

    asked: dict[str, int] = field(default_factory=dict)
    stored: dict[str, tuple[float, str]] = field(default_factory=dict)


def ran_topic(name: str) -> str:
    """Return the topic that wakes those who asked for a run of a loop."""
    return f"loop-ran:{name}"


async def tick(ctx: Context, loop: Loop, runner: str, known: Runs) -> float:
    """Run one tick; return the seconds to the next. An error is told and costs one interval, never the loop."""
    asked, started, error = known.asked.pop(loop.name, 0), time.perf_counter(), ""
    pause_s: float | None = None
    try:
        pause_s = await loop.tick(ctx)
    except CertctlError as failure:
        error, pause_s = failure.detail, min(loop.every_s(ctx), _SOON_S)
        log.warning("loop_tick_failed", loop=loop.name, detail=error)
    except Exception as failure:
        error = f"{type(failure).__name__}; the coordinator's log has the rest"
        log.exception("loop_tick_failed", loop=loop.name)
    ms = round((time.perf_counter() - started) * 1000, 1)
    log.debug("loop_ticked", loop=loop.name, ms=ms)
    await _keep(ctx, store.Run(loop.name, runner, ms, error, asked), known)
    return loop.every_s(ctx) if pause_s is None else pause_s


async def _keep(ctx: Context, run: store.Run, known: Runs) -> None:
    """Store a run that says something new: somebody waits for it, it ended otherwise, or the last one is long ago."""
    at, error = known.stored.get(run.name, (0.0, ""))
    now = time.monotonic()
    if not run.answered and run.error == error and run.name in known.stored and now - at < _KEPT_EVERY_S:
        return
    known.stored[run.name] = now, run.error
    with contextlib.suppress(CertctlError):  # the database is away: the next tick says so
        async with ctx.db.transaction() as tx:
            await store.keep(tx, run)
            tx.wake(ran_topic(run.name))
            if run.answered:
                crash_point("loops.run_answered")
