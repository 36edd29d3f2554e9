"""Counters of this process. Each coordinator has one registry; counts of the fleet are sums over its replicas."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

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


def http_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count one answered request under its route's pattern, never under the path itself."""
    _REQUESTS.labels(method, route, str(status)).inc()
    _DURATION.labels(method, route).observe(seconds)


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
