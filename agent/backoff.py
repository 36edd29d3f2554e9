"""Waiting between attempts: doubled each time, with jitter, so that a fleet does not come back all at once."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
import trio

from core.errors import Transient

T = TypeVar("T")
FIRST_S, LONGEST_S = 0.25, 30.0

log = structlog.get_logger(__name__)


class Backoff:
    """The pauses of one loop; ``reset`` after a success."""

    def __init__(self) -> None:
        self._next_s = FIRST_S

    def reset(self) -> None:
        """Begin with short pauses again."""
        self._next_s = FIRST_S

    async def pause(self) -> float:
        """Wait, and wait longer the next time; return the seconds waited."""
        pause_s = self._next_s * random.uniform(0.5, 1.5)  # noqa: S311 - spreads a fleet, guards nothing
        self._next_s = min(self._next_s * 2, LONGEST_S)
        await trio.sleep(pause_s)
        return pause_s


async def until_answered(what: str, call: Callable[[], Awaitable[T]]) -> T:
    """Repeat ``call`` for as long as it fails for now; what fails for good is raised."""
    backoff = Backoff()
    while True:
        try:
            return await call()
        except Transient as error:
            log.warning("call_failed", call=what, detail=error.detail)
            await backoff.pause()
