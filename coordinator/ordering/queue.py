"""What is to be asked of authorities elsewhere: put here with the change that calls for it."""

from __future__ import annotations

from coordinator.database.connection import Transaction
from coordinator.ordering import store
from core.ids import new_id

ORDERS_TOPIC = "ca-orders"
REVOCATIONS_TOPIC = "ca-revocations"
RENEWALS_TOPIC = "ca-renewal-info"
ANSWERS_TOPIC = "ca-answers"


async def add(tx: Transaction, request_id: str, job_id: str, certificate_id: str, issuer_id: str) -> None:
    """Have the certificate of a request ordered."""
    await store.insert_order(tx, new_id("cao"), request_id, job_id, certificate_id, issuer_id)
    tx.wake(ORDERS_TOPIC)


async def revoked(tx: Transaction, version_ids: list[str], reason: str) -> None:
    """Have the authorities elsewhere told that these versions are revoked; those that sign here need not be."""
    if await store.insert_revocations(tx, version_ids, reason):
        tx.wake(REVOCATIONS_TOPIC)
