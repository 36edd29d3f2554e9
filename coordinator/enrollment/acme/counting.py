"""Counters of the ACME server: requests and failures of each operation, and how validations ended."""

from __future__ import annotations

from prometheus_client import Counter

from coordinator.metrics.service import REGISTRY

OPERATIONS = (
    "directory",
    "new_nonce",
    "new_account",
    "account",
    "orders",
    "new_order",
    "order",
    "finalize",
    "new_authz",
    "authz",
    "challenge",
    "cert",
    "key_change",
    "revoke_cert",
    "renewal_info",
)
_DONE = {
    name: Counter(f"certctl_acme_{name}", f"ACME requests answered: {name}.", registry=REGISTRY) for name in OPERATIONS
}
_FAILED = {
    name: Counter(f"certctl_acme_{name}_failures", f"ACME requests refused: {name}.", registry=REGISTRY)
    for name in OPERATIONS
}
_VALIDATIONS = Counter(
    "certctl_acme_validations",
    "Challenges that were looked at, by how they ended.",
    ["type", "outcome"],
    registry=REGISTRY,
)
_PERSPECTIVES = Counter(
    "certctl_acme_perspectives",
    "Looks at challenges that agents were asked for, by how they ended.",
    ["state"],
    registry=REGISTRY,
)
_COLLECTED = Counter("certctl_acme_gc_rows", "Rows of the ACME server that were forgotten.", registry=REGISTRY)


def request(operation: str, *, failed: bool) -> None:
    """Count one answer."""
    (_FAILED if failed else _DONE)[operation].inc()


def validation(kind: str, outcome: str) -> None:
    """Count one validation: ``valid``, or the name of the error."""
    _VALIDATIONS.labels(kind, outcome).inc()


def perspective(state: str) -> None:
    """Count what became of a look that an agent was asked for."""
    _PERSPECTIVES.labels(state).inc()


def collected(rows: int) -> None:
    """Count rows that were forgotten."""
    _COLLECTED.inc(rows)
