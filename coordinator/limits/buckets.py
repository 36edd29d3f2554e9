"""Token buckets in memory, one per subject, that forget whoever has a full one.

A bucket is one number: the moment at which it is full again (the "generic cell rate algorithm"). One that is full is
like one that was never used, so it is forgotten; after a quiet time nothing is left. What is never forgotten early is
bounded by ``MOST_SUBJECTS``: beyond it, those that asked longest ago get a full bucket.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

MOST_SUBJECTS = 20_000


class Rate(NamedTuple):
    """``per_s`` requests a second in the long run, ``burst`` at once."""

    per_s: float
    burst: int

    @property
    def window_s(self) -> float:
        """Return how long an empty bucket takes to be full."""
        return self.burst / self.per_s

    def times(self, factor: int) -> Rate:
        """Return a rate so many times as high."""
        return Rate(self.per_s * factor, self.burst * factor)


class Standing(NamedTuple):
    """A bucket: seconds until one may be taken (0 when one was), how many are left, seconds until it is full."""

    wait_s: float
    left: int
    full_s: float


class Buckets:
    """Buckets of one rate."""

    def __init__(self, rate: Rate, now: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._step = 1 / rate.per_s
        self._whole = rate.burst / rate.per_s
        self._slack = self._step / 1000  # sums of floats are a little off
        self._now = now
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, subject: str) -> Standing:
        """Take one if there is one."""
        now = self._now()
        # Put back at the end: the dictionary stays in the order in which subjects asked last.
        full_at = max(self._full_at.pop(subject, now), now)
        wait_s = full_at + self._step - self._whole - now
        taken = wait_s <= self._slack
        if taken:
            full_at += self._step
        self._full_at[subject] = full_at
        self._forget(now)
        left = int((now + self._whole - full_at + self._slack) / self._step)
        return Standing(0.0 if taken else wait_s, left, full_at - now)

    def wait_s(self, subject: str) -> float:
        """Return how long it takes until one could be taken, without taking it."""
        full_at = self._full_at.get(subject)
        if full_at is None:
            return 0.0
        wait_s = full_at + self._step - self._whole - self._now()
        return wait_s if wait_s > self._slack else 0.0

    def _forget(self, now: float) -> None:
        """Forget two who need not be known any more, so that more leave than come; and one of too many."""
        for _ in range(2):
            subject, full_at = next(iter(self._full_at.items()))
            if full_at > now and len(self._full_at) <= MOST_SUBJECTS:
                return
            del self._full_at[subject]
            if not self._full_at:
                return
