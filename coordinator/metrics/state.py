"""Gauges of what the database knows: the same on every coordinator, whichever is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from coordinator.database.connection import Connection
from coordinator.database.listing import EVERYTHING, Scope
from coordinator.metrics import service
from coordinator.stats import service as stats
from core.errors import CertctlError
from core.states import JobState

if TYPE_CHECKING:
    from coordinator.context import Context

_STARTED = time.monotonic()
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Gauges(msgspec.Struct):
    """What there is now. ``certificate_expiring_soon`` is what is due by its own renewal policy."""

    certificate_total: int
    certificate_active: int
    certificate_pending: int
    certificate_expiring_soon: int
    certificate_expired: int
    certificate_revoked: int
    certificate_failing: int
    agent_total: int
    agent_online: int
    job_pending: int


class Counters(msgspec.Struct):
    """What ended since the beginning."""

    job_completed_total: int
    job_failed_total: int
    job_cancelled_total: int


class State(msgspec.Struct):
    """What the database knows. ``service``: certificates by it; ``queue_age_s``: the oldest ready job by its state."""

    gauge: Gauges
    counter: Counters
    service: dict[str, int]
    jobs: dict[str, int]
    queue_age_s: dict[str, float]


def uptime_s() -> float:
    """Return for how many seconds this process has been running."""
    return time.monotonic() - _STARTED


async def read(ctx: Context, conn: Connection, scope: Scope) -> State:
    """Return how things stand within a scope."""
    certificates = await stats.certificates(conn, scope, ctx.clock.now())
    agents, jobs = await stats.agents(ctx, conn), await stats.jobs(conn, scope)
    ended = await stats.ended_jobs(conn, scope)
    life = certificates.life
    return State(
        Gauges(
            certificate_total=certificates.total,
            certificate_active=life["valid"] + life["due"],
            certificate_pending=life["pending"],
            certificate_expiring_soon=life["due"],
            certificate_expired=life["expired"],
            certificate_revoked=life["revoked"],
            certificate_failing=certificates.failing,
            agent_total=agents.total,
            agent_online=agents.online,
            job_pending=jobs.live,
        ),
        Counters(ended[JobState.COMPLETED], ended[JobState.FAILED], ended[JobState.CANCELLED]),
        certificates.service,
        jobs.states,
        jobs.oldest_s,
    )


def text(state: State | None) -> bytes:
    """Return everything in the text format: this process's counters, and what the database knows if it answers."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(state))
    return service.exposition() + generate_latest(registry)


async def listener_text(ctx: Context) -> bytes:
    """Return everything for the metrics listener, which anybody may ask who reaches it: counted now and then only."""

    async def count() -> State:
        async with ctx.db.connection() as conn:
            return await read(ctx, conn, EVERYTHING)

    try:
        return text(await ctx.kept_state.get(count))
    except CertctlError:  # the database is away; what this process counts can be told
        return text(None)


class _Families:
    """Makes the families of a state."""

    def __init__(self, state: State | None) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        yield GaugeMetricFamily("certctl_uptime_seconds", "Seconds since this process began.", value=uptime_s())
        state = self._state
        if state is None:
            return
        for name, value in msgspec.to_builtins(state.gauge).items():
            yield GaugeMetricFamily(f"certctl_{name}", f"{name.replace('_', ' ').capitalize()}.", value=value)
        for name, value in msgspec.to_builtins(state.counter).items():
            yield CounterMetricFamily(f"certctl_{name}", f"{name.replace('_', ' ').capitalize()}.", value=value)
        labelled = (
            ("certctl_certificate_service", "Certificates by how they are served.", "service", state.service),
            ("certctl_job_live", "Jobs in hand, each exact up to 10,000.", "state", state.jobs),
            ("certctl_queue_age_seconds", "Seconds that the oldest ready job has waited.", "state", state.queue_age_s),
        )
        for name, told, label, values in labelled:
            family = GaugeMetricFamily(name, told, labels=[label])
            for value, number in values.items():
                family.add_metric([value], number)
            yield family
