"""Looking again until something is there: at the authority's own pace (Retry-After), else with a growing pause."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import anyio

from core.errors import DeadlineExceeded, Transient

T = TypeVar("T")
_FIRST_PAUSE_S = 0.25
_GROWTH = 1.7
_LONGEST_PAUSE_S = 15.0


class Timer(Protocol):
    """Measures and passes time."""

    def now(self) -> float:
        """Return seconds since some moment."""

    async def sleep(self, seconds: float) -> None:
        """Let seconds pass."""


class LoopTimer:
    """The event loop's own time."""

    def now(self) -> float:
        """Return the loop's seconds."""
        return anyio.current_time()

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        await anyio.sleep(seconds)


async def until(
    look: Callable[[], Awaitable[tuple[T | None, float]]], *, what: str, deadline_s: float, timer: Timer
) -> T:
    """Return what ``look`` gives at last; beside it stand the seconds that the authority wants to be left alone.

    A ``Transient`` of a look is a look that saw nothing. Raises ``DeadlineExceeded`` when the next look would come too
    late, with the seconds after which it is worth to go on.
    """
    end, pause = timer.now() + deadline_s, _FIRST_PAUSE_S
    while True:
        cause: Transient | None = None
        try:
            found, wanted = await look()
            if found is not None:
                return found
        except Transient as error:
            cause, wanted = error, error.retry_after_s
        wait = wanted or pause
        if timer.now() + wait > end:
            reason = f": {cause.detail}" if cause else ""
            raise DeadlineExceeded(f"{what}: not within {deadline_s:.0f} s{reason}", retry_after_s=wait) from cause
        await timer.sleep(wait)
        pause = min(pause * _GROWTH, _LONGEST_PAUSE_S)
