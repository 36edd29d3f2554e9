"""How often the loops run at least. Wake-ups and timers do the work; these intervals are the net beneath them."""

from __future__ import annotations

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
    csr_timeout: timedelta


def load(env: Environment) -> LoopSettings:
    """Read the intervals; one that is too short is a problem that names its variable."""
    return LoopSettings(
        renewal_check=_interval(env, "CERTCTL_SCHEDULER_RENEWAL_CHECK_INTERVAL", timedelta(hours=1), _MINUTE),
        job_processor=_interval(env, "CERTCTL_SCHEDULER_JOB_PROCESSOR_INTERVAL", timedelta(seconds=30)),
        job_retry=_interval(env, "CERTCTL_SCHEDULER_RETRY_INTERVAL", timedelta(minutes=5)),
        job_timeout=_interval(env, "CERTCTL_JOB_TIMEOUT_INTERVAL", timedelta(minutes=10)),
        agent_health=_interval(env, "CERTCTL_SCHEDULER_AGENT_HEALTH_CHECK_INTERVAL", timedelta(minutes=2)),
        short_lived_expiry=_interval(env, "CERTCTL_SHORT_LIVED_EXPIRY_CHECK_INTERVAL", timedelta(seconds=30)),
        csr_timeout=_interval(env, "CERTCTL_JOB_AWAITING_CSR_TIMEOUT", timedelta(hours=24)),
    )


def _interval(env: Environment, name: str, default: timedelta, least: timedelta = _SECOND) -> timedelta:
    def convert(text: str) -> timedelta:
        found = parse_duration(text)
        if not least <= found <= _MOST:
            message = f"is {text!r}; use a duration from {least.total_seconds():.0f}s to {_MOST.days}d"
            raise ValueError(message)
        return found

    return env.read(name, default, convert)
