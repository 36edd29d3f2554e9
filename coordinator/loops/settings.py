"""How often the loops run at least. Wake-ups and timers do the work; these intervals are the net beneath them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from core.environment import Environment, parse_duration

_SECOND, _MINUTE, _MOST = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=30)


class LoopSettings(NamedTuple):
    """Intervals by loop, and how long an issuance waits for its agent's CSR."""

    renewal_check: timedelta
    job_processor: timedelta
    job_retry: timedelta
    job_timeout: timedelta
    agent_health: timedelta
    short_lived_expiry: timedelta
    acme_gc: timedelta
    csr_timeout: timedelta


def load(env: Environment) -> LoopSettings:
    """Read the intervals; one that is too short is a problem that names its variable."""
    every = _at_least(_SECOND)
    return LoopSettings(
        renewal_check=env.read("CERTCTL_SCHEDULER_RENEWAL_CHECK_INTERVAL", timedelta(hours=1), _at_least(_MINUTE)),
        job_processor=env.read("CERTCTL_SCHEDULER_JOB_PROCESSOR_INTERVAL", timedelta(seconds=30), every),
        job_retry=env.read("CERTCTL_SCHEDULER_RETRY_INTERVAL", timedelta(minutes=5), every),
        job_timeout=env.read("CERTCTL_JOB_TIMEOUT_INTERVAL", timedelta(minutes=10), every),
        agent_health=env.read("CERTCTL_SCHEDULER_AGENT_HEALTH_CHECK_INTERVAL", timedelta(minutes=2), every),
        short_lived_expiry=env.read("CERTCTL_SHORT_LIVED_EXPIRY_CHECK_INTERVAL", timedelta(seconds=30), every),
        acme_gc=env.read("CERTCTL_ACME_SERVER_GC_INTERVAL", timedelta(minutes=1), every),
        csr_timeout=env.read("CERTCTL_JOB_AWAITING_CSR_TIMEOUT", timedelta(hours=24), every),
    )


def _at_least(least: timedelta) -> Callable[[str], timedelta]:
    def convert(text: str) -> timedelta:
        found = parse_duration(text)
        if not least <= found <= _MOST:
            message = f"is {text!r}; use a duration from {least.total_seconds():.0f}s to {_MOST.days}d"
            raise ValueError(message)
        return found

    return convert
