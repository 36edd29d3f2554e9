"""A timer that passes at once."""

from __future__ import annotations

from collections.abc import Callable

import anyio.lowlevel


class QuickTimer:
    """Sleeps without waiting and remembers how long; ``meanwhile`` is called on each sleep."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.slept: list[float] = []
        self._meanwhile = meanwhile

    def now(self) -> float:
        return sum(self.slept)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._meanwhile()
        await anyio.lowlevel.checkpoint()
