"""Waiting between attempts: doubled each time, with jitter, so that a fleet does not come back all at once.

A trouble that lasts is told when it is new and every ten minutes, not with every attempt.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
import trio

from core.errors import Transient

T = TypeVar("T")
FIRST_S, LONGEST_S = 0.25, 30.0
JITTER = 0.5
TELL_AGAIN_S = 600.0

log = structlog.get_logger(__name__)


class Backoff:
    """The pauses of one loop; ``reset`` after a success.

    ``spread_s`` is the time over which the coordinator wants its agents to come back; a pause is then up to that.
    """

    def __init__(self) -> None:
        self._next_s = FIRST_S
        self.spread_s = 0.0

    def reset(self) -> None:
        """Begin with short pauses again."""
        self._next_s = FIRST_S

    async def pause(self, until: trio.Event | None = None, *, least_s: float = 0.0) -> None:
        """Wait, at most ``until`` something happens, and wait longer the next time.

        ``least_s`` is what the other side asked for. It comes on top, so that those who were told the same number do
        not come back together.
        """
        longest_s = self._next_s * (1 + JITTER)
        spread_s = min(self.spread_s, LONGEST_S)
        shortest_s = 0.0 if spread_s > longest_s else self._next_s * (1 - JITTER)
        pause_s = random.uniform(shortest_s, max(longest_s, spread_s))  # noqa: S311 - spreads a fleet, guards nothing
        self._next_s = min(self._next_s * 2, LONGEST_S)
        with trio.move_on_after(least_s + pause_s):
            await (trio.Event() if until is None else until).wait()


class Trouble:
    """What goes wrong in one loop, and when it is worth another line in the log."""

    def __init__(self) -> None:
        self._told = ""
        self._told_at = -math.inf

    def is_news(self, detail: str) -> bool:
        """Say whether ``detail`` is new or was told long ago, and count it as told now."""
        now = trio.current_time()
        if detail == self._told and now - self._told_at < TELL_AGAIN_S:
            return False
        self._told, self._told_at = detail, now
        return True

    def over(self) -> None:
        """Make the next trouble news, whatever it is."""
        self._told = ""


async def until_answered(
    what: str,
    call: Callable[[], Awaitable[T]],
    *,
    stopping: trio.Event | None = None,
    note: Callable[[str], None] = lambda _detail: None,
) -> T:
    """Repeat ``call`` for as long as it fails for now; ``note`` hears of each failure.

    What fails for good is raised. Once ``stopping`` is set, one last attempt is made and its failure raised as well.
    """
    backoff, trouble = Backoff(), Trouble()
    while True:
        last, least_s = stopping is not None and stopping.is_set(), 0.0
        try:
            return await call()
        except Transient as error:
            least_s = error.retry_after_s
            note(error.detail)
            if last:
                raise
            if trouble.is_news(error.detail):
                log.warning("call_failed", call=what, detail=error.detail)
        await backoff.pause(stopping, least_s=least_s)
