"""The limits that other rooms use: budgets in this process, and buckets in the database where they protect trust.

``Budgets`` bounds work. Each replica has its own, so that counting costs nothing; a caller who finds N replicas has N
budgets. ``take`` and ``guess`` bound what may be tried or carried away, and are the same for all replicas.
Decision 15 says what is counted where.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from coordinator.database.connection import Connection
from coordinator.limits import store
from coordinator.limits.buckets import Buckets, Rate
from coordinator.metrics import service as metrics
from core.errors import CertctlError, TooManyRequests, Unauthenticated

if TYPE_CHECKING:
    from coordinator.context import Context
    from coordinator.settings import RateLimits

GUESSES, GUESSES_PER = 20, timedelta(minutes=10)
"""Credentials that an address may try and get wrong, as long as somebody could guess them."""
MOST_KNOWN = 50_000
_SECOND_CHANCES = 10
_OURS = re.compile(r"ct[aek]_[A-Za-z0-9_-]{43}", re.ASCII)
"""What certctl makes: 256 random bits. To count wrong ones as guesses would only lock out neighbours."""


class Budgets:
    """The buckets of this process. ``None`` as limits turns them off."""

    def __init__(self, limits: RateLimits | None) -> None:
        self.on = limits is not None
        by_address = Rate(limits.rps, limits.burst) if limits else Rate(1, 1)
        by_caller = Rate(limits.caller_rps, limits.caller_burst) if limits else Rate(1, 1)
        self.open = Buckets(by_address)
        """Reads of open routes, for each address and route."""
        self.failures = Buckets(by_address)
        """Requests of an address that showed no good credential."""
        self.chances = Buckets(by_address.times(_SECOND_CHANCES))
        """Requests of an address whose failures are used up: they may be those of its good neighbours."""
        self.sign_ins = Buckets(by_caller)
        """Nonces and tokens, for each address and agent."""
        self.callers = Buckets(by_caller)
        """Requests with a good credential, for each key and agent."""
        self._known: dict[bytes, None] = {}

    def knows(self, digest: bytes) -> bool:
        """Say whether this credential was good lately. It is no proof: whoever asks looks it up all the same."""
        return digest in self._known

    def remember(self, digest: bytes) -> None:
        """Remember a good credential by its digest, and forget the oldest of too many."""
        if digest not in self._known:
            self._known[digest] = None
            if len(self._known) > MOST_KNOWN:
                del self._known[next(iter(self._known))]

    def forget(self, digest: bytes) -> None:
        """Forget a credential that is good no more."""
        self._known.pop(digest, None)


def refused(scope: str, why: str, wait_s: float) -> TooManyRequests:
    """Count a refusal and return its error."""
    metrics.rate_limited(scope)
    return TooManyRequests(f"{why}; try again in {_in_words(wait_s)}", retry_after_s=wait_s)


def _in_words(wait_s: float) -> str:
    return f"{wait_s:.0f} s" if wait_s >= 1 else "a second"


async def take(where: Context | Connection, name: str, subject: str, limit: int, per: timedelta) -> None:
    """Take one of ``limit`` per ``per`` from a bucket that all replicas share; raise ``TooManyRequests`` without one.

    A ``limit`` of 0 is none. Given a transaction, what is taken comes back when it is rolled back, and others who ask
    for the same subject wait for its end; given the context, it stays taken.
    """
    if limit <= 0:
        return
    if isinstance(where, Connection):
        wait_s = await store.take(where, name, subject, per / limit, per)
    else:
        async with where.db.connection() as conn:
            wait_s = await store.take(conn, name, subject, per / limit, per)
    if wait_s:
        raise refused(name, f"{name}: the {limit} that are allowed in {per.total_seconds():.0f} s are used up", wait_s)


async def spend(conn: Connection, name: str, subject: str, limit: int, per: timedelta) -> None:
    """Take one of ``limit`` per ``per`` from a shared bucket if there is one: for what has happened already."""
    if limit > 0:
        await store.take(conn, name, subject, per / limit, per)


async def exhausted(
    conn: Connection, name: str, subjects: Sequence[str], limit: int, per: timedelta
) -> Mapping[str, float]:
    """Return those whose shared bucket has none left, with the seconds until it has; take nothing."""
    return await store.waits(conn, name, subjects, per / limit, per) if limit > 0 and subjects else {}


@contextlib.asynccontextmanager
async def guess(ctx: Context, name: str, address: str, credential: str) -> AsyncIterator[None]:
    """Count a credential before it is checked, unless nobody could guess it; a good one is given back.

    It is counted first, so that the guess after the last one is not looked at, whichever replica it comes to. A
    credential that this process saw good is let through: a neighbour's guesses do not lock its owner out.
    """
    digest = hashlib.sha256(credential.encode()).digest()
    counted = bool(address) and not ctx.budgets.knows(digest) and not _OURS.fullmatch(credential)
    if counted:
        await take(ctx, name, address, GUESSES, GUESSES_PER)
    try:
        yield
    except Unauthenticated:
        ctx.budgets.forget(digest)
        raise
    except CertctlError:
        if counted:
            with contextlib.suppress(CertctlError):  # the first error is the one to tell
                await _give_back(ctx, name, address)
        raise
    ctx.budgets.remember(digest)
    if counted:
        await _give_back(ctx, name, address)


async def _give_back(ctx: Context, name: str, address: str) -> None:
    async with ctx.db.connection() as conn:
        await store.give_back(conn, name, address, GUESSES_PER / GUESSES)


async def purge(ctx: Context) -> None:
    """Remove shared buckets that are full."""
    async with ctx.db.connection() as conn:
        await store.purge(conn)
