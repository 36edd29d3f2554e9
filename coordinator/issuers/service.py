"""The local authority's keys and what it publishes.

A CA key is made or loaded once, sealed, and opened when first used; it survives restarts and is the same on every
replica. URLs in leaves name the key (``…/{issuer}/{ski}``), so a new key never leaves old certificates without a CRL.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from connectors.issuers.local import LocalIssuer, RevokedCertificate, check_authority, make_root
from coordinator.access.service import SYSTEM
from coordinator.audit import service as audit
from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Columns
from coordinator.database.sealed import SealedColumn
from coordinator.issuers import secrets, store
from coordinator.web.table import Actor
from core import keys, marking
from core.certificates import pem_to_chain
from core.crash import crash_point
from core.errors import InvalidInput, Misconfigured, NotFound, Refused
from core.secret import Secret

if TYPE_CHECKING:
    from coordinator.context import Context

LOCAL, ACME = "iss-local", "iss-acme"
_SEEDED = "ACME, of the environment"
CRL_LIFETIME = timedelta(hours=24)


def certificate_url(base: str, issuer_id: str, ski: str) -> str:
    """Return where relying parties fetch the issuing certificate (AIA), or nothing without a public listener."""
    return f"{base}/.well-known/pki/ca/{issuer_id}/{ski}.cer" if base else ""


def crl_url(base: str, issuer_id: str, ski: str) -> str:
    """Return where relying parties fetch the CRL (CDP), or nothing without a public listener."""
    return f"{base}/.well-known/pki/crl/{issuer_id}/{ski}.crl" if base else ""


async def ensure_local(ctx: Context, tx: Transaction) -> None:
    """Create the issuer ``iss-local`` with its key at first start; take over the CA files when they are given."""
    await store.insert(tx, LOCAL, "Local CA", "local")
    await store.get(tx, LOCAL, lock=True)
    current = await store.key(tx, LOCAL)
    wanted = _from_files(ctx)
    if wanted is None and current is None:
        wanted = make_root("certctl local CA", ctx.clock.now())
    if wanted is None or (
        current is not None and current["ski"] == wanted.ski and tuple(current["chain"]) == wanted.chain
    ):
        return
    await keep_key(ctx, tx, SYSTEM, LOCAL, wanted)
    crash_point("start.issuer_key")


async def seed(ctx: Context, tx: Transaction) -> None:
    """Make the issuer ``iss-acme`` that CERTCTL_ACME_* describe, unless it is there: then it is changed by the API."""
    config = ctx.settings.issuing.acme
    if config is None or await store.get(tx, ACME) is not None:
        return
    given = ctx.settings.issuing.acme_secrets
    values = {"name": _SEEDED, "type": "acme", "config": config, "enabled": True, "parent_issuer_id": None}
    await store.TABLE.insert(tx, ACME, {**values, "secret_paths": sorted(given)})
    await secrets.keep(ctx, tx, ACME, given)
    details = audit.Described({"name": _SEEDED, "type": "acme", "config": marking.shown(config, given)})
    await audit.record(tx, SYSTEM, "issuer.created", "issuer", ACME, details)


async def keep_key(
    ctx: Context, tx: Transaction, actor: Actor, issuer_id: str, key: LocalIssuer, request_id: str = ""
) -> None:
    """Store a key, sealed, and make it the issuer's current one; the one before goes on serving its CRL."""
    sealed = ctx.sealer.seal(keys.to_pem(key.key), _place(issuer_id, key.ski))
    await store.insert_key(tx, issuer_id, key.ski, key.chain, sealed, key.certificate.not_valid_after_utc)
    details = {"ski": key.ski, "subject": key.certificate.subject.rfc4514_string()}
    await audit.record(tx, actor, "issuer.key_added", "issuer", issuer_id, details, request_id)


def _from_files(ctx: Context) -> LocalIssuer | None:
    cert_path, key_path = ctx.settings.ca_cert_path, ctx.settings.ca_key_path
    if cert_path is None or key_path is None:
        return None
    try:
        chain = pem_to_chain(read_file(cert_path, "CERTCTL_CA_CERT_PATH"))
        key = keys.from_pem(Secret(read_file(key_path, "CERTCTL_CA_KEY_PATH")))
    except InvalidInput as error:
        raise Misconfigured(
            f"the CA in CERTCTL_CA_CERT_PATH / CERTCTL_CA_KEY_PATH cannot be used: {error.detail}"
        ) from error
    return check_authority(LocalIssuer(key, chain), ctx.clock.now())


def read_file(path: Path, variable: str) -> bytes:
    """Return a file that a variable names; raise ``Misconfigured`` that names the variable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{variable}: {path} cannot be read: {error.strerror}") from error


def _place(issuer_id: str, ski: str) -> str:
    return f"issuer_keys/{issuer_id}/{ski}"


SEALED = SealedColumn(
    "issuer_keys", ("issuer_id", "ski"), "sealed_key", lambda row: _place(row["issuer_id"], row["ski"])
)


async def seal_keys_anew(ctx: Context, tx: Transaction) -> None:
    """Bring CA keys under the current encryption key; raise ``Misconfigured`` when none that was given opens one."""
    for row in await store.keys(tx):
        sealed = ctx.sealer.sealed_anew(row["sealed_key"], _place(row["issuer_id"], row["ski"]))
        if sealed is not None:
            await store.save_sealed_key(tx, row["issuer_id"], row["ski"], sealed)
            crash_point("start.issuer_key_resealed")


async def signer(ctx: Context, tx: Transaction, issuer_id: str, ski: str | None = None) -> LocalIssuer:
    """Return an issuer's current signer, or the one with ``ski``; raise ``Refused`` when it may not sign."""
    return signer_of(ctx, issuer_id, await store.signing_key(tx, issuer_id, ski))


def signer_of(ctx: Context, issuer_id: str, row: Columns | None) -> LocalIssuer:
    """Return the signer of ``ski``, ``chain`` and ``sealed_key``; raise ``Refused`` without ``issuer_enabled``."""
    if row is None or not row["issuer_enabled"]:
        stand = "switched off" if row else "not there"
        detail = f"issuer {issuer_id} is {stand}; choose another issuer for the certificate"
        raise Refused(detail)
    return _opened(ctx, issuer_id, row)


async def check_there(conn: Connection, issuer_id: str) -> None:
    """Raise ``NotFound`` unless there is such an issuer."""
    if await store.get(conn, issuer_id) is None:
        detail = f"there is no issuer {issuer_id}"
        raise NotFound(detail)


async def current(ctx: Context, conn: Connection, issuer_id: str) -> LocalIssuer:
    """Return an issuer's current key, switched on or not; raise ``NotFound``."""
    return await _key(ctx, conn, issuer_id, None)


async def _key(ctx: Context, tx: Connection, issuer_id: str, ski: str | None) -> LocalIssuer:
    """Return a key of an issuer; raise ``NotFound``."""
    return _opened(ctx, issuer_id, await store.key(tx, issuer_id, ski))


def _opened(ctx: Context, issuer_id: str, row: Columns | None) -> LocalIssuer:
    """Return a key, opened at most once in this process."""
    if row is None or row["ski"] is None:
        raise _no_key(issuer_id)
    name, chain = (issuer_id, str(row["ski"])), tuple(row["chain"])
    cached = ctx.signers.get(name)
    if cached is None or cached.chain != chain:
        cached = LocalIssuer(keys.from_pem(ctx.sealer.open(row["sealed_key"], _place(*name))), chain)
        ctx.signers[name] = cached
    return cached


def _no_key(issuer_id: str) -> NotFound:
    return NotFound(f"issuer {issuer_id} has no such key here")


async def issuing_certificate(ctx: Context, issuer_id: str, ski: str | None) -> bytes:
    """Return a CA certificate in DER; raise ``NotFound``."""
    async with ctx.db.connection() as conn:
        row = await store.key(conn, issuer_id, ski)
    if row is None:
        raise _no_key(issuer_id)
    return bytes(row["chain"][0])


async def crl(ctx: Context, issuer_id: str, ski: str | None) -> tuple[bytes, datetime]:
    """Return a key's CRL in DER and its nextUpdate, made anew when half of its time has passed; raise ``NotFound``."""
    now = ctx.clock.now()
    async with ctx.db.connection() as conn:
        row = await store.key(conn, issuer_id, ski)
        if row is None:
            raise _no_key(issuer_id)
        stored = await store.crl(conn, issuer_id, row["ski"])
    if stored and stored["this_update"] <= now < stored["this_update"] + CRL_LIFETIME / 2:
        return stored["der"], stored["next_update"]
    return await _new_crl(ctx, issuer_id, row["ski"], now)


async def _new_crl(ctx: Context, issuer_id: str, ski: str, now: datetime) -> tuple[bytes, datetime]:
    now = now.replace(microsecond=0)
    next_update = now + CRL_LIFETIME
    async with ctx.db.transaction() as tx:
        await store.lock_key(tx, issuer_id, ski)
        stored = await store.crl(tx, issuer_id, ski)
        number = stored["number"] + 1 if stored else 1
        rows = await store.revoked(tx, issuer_id, ski, now)
        revoked = [
            RevokedCertificate(int(r["serial"], 16), r["revoked_at"], r["revocation_reason"] or "") for r in rows
        ]
        # An issuer that was switched off still answers for what it has signed.
        authority = await _key(ctx, tx, issuer_id, ski)
        der = await asyncio.to_thread(authority.sign_crl, number, revoked, now, next_update)
        await store.save_crl(tx, issuer_id, ski, number, now, next_update, der)
    return der, next_update
