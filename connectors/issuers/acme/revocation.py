"""Revoking a certificate (RFC 8555 section 7.6), as the account that ordered it or with the certificate's own key."""

from __future__ import annotations

from typing import Any

from connectors.issuers.acme.accounts import Account
from connectors.issuers.acme.client import Session
from connectors.issuers.acme.jose import AccountKey
from connectors.issuers.acme.problems import AlreadyRevoked
from core.acme import encode
from core.errors import InvalidInput

_REASONS = {
    "unspecified": 0,
    "keyCompromise": 1,
    "cACompromise": 2,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "certificateHold": 6,
    "removeFromCRL": 8,
    "privilegeWithdrawn": 9,
    "aACompromise": 10,
}
"""RFC 5280 section 5.3.1. Public authorities take 0, 1, 4 and 5 only."""
_WHAT = "revoking the certificate"


async def revoke(account: Account, certificate: bytes, reason: str = "") -> bool:
    """Revoke a certificate (DER) of the account; return whether it was not revoked before, which is fine as well."""
    return await _revoke(account.session, account.key, account.url, certificate, reason)


async def revoke_with_key(session: Session, key: AccountKey, certificate: bytes, reason: str = "") -> bool:
    """Revoke a certificate with its own private key, without an account; return the same."""
    return await _revoke(session, key, "", certificate, reason)


def reason_code(reason: str) -> int | None:
    """Return the number of a reason, whatever its case; None for none."""
    if not reason:
        return None
    for name, number in _REASONS.items():
        if name.lower() == reason.lower():
            return number
    raise InvalidInput.of("reason", f"is {reason!r}; use one of {', '.join(_REASONS)}")


async def _revoke(session: Session, key: AccountKey, kid: str, certificate: bytes, reason: str) -> bool:
    request: dict[str, Any] = {"certificate": encode(certificate)}
    if (code := reason_code(reason)) is not None:
        request["reason"] = code
    url = session.place((await session.directory()).revoke_cert, _WHAT)
    try:
        await session.post(url, request, key, what=_WHAT, kid=kid)
    except AlreadyRevoked:
        return False
    return True
