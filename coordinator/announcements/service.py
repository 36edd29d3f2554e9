"""Tells what happened by itself: in the log, in the audit trail, and to whoever queues messages for people.

The caller stores in the same transaction that it was told; so it is told once, whoever dies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import structlog

from coordinator.access.service import SYSTEM
from coordinator.audit import service as audit
from coordinator.database.connection import Transaction

log = structlog.get_logger()
Severity = Literal["info", "warning", "error", "critical"]


class Change(NamedTuple):
    """``event`` is the audit trail's action, like ``certificate.expired``; ``details`` are plain values."""

    event: str
    resource_type: str
    resource_id: str
    severity: Severity
    details: Mapping[str, object]


async def tell(tx: Transaction, change: Change) -> None:
    """Tell of a change; whoever sends messages queues them here, in the same transaction."""
    await audit.record(tx, SYSTEM, change.event, change.resource_type, change.resource_id, change.details)
    words = {f"{change.resource_type}_id": change.resource_id, **change.details}
    tx.after_commit(lambda: getattr(log, change.severity)(change.event.replace(".", "_"), **words))
