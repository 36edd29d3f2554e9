"""Counters of this process. Each coordinator has one registry; counts of the fleet are sums over its replicas.

No label has a value that somebody outside chooses: routes are patterns, classes and outcomes are the code's own.
"""

from __future__ import annotations

from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from core.errors import (
    CertctlError,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    Refused,
    TooManyRequests,
    Transient,
    Unauthenticated,
)

REGISTRY = CollectorRegistry()
_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
_REQUESTS = Counter(
    "certctl_http_requests", "HTTP requests answered.", ["method", "route", "status"], registry=REGISTRY
)
_DURATION = Histogram(
    "certctl_http_request_duration_seconds",
    "Seconds from request to answer, or to the begin of a wait for work.",
    ["method", "route"],
    registry=REGISTRY,
    buckets=_BUCKETS,
)
_WAITING = Gauge("certctl_polls_waiting", "Agents whose poll waits for work here.", registry=REGISTRY)

_LOOPS = Gauge("certctl_loops_running", "1 on the coordinator that runs the loops, 0 on the others.", registry=REGISTRY)

_LIMITED = Counter(
    "certctl_rate_limited", "Requests answered with 429, by what was used up.", ["scope"], registry=REGISTRY
)
_CUT = Counter(
    "certctl_connections_cut",
    "Connections ended because their peer was too slow or sent too much, by what it owed.",
    ["owed"],
    registry=REGISTRY,
)
_ISSUED = Counter(
    "certctl_issuance", "Requests for a signature, by how they ended.", ["issuer_type", "outcome"], registry=REGISTRY
)
_ISSUANCE = Histogram(
    "certctl_issuance_duration_seconds",
    "Seconds from a CSR at the gate to its stored certificate.",
    ["issuer_type"],
    registry=REGISTRY,
    buckets=_BUCKETS,
)
_NOT_ISSUED = Counter(
    "certctl_issuance_failures",
    "Requests for a signature that failed, by the class of their error.",
    ["issuer_type", "error_class"],
    registry=REGISTRY,
)
_DEPLOYED = Counter(
    "certctl_deploy", "Deployments that were reported, by their outcome.", ["outcome"], registry=REGISTRY
)
_DEPLOYMENT = Histogram(
    "certctl_deploy_duration_seconds",
    "Seconds that the steps of a deployment took, as its agent reported.",
    ["outcome"],
    registry=REGISTRY,
    buckets=_BUCKETS,
)
_WOKEN = Histogram(
    "certctl_wakeup_latency_seconds",
    "Seconds from a commit to the moment in which its wake-up was heard through the database.",
    registry=REGISTRY,
    buckets=_BUCKETS,
)
_STREAMS = Gauge("certctl_event_streams", "Callers that follow events here.", registry=REGISTRY)
_CLASSES: tuple[tuple[type[CertctlError], str], ...] = (
    (DeadlineExceeded, "timeout"),
    (TooManyRequests, "rate_limited"),
    (Transient, "network"),
    (Unauthenticated, "auth"),
    (Forbidden, "auth"),
    (InvalidInput, "validation"),
    (Refused, "validation"),
)


def issued(issuer_type: str, seconds: float) -> None:
    """Count a signature and how long it took from the CSR on."""
    _ISSUED.labels(issuer_type, "success").inc()
    _ISSUANCE.labels(issuer_type).observe(seconds)


def not_issued(issuer_type: str, error: CertctlError) -> None:
    """Count a request for a signature that failed."""
    _ISSUED.labels(issuer_type, "failure").inc()
    known = next((word for kind, word in _CLASSES if isinstance(error, kind)), "other")
    _NOT_ISSUED.labels(issuer_type, known).inc()


def deployed(outcome: str, seconds: float) -> None:
    """Count a deployment that an agent reported as ``served`` or ``failed``."""
    _DEPLOYED.labels(outcome).inc()
    _DEPLOYMENT.labels(outcome).observe(seconds)


def woken(seconds: float) -> None:
    """Note how long a wake-up was under way."""
    _WOKEN.observe(seconds)


def event_streams(count: int) -> None:
    """Tell how many callers follow events."""
    _STREAMS.set(count)


def http_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count one answered request under its route's pattern, never under the path itself."""
    count, duration = _of_route(method, route, status)
    count.inc()
    duration.observe(seconds)


@cache
def _of_route(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return _REQUESTS.labels(method, route, str(status)), _DURATION.labels(method, route)


def polls_waiting(count: int) -> None:
    """Tell how many agents wait for work."""
    _WAITING.set(count)


def loops_run_here(*, running: bool) -> None:
    """Tell whether it is this coordinator's turn to run the loops."""
    _LOOPS.set(running)


def rate_limited(scope: str) -> None:
    """Count a refusal."""
    _LIMITED.labels(scope).inc()


def connection_cut(owed: str) -> None:
    """Count a connection that was ended before its time."""
    _CUT.labels(owed).inc()


def exposition() -> bytes:
    """Return the registry in the text format."""
    return generate_latest(REGISTRY)
