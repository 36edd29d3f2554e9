"""How the audit trail is sealed: bytes, hashes and signatures, without a database.

Events are sealed in batches. Each event has a *leaf*: its id, its instant and the SHA-256 of its canonical bytes. A
batch's *head* is the SHA-256 of its number, range, leaves and time together with the head before, and is signed with
Ed25519. Whoever has one head has all that came before it.

Canonical bytes are compact JSON arrays in a fixed order, times as whole microseconds since 1970 in UTC. A leaf is
48 bytes: id and instant as signed 64-bit numbers (big endian), then the hash. Leaves stay when retention removes their
events, so that what is left of a batch can still be checked, and what is missing can be told from what was removed.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FIRST = bytes(32)
"""What stands for the head before the first one."""
KEY_ID_LENGTH = 16
_HEAD_CONTEXT = b"certctl audit head v1\0"
_MONTH_CONTEXT = b"certctl audit month dropped v1\0"
_LEAF = struct.Struct(">qq32s")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Event(NamedTuple):
    """One event as it is sealed; ``details`` is the text of its JSON as PostgreSQL writes it."""

    id: int
    at: datetime
    era: int
    xact: int
    actor: str
    action: str
    resource_type: str
    resource_id: str
    request_id: str
    details: str


class Leaf(NamedTuple):
    """What a batch keeps of an event."""

    id: int
    at_us: int
    digest: bytes

    @property
    def month(self) -> date:
        """Return the first day of the month (UTC) whose partition has the event."""
        return (_EPOCH + self.at_us * _MICROSECOND).date().replace(day=1)


class Batch(NamedTuple):
    """What a head is the hash of. The range of transaction ids is half-open."""

    number: int
    era: int
    from_xact: int
    to_xact: int
    leaves: bytes
    previous: bytes
    key_id: str
    sealed_at: datetime

    @property
    def events(self) -> int:
        """Return how many events it holds."""
        return len(self.leaves) // _LEAF.size

    def head(self) -> bytes:
        """Return the SHA-256 over everything in it, chained with the head before."""
        bounds = [self.number, self.era, self.from_xact, self.to_xact, self.events]
        leaves = hashlib.sha256(self.leaves).hexdigest()
        fields = [*bounds, leaves, self.previous.hex(), self.key_id, microseconds(self.sealed_at)]
        return hashlib.sha256(_HEAD_CONTEXT + msgspec.json.encode(fields)).digest()


def microseconds(moment: datetime) -> int:
    """Return an instant as whole microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def leaf_of(event: Event) -> Leaf:
    """Return an event's leaf."""
    at_us = microseconds(event.at)
    canonical = msgspec.json.encode([event.id, at_us, *event[2:]])
    return Leaf(event.id, at_us, hashlib.sha256(canonical).digest())


def pack(leaves: Iterable[Leaf]) -> bytes:
    """Return leaves as a batch keeps them."""
    return b"".join(_LEAF.pack(*leaf) for leaf in leaves)


def unpack(leaves: bytes) -> Iterator[Leaf]:
    """Yield the leaves of a batch; raise ``ValueError`` for bytes that are none."""
    try:
        yield from (Leaf(*fields) for fields in _LEAF.iter_unpack(leaves))
    except struct.error as error:
        raise ValueError(str(error)) from error


def key_id(public_key: bytes) -> str:
    """Return the name of a sealing key."""
    return hashlib.sha256(public_key).hexdigest()[:KEY_ID_LENGTH]


def sign_head(key: Ed25519PrivateKey, head: bytes) -> bytes:
    """Sign a head."""
    return key.sign(_HEAD_CONTEXT + head)


def is_signed_head(public_key: bytes, signature: bytes, head: bytes) -> bool:
    """Say whether a head was signed with this key."""
    return _verified(public_key, signature, _HEAD_CONTEXT + head)


def sign_month(key: Ed25519PrivateKey, month: date, dropped_at: datetime) -> bytes:
    """Sign that retention removes a month."""
    return key.sign(_month_message(month, dropped_at))


def is_signed_month(public_key: bytes, signature: bytes, month: date, dropped_at: datetime) -> bool:
    """Say whether the holder of this key had a month removed."""
    return _verified(public_key, signature, _month_message(month, dropped_at))


def _month_message(month: date, dropped_at: datetime) -> bytes:
    return _MONTH_CONTEXT + msgspec.json.encode([month.isoformat(), microseconds(dropped_at)])


def _verified(public_key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
