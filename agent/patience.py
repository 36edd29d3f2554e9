"""How long the next poll waits.

The coordinator says how long an agent without work may wait, minutes; its answer then begins at once and brings a sign
of life every 45 seconds. One that says nothing, and whatever keeps those signs back, gets short polls. With work in
hand polls are short as well: they are what extends leases.
"""

from __future__ import annotations

import random

import trio

from core.errors import CertctlError, Permanent
from core.wire import HEARTBEAT_S, Work

POLL_S = 40.0
SILENCE_S = HEARTBEAT_S + 5
SHORT_AFTER_SILENCE = 10
"""Short polls after a long one that failed in silence: something on the way holds answers back until they end."""
_SHORTEST_SHARE = 0.8


class Patience:
    """What one polling loop has learned of its coordinator."""

    def __init__(self) -> None:
        self._granted_s = 0.0
        self._first = True
        self._short_polls = 0
        self._heard_at = 0.0

    def next_wait_s(self, *, connected: bool, busy: bool) -> float:
        """Return how long the poll that follows should wait."""
        self._heard_at = trio.current_time()
        may_be_long = self._granted_s > POLL_S and not self._short_polls
        if not connected and not may_be_long:
            # The first answer shall not wait for work, so that the page can say soon how things stand.
            return 0.0
        if busy or not may_be_long:
            self._short_polls = max(0, self._short_polls - 1)
            return POLL_S
        # Agents that found their coordinator together shall not ask again together.
        least = 0.0 if self._first else _SHORTEST_SHARE
        self._first = False
        return max(POLL_S, round(self._granted_s * random.uniform(least, 1), 1))  # noqa: S311 - spreads a fleet

    def heard(self) -> None:
        """Take a sign of life of the poll that is under way."""
        self._heard_at = trio.current_time()

    def granted(self, work: Work) -> None:
        """Take what an answer says about the next poll."""
        self._granted_s = work.wait_s

    def failed(self, error: CertctlError) -> None:
        """Draw the conclusion from a poll that failed: an older coordinator refuses long waits."""
        self._first = True
        if isinstance(error, Permanent):
            self._granted_s = 0.0
        elif self._granted_s > POLL_S and trio.current_time() - self._heard_at > SILENCE_S:
            self._short_polls = SHORT_AFTER_SILENCE
