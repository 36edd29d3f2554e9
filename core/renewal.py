"""When a certificate is renewed, and how long after a failure the next attempt waits.

Renewal falls due when a third of the lifetime is left. The lifetime counts from the later of notBefore and the moment
of issue, because notBefore is set back a little for clocks that are behind.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta

_REMAINING_SHARE = 3
_MAX_BACKDATING = timedelta(minutes=5)
_FIRST_RETRY = timedelta(seconds=2)
LAST_RETRY = timedelta(hours=1)
LAST_DEPLOYMENT_RETRY = timedelta(minutes=15)
"""Hosts are mended by people, who wait for the certificate then; an authority may count what it had to refuse."""
_SHORTEST_CAP = timedelta(seconds=5)
_MOST_DOUBLINGS = 20


def backdating(lifetime: timedelta) -> timedelta:
    """Return how far notBefore is set back: 10 % of the lifetime, at most five minutes."""
    return min(_MAX_BACKDATING, lifetime / 10)


def renew_at(
    not_before: datetime, not_after: datetime, issued_at: datetime, days_before: int | None = None
) -> datetime:
    """Return the moment from which a certificate is due.

    ``days_before`` is a policy's own window; it counts only when it is shorter than half of the lifetime, so that a
    window of 30 days does not keep a six-day certificate in renewal for ever.
    """
    lifetime = not_after - max(not_before, issued_at)
    if days_before is not None and timedelta(days=days_before) < lifetime / 2:
        return not_after - timedelta(days=days_before)
    return not_after - lifetime / _REMAINING_SHARE


def retry_delay(
    failures: int,
    lifetime: timedelta | None = None,
    longest: timedelta = LAST_RETRY,
    *,
    first: timedelta = _FIRST_RETRY,
    most: int | None = None,
) -> timedelta:
    """Return the wait before the next attempt: ``first`` doubled per failure in a row, up to ``longest``, ±20 % jitter.

    After more than ``most`` failures it is the longest one. For a short-lived certificate the wait never grows past a
    twentieth of its ``lifetime`` (at least 5 s).
    """
    cap = longest if lifetime is None else max(_SHORTEST_CAP, min(longest, lifetime / 20))
    delay = min(cap, first * (1 << min(max(failures - 1, 0), _MOST_DOUBLINGS)))
    if is_failing(failures, most):
        delay = cap
    return delay * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, guards nothing


def is_failing(failures: int, most: int | None) -> bool:
    """Say whether a policy's retries are used up: trying goes on, and somebody has to look."""
    return most is not None and failures > most
