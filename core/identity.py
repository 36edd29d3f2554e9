"""An agent's own identity: an Ed25519 key that signs, an X25519 key that secrets are sealed to.

The private halves never leave the agent; the coordinator stores and checks the public ones.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from core.errors import InvalidInput, Unauthenticated
from core.wire import NONCE_CONTEXT, REPORT_CONTEXT

KEY_BYTES = 32


def nonce_message(agent_id: str, nonce: bytes) -> bytes:
    """Return what an agent signs to show who it is."""
    return NONCE_CONTEXT + agent_id.encode() + b"\0" + nonce


def sign_report(key: Ed25519PrivateKey, payload: bytes) -> bytes:
    """Return the signature that binds a report to this agent."""
    return key.sign(REPORT_CONTEXT + payload)


def verify(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Raise ``Unauthenticated`` unless ``signature`` over ``message`` was made by ``public_key``'s owner."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        detail = "the signature does not fit the agent's identity key; the agent must enroll again if its key was lost"
        raise Unauthenticated(detail) from error


def check_public_key(value: bytes, *, field: str) -> bytes:
    """Return a raw public key of 32 bytes, or raise ``InvalidInput`` naming ``field``."""
    if len(value) != KEY_BYTES:
        raise InvalidInput.of(field, f"is {len(value)} bytes long; a raw public key has {KEY_BYTES}")
    return value
