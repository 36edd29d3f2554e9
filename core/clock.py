"""Business time, injected: what decides when a certificate is due and what stands in its validity.

Leases, nonces and deadlines between processes run on the database's ``now()`` instead; durations are measured with a
monotonic timer. No event loop is imported here: whoever waits asks ``until`` for the seconds and sleeps on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells the time; aware, UTC."""

    def now(self) -> datetime:
        """Return the present instant."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the machine's time."""
        return datetime.now(UTC)


class ManualClock:
    """A clock that stands still until it is moved; for tests and rehearsals.

    Listeners run on every move, so that a sleeping loop can look again at once.
    """

    def __init__(self, start: datetime) -> None:
        self._now = start
        self._listeners: list[Callable[[], None]] = []

    def now(self) -> datetime:
        """Return the instant it was last moved to."""
        return self._now

    def advance(self, step: timedelta) -> None:
        """Move forward by ``step`` and tell the listeners."""
        self._now += step
        for listener in self._listeners:
            listener()

    def on_move(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every move."""
        self._listeners.append(listener)


def seconds_until(clock: Clock, moment: datetime) -> float:
    """Return the seconds from the clock's now to ``moment``, never below zero."""
    return max(0.0, (moment - clock.now()).total_seconds())
