"""Secrets of the coordinator at rest: AES-256-GCM envelopes under a key derived from CERTCTL_CONFIG_ENCRYPTION_KEY.

Envelope: version (1 byte, 0x01) | key id (4 bytes) | nonce (12) | ciphertext and tag. The associated data names the
place (``issuer_keys/iss-local/<ski>``), so that an envelope moved to another row does not open. Derivation (scrypt)
runs once at start. The key id tells which key seals; the previous key still opens, and everything that it sealed is
sealed anew once all coordinators know the current one (``coordinator.encryption``).
"""

from __future__ import annotations

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from core.errors import Misconfigured
from core.secret import Secret

VERSION = 1
KEY_ID_BYTES = 4
NONCE_BYTES = 12
_SALT = b"certctl config encryption v1"


class Sealer:
    """Seals and opens; made from the current key and, during a rotation, the previous one."""

    def __init__(self, current: Secret[bytes], previous: Secret[bytes] | None = None) -> None:
        masters = [_derive(key) for key in (current, previous) if key is not None]
        self._masters = masters
        self._derived: dict[bytes, tuple[bytes, ...]] = {}
        self._keys = {_key_id(master): AESGCM(_expand(master, b"seal")) for master in masters}
        self._active = _key_id(masters[0])
        self.key_ids = tuple(key_id.hex() for key_id in self._keys)
        self.current = self.key_ids[0]
        """The ids, in hex, of the keys that open, the current one first, and that of the current one."""

    def derived(self, purpose: bytes) -> tuple[bytes, ...]:
        """Return 32-byte keys of their own for ``purpose``, the same in every coordinator; the current one first."""
        if purpose not in self._derived:
            self._derived[purpose] = tuple(_expand(master, b"derived " + purpose) for master in self._masters)
        return self._derived[purpose]

    def choose(self, *, current: bool) -> bool:
        """Seal with the current key from now on, or with the previous one; say whether that is a change."""
        before, self._active = self._active, bytes.fromhex(self.key_ids[0 if current else -1])
        return before != self._active

    def seal(self, plain: Secret[bytes], place: str) -> bytes:
        """Return an envelope that opens only for ``place``."""
        nonce = os.urandom(NONCE_BYTES)
        header = bytes([VERSION]) + self._active
        return header + nonce + self._keys[self._active].encrypt(nonce, plain.reveal(), header + place.encode())

    def sealed_anew(self, envelope: bytes, place: str) -> bytes | None:
        """Return the same secret under the current key, or None when it is sealed by that or that is not in use yet.

        Raises ``Misconfigured`` like ``open``, so that it serves as a check as well.
        """
        plain = self.open(envelope, place)
        current = bytes.fromhex(self.current)
        sealed_by_it = envelope[1 : 1 + KEY_ID_BYTES] == current
        return None if sealed_by_it or self._active != current else self.seal(plain, place)

    def open(self, envelope: bytes, place: str) -> Secret[bytes]:
        """Return what was sealed for ``place``; raise ``Misconfigured`` when the key is another one."""
        header, rest = envelope[: 1 + KEY_ID_BYTES], envelope[1 + KEY_ID_BYTES :]
        cipher = self._keys.get(header[1:])
        if cipher is None or header[0] != VERSION:
            raise Misconfigured(_wrong_key(header[1:].hex()))
        try:
            return Secret(cipher.decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], header + place.encode()))
        except (InvalidTag, ValueError) as error:
            message = f"the stored secret {place} was changed or moved outside of certctl; restore it from a backup"
            raise Misconfigured(message) from error


def _wrong_key(key_id: str) -> str:
    return (
        f"stored secrets were sealed with another key (id {key_id}): set CERTCTL_CONFIG_ENCRYPTION_KEY to the one that "
        "was used before, or give that one as CERTCTL_CONFIG_ENCRYPTION_KEY_PREVIOUS"
    )


def _derive(key: Secret[bytes]) -> bytes:
    return hashlib.scrypt(key.reveal(), salt=_SALT, n=2**14, r=8, p=1, dklen=32)


def _expand(master: bytes, purpose: bytes) -> bytes:
    return HKDFExpand(SHA256(), 32, purpose).derive(master)


def _key_id(master: bytes) -> bytes:
    return hmac.digest(master, b"key id", "sha256")[:KEY_ID_BYTES]
