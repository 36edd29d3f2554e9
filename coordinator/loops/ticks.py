"""What each loop does, and how often at least."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from coordinator.agents import health
from coordinator.agents import service as agents
from coordinator.approvals import deciding as approvals
from coordinator.approvals.service import APPROVALS_TOPIC
from coordinator.audit import heads, months, sealing
from coordinator.audit import service as audit
from coordinator.bindings import service as bindings
from coordinator.certificates import lives
from coordinator.encryption import service as encryption
from coordinator.enrollment.acme import validating as acme
from coordinator.idempotency import service as idempotency
from coordinator.issuance import service as issuance
from coordinator.limits import service as limits
from coordinator.notifications import alerts, channels, delivery
from coordinator.oidc import service as oidc
from coordinator.operations import service as operations
from coordinator.ordering import challenges, queue, renewing, revoking, working
from coordinator.policies import service as policies
from coordinator.renewal_policies import service as renewal_policies
from coordinator.sessions import service as sessions
from coordinator.stats import service as stats
from core.clock import seconds_until

if TYPE_CHECKING:
    from coordinator.context import Context


@dataclass(frozen=True)
class Loop:
    """``tick`` returns the seconds until the next one should run, None for the interval; ``rest_s`` come first.

    ``interval`` is in seconds, or names the setting that has it. ``topic`` wakes it, the name when there is none.
    """

    name: str
    interval: float | str
    tick: Callable[[Context], Awaitable[float | None]]
    rest_s: float = 0.0
    topic: str = ""
    purpose: str = ""

    def every_s(self, ctx: Context) -> float:
        """Return the longest time between two ticks."""
        if isinstance(self.interval, str):
            return float(getattr(ctx.settings.loops, self.interval).total_seconds())
        return self.interval


async def _renewals(ctx: Context) -> float | None:
    """Follow changed policies, queue what is due, then sleep until the next certificate falls due."""
    while await renewal_policies.replan(ctx):
        pass
    while await bindings.renew_due(ctx):
        pass
    async with ctx.db.connection() as conn:
        return _until(ctx, await bindings.next_due(conn))


def _until(ctx: Context, moment: datetime | None) -> float | None:
    return None if moment is None else seconds_until(ctx.clock, moment)


async def _processor(ctx: Context) -> float | None:
    await issuance.finish_interrupted(ctx)
    return await issuance.seconds_to_interrupted(ctx)


async def _retry(ctx: Context) -> None:
    await bindings.reconcile(ctx)


async def _timeout(ctx: Context) -> float | None:
    """End what waits for too long; leases have a timer."""
    await bindings.end_overdue(ctx)
    return await bindings.seconds_to_silence(ctx)


async def _short_lived(ctx: Context) -> None:
    while await bindings.renew_due(ctx):
        pass
    await lives.tell(ctx, shorter_than=lives.SHORT_LIVED)


async def _lives(ctx: Context) -> float | None:
    await lives.tell(ctx)
    return _until(ctx, await lives.next_change(ctx))


async def _cleaning(ctx: Context) -> None:
    await agents.purge(ctx)
    await idempotency.purge(ctx)
    await sessions.purge(ctx)
    await oidc.purge(ctx)
    await limits.purge(ctx)
    await operations.purge(ctx)


async def _rules(ctx: Context) -> None:
    """Hold certificates against the rules that changed."""
    while await policies.scan(ctx):
        pass


async def _operations(ctx: Context) -> None:
    """Work off what was asked for many certificates."""
    while not ctx.stopping and await operations.work(ctx):
        pass


async def _alerts(ctx: Context) -> None:
    """Queue what is to be told of ends that have come near."""
    while await alerts.watch(ctx):
        pass


async def _tallies(ctx: Context) -> None:
    """Fold what has changed into the kept numbers."""
    while await stats.fold(ctx):
        pass


def _delivery(channel: str) -> Loop:
    """Return the loop that sends what is queued for a channel."""

    async def send(ctx: Context) -> float | None:
        return await delivery.deliver(ctx, channel)

    return Loop(channels.topic(channel), 60.0, send, purpose=f"sends notifications: {channel}")


async def _sealing(ctx: Context) -> float:
    return await sealing.seal(ctx, _SEALING_S)


async def _heads(ctx: Context) -> float:
    return await heads.post_newest(ctx, _HEADS_S)


async def _months(ctx: Context) -> None:
    await months.keep(ctx)


async def _secrets(ctx: Context) -> None:
    await encryption.seal_anew(ctx)


_SEALING_S, _HEADS_S = 2.0, 300.0
RENEWALS = Loop(
    renewal_policies.RENEWALS_TOPIC,
    "renewal_check",
    _renewals,
    purpose="queues issuances for certificates that are due, when they fall due",
)
CLEANING = Loop("cleaning", 600.0, _cleaning, purpose="removes sessions, nonces and kept answers that have expired")
LOOPS = (
    RENEWALS,
    Loop("job-processor", "job_processor", _processor, purpose="finishes signatures that a dead coordinator began"),
    Loop("job-retry", "job_retry", _retry, purpose="queues a job for whatever is wanted and nothing pursues"),
    Loop("job-timeout", "job_timeout", _timeout, purpose="ends attempts of silent agents and waits that take too long"),
    Loop(health.TOPIC, "agent_health", health.check, rest_s=1.0, purpose="tells of agents that are silent or back"),
    Loop(
        "short-lived-expiry",
        "short_lived_expiry",
        _short_lived,
        purpose="looks after certificates of less than an hour, should a wake-up be lost",
    ),
    Loop(
        "status-transitions",
        "renewal_check",
        _lives,
        topic=renewal_policies.RENEWALS_TOPIC,
        purpose="tells once that a certificate is expiring, has expired, or is active again",
    ),
    CLEANING,
    Loop("secrets", 60.0, _secrets, purpose="seals with the current encryption key what the previous one has sealed"),
    Loop("rules", 60.0, _rules, purpose="holds certificates against changed rules"),
    Loop(operations.OPERATIONS_TOPIC, 10.0, _operations, purpose="works off what was asked for many certificates"),
    Loop(APPROVALS_TOPIC, 60.0, approvals.expire, purpose="cancels what nobody has approved in time"),
    Loop("alerts", 60.0, _alerts, purpose="queues notifications of ends that have come near"),
    *(_delivery(channel) for channel in channels.CHANNELS),
    Loop("tallies", 5.0, _tallies, purpose="folds what has changed into the kept numbers"),
    # Many events of one moment become one batch; what is committed during the rest is sealed right after it.
    Loop(audit.SEALING, _SEALING_S, _sealing, rest_s=0.3, purpose="seals the audit trail"),
    Loop(sealing.EXPORTING, _HEADS_S, _heads, rest_s=1.0, purpose="posts the newest head of the audit trail"),
    Loop(queue.ORDERS_TOPIC, 30.0, working.take_up, purpose="orders certificates from authorities elsewhere"),
    Loop(queue.REVOCATIONS_TOPIC, 600.0, revoking.tell, purpose="tells authorities elsewhere of revocations"),
    Loop(queue.RENEWALS_TOPIC, 3600.0, renewing.ask, purpose="asks authorities elsewhere when to renew"),
    Loop(queue.ANSWERS_TOPIC, 300.0, challenges.take_away_left, purpose="takes away answers that orders have left"),
    Loop("acme-gc", "acme_gc", acme.collect, purpose="forgets what ACME clients left, looks at challenges left over"),
    Loop("audit-months", 3600.0, _months, purpose="makes the audit trail's months and drops old ones"),
)
