"""Secrets of targets, sealed so that one agent alone can open them, and only for the field they were entered in.

HPKE in base mode (RFC 9180): DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM, one context for each secret. Target
and field are bound by ``info``, which is where section 8.1 puts them when there is one message in a context. A sealed
secret says nothing of who sealed it: whoever knows an agent's public key can.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from core.errors import InvalidInput, Refused
from core.secret import Secret

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_128_GCM)
TARGET_SECRET = b"certctl target secret v1\0"
GIVEN_KEY = b"certctl given key v1\0"
"""What a sealed value is: a secret of a target, or a private key, with certificate and job for target and field."""


def seal(public_key: bytes, plain: Secret[str], target_id: str, field: str, *, context: bytes = TARGET_SECRET) -> bytes:
    """Return a secret that only the owner of ``public_key`` (X25519, raw) can open, for this target and field."""
    try:
        key = X25519PublicKey.from_public_bytes(public_key)
        return _SUITE.encrypt(plain.reveal().encode(), key, _info(context, target_id, field))
    except ValueError as error:  # of low order: anybody could open it (RFC 9180 section 7.1.4)
        raise InvalidInput.of("agent_id", "has a sealing key that cannot be used; enroll it as a new agent") from error


def open_sealed(
    private_key: X25519PrivateKey, sealed: bytes, target_id: str, field: str, *, context: bytes = TARGET_SECRET
) -> Secret[str]:
    """Return what was sealed for this key, target and field; raise ``Refused`` for anything else."""
    try:
        return Secret(_SUITE.decrypt(sealed, private_key, _info(context, target_id, field)).decode())
    except (InvalidTag, ValueError) as error:
        problem = "cannot be opened with this agent's key; enter it again in the target"
        raise Refused(f"config.{field} {problem}") from error


def _info(context: bytes, target_id: str, field: str) -> bytes:
    return context + target_id.encode() + b"\0" + field.encode()
