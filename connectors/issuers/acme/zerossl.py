"""Credentials of ZeroSSL by e-mail address: what binds an ACME account to one there (RFC 8555 section 7.3.4)."""

from __future__ import annotations

from urllib.parse import urlencode, urlsplit

import msgspec

from connectors.issuers.acme.problems import printable
from connectors.issuers.acme.transport import Connection, connected
from core.errors import Misconfigured, Refused
from core.secret import Secret

CREDENTIALS_URL = "https://api.zerossl.com/acme/eab-credentials-email"
TIMEOUT_S = 15.0


class ExternalAccount(msgspec.Struct, frozen=True):
    """An account outside of ACME: its key identifier and MAC key in base64url, as the authority shows them."""

    kid: str
    hmac_key: Secret[str]
    algorithm: str = "HS256"


class _Credentials(msgspec.Struct):
    success: bool = False
    eab_kid: str = ""
    eab_hmac_key: str = ""
    error: msgspec.Raw = msgspec.Raw(b"null")


def is_zerossl(directory_url: str) -> bool:
    """Say whether a directory is ZeroSSL's."""
    host = urlsplit(directory_url).hostname or ""
    return host == "zerossl.com" or host.endswith(".zerossl.com")


async def external_account(
    email: str, *, url: str = CREDENTIALS_URL, connection: Connection | None = None
) -> ExternalAccount:
    """Ask for credentials; raise ``Misconfigured`` without an address, ``Refused`` when none are given."""
    if not email:
        raise Misconfigured("ZeroSSL gives credentials for an e-mail address; set email, or eab_kid and eab_hmac")
    chosen = msgspec.structs.replace(connection or Connection(), timeout_s=TIMEOUT_S)
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    what = "asking ZeroSSL for credentials"
    async with connected(chosen) as transport:
        answer = await transport.send("POST", url, content=urlencode({"email": email}).encode(), headers=headers)
    if (error := answer.error(what)) is not None:
        raise error
    given = answer.read(_Credentials, what)
    if not (given.success and given.eab_kid and given.eab_hmac_key):
        reason = printable(bytes(given.error).decode(errors="replace"))
        raise Refused(f"{what}: none were given ({reason}); set eab_kid and eab_hmac from its dashboard")
    return ExternalAccount(given.eab_kid, Secret(given.eab_hmac_key))
