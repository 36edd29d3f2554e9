"""Identifiers: a prefix that says what the thing is, then a UUIDv7 (RFC 9562) in lower-case base32.

Ids made here sort by time of creation. Callers may choose the id of a named resource (``mc-api-prod``); ``check``
says whether a chosen one is acceptable.
"""

from __future__ import annotations

import base64
import os
import re
import time

from core.errors import InvalidInput

_CHOSEN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")


def uuid7() -> bytes:
    """Return 16 bytes: 48 bits of Unix milliseconds, version, 74 random bits, variant (RFC 9562 section 5.7)."""
    value = int(time.time() * 1000).to_bytes(6) + os.urandom(10)
    return value[:6] + bytes([0x70 | value[6] & 0x0F, value[7], 0x80 | value[8] & 0x3F]) + value[9:]


def new_id(prefix: str) -> str:
    """Return a fresh id, e.g. ``mc-06kq3…`` for prefix ``mc``.

    The alphabet is base32hex (0-9, a-v), whose order is that of the bytes, so ids sort by time.
    """
    return f"{prefix}-{base64.b32hexencode(uuid7()).decode().rstrip('=').lower()}"


def chosen_pattern(prefix: str) -> str:
    """Return what ``check_chosen`` takes, as a pattern for JSON schemas."""
    return f"^{prefix}-{_CHOSEN.pattern.replace('(?:', '(')}$"


def check_chosen(prefix: str, value: str, *, field: str = "id") -> str:
    """Return ``value`` if it may be the id of a new resource with this ``prefix``, else raise ``InvalidInput``."""
    rest = value.removeprefix(f"{prefix}-")
    if rest == value or not _CHOSEN.fullmatch(rest):
        problem = f"must be '{prefix}-' followed by 1 to 64 of a-z, 0-9 and '-', for instance {prefix}-api-prod"
        raise InvalidInput.of(field, problem)
    return value
