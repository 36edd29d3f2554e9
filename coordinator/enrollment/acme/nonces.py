"""Nonces (RFC 8555 section 6.5): given out without being stored, known by a MAC, stored when they are used.

Any replica gives them out and takes them, since the MAC's key is derived from the encryption key that all of them have.
A used one is a row until it would have run out anyway, so none is taken twice, not even after a restart.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from datetime import timedelta

from core import acme
from core.sealing import Sealer

_PURPOSE = b"acme nonces"
_TIME_BYTES, _RANDOM_BYTES, _MAC_BYTES = 5, 9, 16
_LENGTH = _TIME_BYTES + _RANDOM_BYTES + _MAC_BYTES


def make(sealer: Sealer) -> str:
    """Return a nonce of the current second."""
    body = int(time.time()).to_bytes(_TIME_BYTES, "big") + os.urandom(_RANDOM_BYTES)
    return acme.encode(body + _mac(sealer.derived(_PURPOSE)[0], body))


def read(sealer: Sealer, text: str, ttl: timedelta) -> bytes | None:
    """Return a nonce's bytes when it is one of ours and has not run out; whether it was used is not looked at."""
    try:
        nonce = acme.decode(text)
    except ValueError:
        return None
    body, mac = nonce[:-_MAC_BYTES], nonce[-_MAC_BYTES:]
    if len(nonce) != _LENGTH or not any(hmac.compare_digest(mac, _mac(key, body)) for key in sealer.derived(_PURPOSE)):
        return None
    age_s = time.time() - int.from_bytes(body[:_TIME_BYTES], "big")
    return nonce if -ttl.total_seconds() < age_s < ttl.total_seconds() else None


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, body, hashlib.sha256)[:_MAC_BYTES]
