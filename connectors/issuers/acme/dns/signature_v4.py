"""Requests signed as Amazon wants it: Signature Version 4, with all headers that are given and the body's hash.

Source: "Create a signed AWS API request", AWS Identity and Access Management User Guide. Paths are encoded once more,
as all services but S3 have it. Nothing is sent here.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec

from core.secret import Secret

_ALGORITHM = "AWS4-HMAC-SHA256"
_UNRESERVED = "-_.~"


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Who signs, and for which service where; temporary credentials have a session token."""

    access_key_id: str
    secret_access_key: Secret[str]
    session_token: Secret[str] | None = None
    region: str
    service: str


def signed(
    credentials: Credentials,
    method: str,
    url: str,
    *,
    now: datetime,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the headers of a request with those that sign it, all in small letters; ``now`` is UTC."""
    parts, stamp = urlsplit(url), now.strftime("%Y%m%dT%H%M%SZ")
    whole = {name.lower(): value for name, value in (headers or {}).items()}
    whole |= {"host": parts.netloc, "x-amz-date": stamp}
    if credentials.session_token is not None:
        whole["x-amz-security-token"] = credentials.session_token.reveal()
    names = ";".join(sorted(whole))
    request = "\n".join(
        [
            method,
            quote(parts.path or "/", safe=f"/{_UNRESERVED}"),
            _canonical_query(parts.query),
            *(f"{name}:{' '.join(whole[name].split())}" for name in sorted(whole)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    scope = f"{stamp[:8]}/{credentials.region}/{credentials.service}/aws4_request"
    text = "\n".join([_ALGORITHM, stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{credentials.secret_access_key.reveal()}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    who = f"Credential={credentials.access_key_id}/{scope}"
    return whole | {"authorization": f"{_ALGORITHM} {who}, SignedHeaders={names}, Signature={signature}"}


def _canonical_query(query: str) -> str:
    pairs = [
        (quote(name, safe=_UNRESERVED), quote(value, safe=_UNRESERVED))
        for name, value in parse_qsl(query, keep_blank_values=True)
    ]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))
