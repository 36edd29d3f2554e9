"""Telling authorities of revocations, until they know (RFC 8555 section 7.6)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from connectors.issuers.acme.revocation import revoke
from coordinator.access.service import SYSTEM
from coordinator.audit import service as audit
from coordinator.database.driver import Record as Row
from coordinator.ordering import accounts, store
from core.crash import crash_point
from core.errors import CertctlError, InvalidInput, Refused, Transient
from core.renewal import retry_delay

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger()
_BATCH = 20
_HOLD = timedelta(seconds=30)
_LONGEST = timedelta(hours=1)
_PUBLIC_REASONS = {"unspecified", "keyCompromise", "superseded", "cessationOfOperation"}
"""What authorities take from a subscriber; another reason is told as unspecified."""


async def tell(ctx: Context) -> float | None:
    """Tell what is to be told now; return the seconds to the next."""
    while True:
        async with ctx.db.transaction() as tx:
            rows = await store.claim_revocations(tx, _BATCH, _HOLD)
        for row in rows:
            await _tell(ctx, row)
        if len(rows) < _BATCH:
            break
    async with ctx.db.connection() as conn:
        return await store.seconds_to_revocation(conn)


async def _tell(ctx: Context, row: Row) -> None:
    reason = row["reason"] if row["reason"] in _PUBLIC_REASONS else ""
    try:
        authority = await accounts.authority(ctx, row["issuer_id"])
        fresh = await _revoke(authority, bytes(row["der"]), reason)
    except CertctlError as error:
        delay = retry_delay(row["failures"] + 1, longest=_LONGEST)
        if isinstance(error, Transient):
            delay = max(delay, timedelta(seconds=error.retry_after_s))
        log.warning("revocation_not_told", version_id=row["version_id"], detail=error.detail)
        async with ctx.db.transaction() as tx:
            await store.postpone_revocation(tx, row["version_id"], delay, error.detail)
        return
    async with ctx.db.transaction() as tx:
        await store.end_revocation(tx, row["version_id"])
        details = {"version_id": row["version_id"], "issuer_id": row["issuer_id"], "fresh": fresh}
        await audit.record(tx, SYSTEM, "certificate.revocation_told", "certificate", row["certificate_id"], details)
        crash_point("ca_order.revocation_told")


async def _revoke(authority: accounts.Authority, der: bytes, reason: str) -> bool:
    try:
        return await revoke(authority.account, der, reason)
    except (InvalidInput, Refused):
        if not reason:
            raise
        return await revoke(authority.account, der)  # an authority may not take this reason, yet the revocation
