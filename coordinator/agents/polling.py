"""The long poll: an agent's question for work, open for minutes, answered in the moment there is some.

An idle agent costs no statement of its own while it waits. Every 45 seconds its answer gets a space, which is nothing
in JSON: connections stay open along the way, the agent sees that its coordinator lives, and a connection that takes no
bytes any more ends (``coordinator.serving`` bounds how long they may go unacknowledged). What its open poll stands on
– the session, the agent – is looked at again for all polls at once, see ``Watch``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

from coordinator.agents import store
from coordinator.enrollment.acme import perspectives
from coordinator.issuance import keymaking
from coordinator.jobs import service as jobs
from coordinator.metrics import service as metrics
from coordinator.ordering import challenges
from coordinator.targets import trials
from coordinator.web.table import Later
from core.crash import crash_point
from core.errors import CertctlError
from core.wire import HEARTBEAT_S, AuditHead, ChallengeItem, DeploymentItem, IssuanceItem, LookItem, TrialItem, Work

if TYPE_CHECKING:
    from coordinator.context import Context

LONGEST_WAIT_S = 600.0
_RETURNS_PER_S = 300.0
"""How many agents may come back in a second after their coordinator went away, and how many seconds that may take."""
_LONGEST_SPREAD_S = 30.0
_FULL_HANDS_S = 1.0
_SHORTEST_WAIT_S = 0.02
_LOOKS_AT_ONCE = 8
_DEAF_AFTER_S = 30.0

Items = tuple[IssuanceItem | DeploymentItem, ...]


class Sign(NamedTuple):
    """A sign of life: when it came (monotonic seconds), and what the agent's clock showed if it said so."""

    at: float
    time_ms: int | None


class Asked(NamedTuple):
    """What an agent said with its poll. ``session`` is the digest of the token that it came with."""

    agent_id: str
    session: bytes
    boot: str
    held: tuple[str, ...]
    wait_s: float


class Polls:
    """The polls that wait in this process, and the signs of life that are not stored yet."""

    def __init__(self) -> None:
        self.waiting: dict[str, Poll] = {}
        self.signs: dict[str, Sign] = {}
        self.hearing_since = self._stored_at = time.monotonic()
        # A restart of the database wakes every poll; all of them at once would use up the pool.
        self.looks = asyncio.Semaphore(_LOOKS_AT_ONCE)

    @property
    def spread_s(self) -> float:
        """Return the seconds over which as many agents as wait now should come back."""
        return min(len(self.waiting) / _RETURNS_PER_S, _LONGEST_SPREAD_S)

    def saw(self, agent_id: str, time_ms: int | None = None) -> None:
        """Note a sign of life; what the agent's clock showed is kept from an earlier one."""
        before = self.signs.get(agent_id)
        if time_ms is None and before is not None and before.time_ms is not None:
            return
        self.signs[agent_id] = Sign(time.monotonic(), time_ms)

    def stored(self) -> None:
        """Note that signs of life were stored; after a pause in that, agents are heard of only since now."""
        now = time.monotonic()
        if now - self._stored_at > _DEAF_AFTER_S:
            self.hearing_since = now
        self._stored_at = now

    def end(self, agent_id: str) -> None:
        """Answer an agent's open poll here, if there is one: its next word is told that it was retired."""
        if agent_id in self.waiting:
            self.waiting[agent_id].end()

    def work(
        self,
        items: Items,
        head: AuditHead | None,
        trials: tuple[TrialItem, ...] = (),
        shown: tuple[ChallengeItem, ...] = (),
        looks: tuple[LookItem, ...] = (),
    ) -> Work:
        """Return an answer, with what the agent needs to know for its next poll."""
        return Work(items, LONGEST_WAIT_S, round(self.spread_s, 1), head, trials, shown, looks)


class Poll(Later):
    """One poll, from its first look to its answer. It has to be closed, however it ends."""

    def __init__(self, ctx: Context, asked: Asked) -> None:
        self.asked = asked
        self._ctx = ctx
        self._over = False
        self._full = len(asked.held) >= jobs.MOST_HELD
        # Hands that are full are empty again before the wait would be over, so they are asked about soon.
        self._deadline = time.monotonic() + (min(asked.wait_s, _FULL_HANDS_S) if self._full else asked.wait_s)
        self._open = contextlib.ExitStack()
        self._waiter = self._open.enter_context(ctx.db.wakeups.subscribe(jobs.agent_topic(asked.agent_id)))
        self._next_s: float | None = None

    async def begin(self) -> Work | None:
        """Return what is due now, or nothing due for a poll that does not wait; None when there is a wait to come."""
        work = await self._look()
        if work is not None or self._at_end():
            return work or self._work()
        polls, agent_id = self._ctx.polls.waiting, self.asked.agent_id
        if agent_id in polls:
            # An agent asks once at a time: the connection of the earlier poll is lost and does not know it yet.
            polls[agent_id].end()
        polls[agent_id] = self
        metrics.polls_waiting(len(polls))
        return None

    async def answer(self, alive: Callable[[], Awaitable[None]]) -> Work:
        """Wait for work and return it; ``alive`` is called every 45 seconds. Empty when nothing came up."""
        beat = time.monotonic() + HEARTBEAT_S
        with contextlib.suppress(CertctlError):  # the next poll, which follows at once, is told what is wrong
            while not self._at_end():
                if (until_beat := beat - time.monotonic()) <= 0:
                    self._ctx.polls.saw(self.asked.agent_id)
                    await alive()
                    beat += HEARTBEAT_S
                    continue
                if await self._woken(until_beat) and (work := await self._look()):
                    return work
        return self._work()

    def end(self) -> None:
        """Have it answered now, with nothing."""
        self._over = True
        self._waiter.wake()

    def look_again(self) -> None:
        """Have it look for work now."""
        self._waiter.wake()

    def close(self) -> None:
        """Forget it."""
        self._open.close()
        if self._ctx.polls.waiting.get(self.asked.agent_id) is self:
            del self._ctx.polls.waiting[self.asked.agent_id]
            metrics.polls_waiting(len(self._ctx.polls.waiting))

    async def _woken(self, at_most_s: float) -> bool:
        """Wait at most so long; say whether it is time to look and this poll is still the one to do so."""
        pause_s = min(at_most_s, self._left())
        due_s = None if self._next_s is None or self._full else max(self._next_s, _SHORTEST_WAIT_S)
        is_due = due_s is not None and due_s <= pause_s
        started = time.monotonic()
        woken = await self._waiter.wait(due_s if is_due and due_s is not None else pause_s)
        if self._next_s is not None:
            self._next_s = max(0.0, self._next_s - (time.monotonic() - started))
        return (woken or is_due) and not self._at_end()

    async def _look(self) -> Work | None:
        """Lease what is due, and take trials; without any, remember when something will be."""
        agent_id, boot, held = self.asked.agent_id, self.asked.boot, self.asked.held
        async with self._ctx.polls.looks:
            if not held:
                async with self._ctx.db.connection() as conn:
                    self._next_s = await jobs.seconds_to_next(conn, agent_id, boot, held)
                    others = await trials.are_waiting(conn, agent_id, boot)
                    others = others or await challenges.are_waiting(conn, agent_id, boot)
                    others = others or await perspectives.are_waiting(self._ctx, conn, agent_id, boot)
                if not others and (self._next_s is None or self._next_s > 0):
                    return None
            async with self._ctx.db.transaction() as tx:
                items = await jobs.claim(tx, agent_id, boot, held, self._ctx.settings.lease)
                if items and keymaking.is_on(self._ctx):
                    (agent,) = await store.sealing_keys(tx, [agent_id])
                    items = await keymaking.with_keys(tx, agent["sealing_key"], items)
                tried = await trials.offer(tx, agent_id, boot)
                shown = await challenges.offer(tx, agent_id, boot)
                looks = await perspectives.offer(self._ctx, tx, agent_id, boot)
                self._next_s = None if items else await jobs.seconds_to_next(tx, agent_id, boot, held)
        if items:
            crash_point("lease.claim_committed")
        return self._work(items, tried, shown, looks) if items or tried or shown or looks else None

    def _work(
        self,
        items: Items = (),
        tried: tuple[TrialItem, ...] = (),
        shown: tuple[ChallengeItem, ...] = (),
        looks: tuple[LookItem, ...] = (),
    ) -> Work:
        return self._ctx.polls.work(items, self._ctx.trail.head, tried, shown, looks)

    def _at_end(self) -> bool:
        leaving = self._ctx.stopping or self._ctx.db.wakeups.closed
        return self._over or leaving or self._left() <= 0

    def _left(self) -> float:
        return self._deadline - time.monotonic()
