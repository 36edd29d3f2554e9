"""Certificates for ACME clients: download with alternate chains, revocation, renewal information.

RFC 8555 sections 7.4.2 and 7.6, RFC 9773.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from coordinator.certificates import revocation
from coordinator.certificates.revocation import Reason
from coordinator.database.connection import Transaction
from coordinator.database.driver import Columns
from coordinator.database.driver import Record as Row
from coordinator.enrollment.acme import jws, names, store
from coordinator.enrollment.acme.calls import Call, Reply, of_account
from coordinator.enrollment.acme.names import Identifier
from coordinator.enrollment.acme.problems import Problem
from core import acme
from core.certificates import read_certificate
from core.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from coordinator.context import Context

_REASONS: dict[int, Reason] = {
    0: "unspecified",
    1: "keyCompromise",
    3: "affiliationChanged",
    4: "superseded",
    5: "cessationOfOperation",
    9: "privilegeWithdrawn",
}
"""What a client may say (RFC 5280 section 5.3.1): the others are an authority's to say, or none that lasts."""
_SHORT = timedelta(minutes=1)
_PEM = {"Content-Type": "application/pem-certificate-chain"}


class _Revocation(msgspec.Struct):
    certificate: str
    reason: int = 0


async def download(call: Call, _tx: Transaction) -> Reply:
    """Return a chain as PEM, leaf first; the account that ordered it may have it (section 7.4.2).

    The root is left out, except where the root itself has signed: clients take a chain of one for a mistake. The
    alternate is the chain with the root, or then without it.
    """
    call.check_post_as_get()
    found = of_account(call.found, "certificate")
    leaf, served, whole = found["der"], found["served"], found["whole"]
    chains = [[leaf, *issuers] for issuers in ((served, whole) if served else (whole, served))]
    number = 1 if "alternate" in call.path else 0
    url = f"{call.base}/cert/{call.path['version_id']}"
    other = () if chains[0] == chains[1] else (f'<{url}{"" if number else "/alternate"}>;rel="alternate"',)
    pem = b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chains[number])
    return Reply(pem, headers=_PEM, links=other)


async def revoke(call: Call, tx: Transaction) -> Reply:
    """Revoke a certificate: by its account, by its own key, or by an account that is authorized for all its names."""
    body = call.read(_Revocation)
    try:
        certificate = x509.load_der_x509_certificate(acme.decode(body.certificate))
        facts = read_certificate(certificate.public_bytes(Encoding.DER))
    except (ValueError, InvalidInput) as error:
        raise Problem("malformed", "certificate: is not the base64url of a certificate in DER") from error
    if body.reason not in _REASONS:
        detail = f"the reason {body.reason} is not a client's to give; use one of {', '.join(map(str, _REASONS))}"
        raise Problem("badRevocationReason", detail)
    version = await store.version_by_fingerprint(tx, facts.fingerprint)
    if version is None:
        raise Problem("malformed", "the certificate was not issued here", HTTPStatus.NOT_FOUND)
    await _check_may_revoke(call, tx, version, certificate)
    reason = _REASONS[body.reason]
    try:
        await revocation.revoke_version(call.ctx, tx, call.caller, version["certificate_id"], version["id"], reason)
    except Conflict as error:
        raise Problem("alreadyRevoked", error.detail) from error
    return Reply(b"")


async def _check_may_revoke(call: Call, tx: Transaction, version: Row, certificate: x509.Certificate) -> None:
    if call.account is None:
        own = jws.of_public_key(certificate.public_key())
        if own != call.thumbprint:
            raise Problem("unauthorized", "the request is signed neither by an account nor by the certificate's key")
        return
    if version["account_id"] == call.account_id:
        return
    authorized = await store.validated_names(tx, call.account_id)
    for name in read_certificate(certificate.public_bytes(Encoding.DER)).names:
        one = names.read_one(Identifier(name.kind, name.value))
        if (one.kind, one.value, one.wildcard) not in authorized:
            raise Problem("unauthorized", f"this account neither ordered the certificate nor is authorized for {name}")


class Window(NamedTuple):
    """When a certificate should be replaced."""

    start: datetime
    end: datetime


async def renewal_info(ctx: Context, certificate_id: str) -> tuple[dict[str, Any], str]:
    """Return the renewal information of a certificate and its authority's key, for nobody in particular (RFC 9773)."""
    try:
        key_id, serial = acme.read_certificate_id(certificate_id)
    except InvalidInput as error:
        raise Problem("malformed", error.detail) from error
    async with ctx.db.connection() as conn:
        version = await store.version_by_id(conn, key_id, serial)
    if version is None:
        raise Problem("malformed", "no certificate of this server has this identifier", HTTPStatus.NOT_FOUND)
    window = window_of(version)
    told = {"start": _moment(window.start), "end": _moment(window.end)}
    return {"suggestedWindow": told}, str(version["id"])


def window_of(version: Columns) -> Window:
    """Return the window of a version: a twelfth of its lifetime, from when a third of it is left.

    Clients choose a moment in it at random, so that what was issued at once is not renewed at once. That of one
    which was revoked, or which an operator wants replaced, has passed: each client replaces it when it asks next.
    """
    lifetime = version["not_after"] - max(version["not_before"], version["created_at"])
    asked = version["revoked_at"] or version["replace_at"]
    if asked is not None:
        return Window(asked - _SHORT, asked)
    start = version["not_after"] - lifetime / 3
    return Window(start, start + lifetime / 12)


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
