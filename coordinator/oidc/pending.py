"""A sign-in between leaving for the provider and coming back: kept by the browser alone, sealed. Pure.

Nobody is known yet, so nothing is stored for the asking. The cookie's name ends with the beginning of the state, so
that two tabs can sign in at once; its seal is the coordinators' own, so that any of them can go on with it.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import msgspec

from core.errors import InvalidInput, Misconfigured
from core.sealing import Sealer
from core.secret import Secret

PATIENCE = timedelta(minutes=10)
COOKIE_PREFIX = "__Host-certctl-login-"
_NAMED_BY = 12
_MOST_RETURN = 1000
_PLACE = "oidc/pending"


class Pending(msgspec.Struct, frozen=True):
    """What is remembered: ``state`` binds the answer to the browser, ``nonce`` the token, ``verifier`` the code."""

    state: str
    nonce: str
    verifier: str
    return_to: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"Pending({self.state[:_NAMED_BY]}…)"

    @property
    def challenge(self) -> str:
        """Return what the provider is told of the verifier (RFC 7636 section 4.2)."""
        whole = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(whole).decode().rstrip("=")


def begin(return_to: str, now: datetime) -> Pending:
    """Begin a sign-in that ends at a local path."""
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    return Pending(state, nonce, verifier, local_path(return_to), now + PATIENCE)


def cookie_name(state: str) -> str:
    """Return the name of the cookie that belongs to a state; the state is a stranger's, the name is none."""
    return COOKIE_PREFIX + "".join(c for c in state[:_NAMED_BY] if c.isascii() and (c.isalnum() or c in "-_"))


def seal(sealer: Sealer, pending: Pending) -> Secret[str]:
    """Return a cookie's value."""
    return Secret(base64.urlsafe_b64encode(sealer.seal(Secret(msgspec.json.encode(pending)), _PLACE)).decode())


def unseal(sealer: Sealer, value: str, state: str, now: datetime) -> Pending:
    """Return the sign-in that a state belongs to; raise ``InvalidInput`` unless this very browser began it lately."""
    try:
        plain = sealer.open(base64.urlsafe_b64decode(value.encode()), _PLACE).reveal()
        pending = msgspec.json.decode(plain, type=Pending)
    except (ValueError, IndexError, Misconfigured, msgspec.MsgspecError) as error:
        raise _unknown() from error
    if not secrets.compare_digest(pending.state.encode(), state.encode()) or now > pending.expires_at:
        raise _unknown()
    return pending


def local_path(text: str) -> str:
    """Return where to go afterwards; raise ``InvalidInput`` for what is not a path of this host.

    Browsers read two slashes, or one and a backslash, as another host, and skip over control characters.
    """
    parts = urlsplit(text) if text.isprintable() and text.isascii() and len(text) <= _MOST_RETURN else None
    if parts is None or parts.scheme or parts.netloc or not text.startswith("/") or text[1:2] in {"/", "\\"}:
        raise InvalidInput.of("return_to", "is not a path of this coordinator, like /certificates")
    return text


def _unknown() -> InvalidInput:
    return InvalidInput.of("state", "was not begun in this browser within ten minutes; start again at /auth/oidc/login")
