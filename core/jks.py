"""Java key stores of the type JKS: their certificates. Keys in them are passed over unopened.

The form is that of ``sun.security.provider.JavaKeyStore``: a header, entries in a row, and a SHA-1 over password, a
fixed phrase and all of it, which only tells whether the password is right. JCEKS wraps Java objects and is not read.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

from core.errors import InvalidInput
from core.secret import Secret

_MAGIC, _JCEKS = 0xFEEDFEED, 0xCECECECE
_PHRASE = b"Mighty Aphrodite"
_KEY, _CERTIFICATE = 1, 2
_DIGEST = hashlib.sha1(usedforsecurity=False).digest_size


class JKSEntry(NamedTuple):
    """One entry: the certificates of a key, whose own bytes are left where they are, or one that is trusted."""

    alias: str
    has_key: bool
    certificates: tuple[bytes, ...]


def read_jks(data: bytes, password: Secret[str], *, most: int, field: str = "jks") -> list[JKSEntry]:
    """Return the entries of a key store; raise ``InvalidInput`` when it is none, or the password is another one."""
    body, digest = data[:-_DIGEST], data[-_DIGEST:]
    reader = _Reader(body, field)
    magic = reader.number(4)
    if magic == _JCEKS:
        remedy = "convert it: keytool -importkeystore -deststoretype pkcs12"
        raise InvalidInput.of(field, f"is a key store of the type JCEKS, which is not read; {remedy}")
    if magic != _MAGIC:
        raise InvalidInput.of(field, "is no Java key store of the type JKS; newer ones are PKCS#12: send it as pkcs12")
    found = hashlib.sha1(password.reveal().encode("utf-16-be") + _PHRASE + body, usedforsecurity=False).digest()
    if not hmac.compare_digest(found, digest):
        raise InvalidInput.of("password", "does not open the key store, or the key store is damaged")
    version, count = reader.number(4), reader.number(4)
    if count > most:
        raise InvalidInput.of(field, f"has {count} entries; send at most {most} at a time")
    return [_entry(reader, version) for _ in range(count)]


def _entry(reader: _Reader, version: int) -> JKSEntry:
    kind, alias = reader.number(4), reader.text()
    reader.number(8)  # when it was made
    if kind == _CERTIFICATE:
        return JKSEntry(alias, has_key=False, certificates=(_certificate(reader, version),))
    if kind != _KEY:
        raise reader.damaged()
    reader.take(reader.number(4))
    return JKSEntry(
        alias, has_key=True, certificates=tuple(_certificate(reader, version) for _ in range(reader.number(4)))
    )


def _certificate(reader: _Reader, version: int) -> bytes:
    if version != 1:
        reader.text()  # the type, which is X.509
    return reader.take(reader.number(4))


class _Reader:
    """Takes big-endian numbers, texts and bytes off a buffer."""

    def __init__(self, data: bytes, field: str) -> None:
        self._data, self._field, self._at = data, field, 0

    def take(self, size: int) -> bytes:
        if self._at + size > len(self._data):
            raise self.damaged()
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def text(self) -> str:
        return self.take(self.number(2)).decode(errors="replace")

    def damaged(self) -> InvalidInput:
        return InvalidInput.of(self._field, "ends in the middle of an entry, or holds one of an unknown kind")
