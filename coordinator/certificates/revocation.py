"""Revoking what was issued for a certificate, as far as the inventory is concerned: who asks for a CRL is told there.

A revoked version says nothing of what is wanted: as long as the certificate is, its holders renew it at once, with new
keys. Where the reason says that the service itself ends or rests, nothing is renewed until somebody asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from coordinator.audit import service as audit
from coordinator.bindings import service as bindings
from coordinator.certificates import store
from coordinator.database.connection import Transaction
from coordinator.database.driver import Record as Row
from coordinator.ordering import queue
from core.crash import crash_point
from core.errors import Conflict

if TYPE_CHECKING:
    from coordinator.certificates.service import Caller
    from coordinator.context import Context

Reason = Literal[
    "unspecified",
    "keyCompromise",
    "cACompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "certificateHold",
    "privilegeWithdrawn",
    "aACompromise",
]
"""The reasons of RFC 5280 section 5.3.1 for which a certificate is revoked."""
_ENDS = {"cessationOfOperation", "certificateHold"}


class Revoked(NamedTuple):
    """The versions that were revoked just now, and the jobs that replace them."""

    version_ids: list[str]
    job_ids: list[str]


async def revoke(
    ctx: Context, tx: Transaction, caller: Caller, row: Row, reason: Reason, *, renew: bool | None = None
) -> Revoked:
    """Revoke every version of a locked certificate that has not expired, and renew it if it is still wanted.

    ``renew`` None leaves that to the reason. Raises ``Conflict`` when there is nothing to revoke.
    """
    certificate_id, now = row["id"], ctx.clock.now()
    versions = await store.revoke(tx, certificate_id, now, reason)
    if not versions:
        latest = await store.newest_revocation(tx, certificate_id)
        why = "has no version that is still valid, so there is nothing to revoke"
        if latest is not None:
            why = f"was revoked already, at {latest['revoked_at']:%Y-%m-%dT%H:%M:%SZ} ({latest['revocation_reason']})"
        raise Conflict(f"certificate {certificate_id} {why}")
    await queue.revoked(tx, [version["id"] for version in versions], reason)
    job_ids: list[str] = []
    if row["archived_at"] is not None or not (reason not in _ENDS if renew is None else renew):
        why = f"revoked ({reason}) and not renewed; renew it, or archive it if nobody wants it any more"
        await bindings.stop_renewing(tx, certificate_id, why)
    else:
        job_ids = await bindings.renew_revoked(tx, caller.actor, certificate_id, now)
    version_ids = [version["id"] for version in versions]
    details = {
        "reason": reason,
        "version_ids": version_ids,
        "serials": [version["serial"] for version in versions],
        "job_ids": job_ids,
    }
    action = "certificate.revoked"
    await audit.record(tx, caller.actor, action, "certificate", certificate_id, details, caller.request_id)
    crash_point("certificate.revoked")
    return Revoked(version_ids, job_ids)


async def revoke_version(
    ctx: Context, tx: Transaction, caller: Caller, certificate_id: str, version_id: str, reason: Reason
) -> None:
    """Revoke one version that a client holds, which replaces it by itself; raise ``Conflict`` if that was done."""
    await store.locked(tx, [certificate_id])
    serial = await store.revoke_version(tx, version_id, ctx.clock.now(), reason)
    if serial is None:
        detail = f"version {version_id} was revoked already"
        raise Conflict(detail)
    await store.stand_anew(tx, [certificate_id])
    await queue.revoked(tx, [version_id], reason)
    details = {"reason": reason, "version_ids": [version_id], "serials": [serial], "job_ids": []}
    action = "certificate.revoked"
    await audit.record(tx, caller.actor, action, "certificate", certificate_id, details, caller.request_id)
    crash_point("certificate.revoked")
