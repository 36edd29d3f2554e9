"""When an authority wants a certificate renewed (ACME Renewal Information, RFC 9773): asked for, and followed.

A moment of each window is chosen once. It takes the place of the renewal policy's own time, in both directions: a
window in the past means now.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import structlog
from cryptography import x509

from connectors.issuers.acme.renewal_info import renewal_info, select_time
from coordinator.database.connection import Transaction
from coordinator.database.driver import Record as Row
from coordinator.ordering import accounts, store
from coordinator.renewal_policies import service as renewal_policies
from core.crash import crash_point
from core.errors import CertctlError, Transient

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger()
_BATCH = 100
_HOLD = timedelta(seconds=30)
_AFTER_ERROR = timedelta(hours=6)
_WITHOUT = timedelta(days=1)
_RANDOM = SystemRandom()


def _before_its_end(moment: datetime, certificate: x509.Certificate) -> datetime:
    """Return a moment early enough to try more than once, whatever an authority says."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return min(moment, end - (end - start) / 20)


async def watch(tx: Transaction, certificate_id: str, agent_id: str, version_id: str, issuer_id: str) -> None:
    """Have the authority asked about a holder's new version."""
    await store.watch_renewal(tx, certificate_id, agent_id, version_id, issuer_id)


async def ask(ctx: Context) -> float | None:
    """Ask about what is to be asked about now; return the seconds to the next."""
    while True:
        async with ctx.db.transaction() as tx:
            await store.forget_outdated(tx)
            rows = await store.renewals_to_check(tx, _BATCH, _HOLD)
        for row in rows:
            await _ask(ctx, row)
        if len(rows) < _BATCH:
            break
    async with ctx.db.connection() as conn:
        return await store.seconds_to_check(conn)


async def _ask(ctx: Context, row: Row) -> None:
    window, delay = await _window(ctx, row)
    async with ctx.db.transaction() as tx:
        kept = await store.set_window(tx, row, window, delay)
        if kept and window.get("renew_at") is not None:
            about = row["certificate_id"], row["agent_id"], row["version_id"]
            await renewal_policies.renew_at(tx, *about, window["renew_at"])
        crash_point("ca_order.window_stored")


async def _window(ctx: Context, row: Row) -> tuple[dict[str, Any], timedelta]:
    """Return what the authority says, with the moment that was or is now chosen, and after how long to ask again."""
    before = {"start": row["window_start"], "end": row["window_end"], "renew_at": row["renew_at"]}
    try:
        authority = await accounts.authority(ctx, row["issuer_id"])
        if not authority.config.ari_enabled:
            return {}, _WITHOUT
        found = await renewal_info(authority.account.session, x509.load_der_x509_certificate(row["der"]))
    except CertctlError as error:
        retry = timedelta(seconds=error.retry_after_s) if isinstance(error, Transient) else timedelta()
        return before | {"problem": error.detail}, retry or _AFTER_ERROR
    if found is None:
        return {}, _WITHOUT
    again = timedelta(seconds=found.retry_after_s)
    if (found.start, found.end) == (row["window_start"], row["window_end"]):
        return before | {"explanation_url": found.explanation_url}, again
    chosen = _before_its_end(select_time(found, _RANDOM), x509.load_der_x509_certificate(row["der"]))
    log.info("renewal_window", certificate_id=row["certificate_id"], start=str(found.start), end=str(found.end))
    said = {"start": found.start, "end": found.end, "explanation_url": found.explanation_url}
    return said | {"renew_at": chosen}, again
