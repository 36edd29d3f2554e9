"""JKS, the keystore of Java before version 9, as ``sun.security.provider.JavaKeyStore`` and ``KeyProtector`` write it.

All but the entry that is put stays byte for byte. Its keys are hidden by a scheme of Sun's own around SHA-1, which is
weak and the only one there is; JCEKS and version 1 of the format are not written.
"""

from __future__ import annotations

import hmac
import os
import struct
from collections.abc import Iterator
from hashlib import sha1

import msgspec
from asn1crypto import core, keys

from connectors.keystores.entry import Entry, KeystoreError, WrongPassword
from core.secret import Secret

MAGIC = b"\xfe\xed\xfe\xed"
_VERSION = 2
_KEY, _TRUSTED = 1, 2
_DIGEST = 20
_WHITENER = b"Mighty Aphrodite"
_PROTECTED_BY_SUN = "1.3.6.1.4.1.42.2.17.1.1"


def put(content: bytes | None, entry: Entry, password: Secret[str], key_password: Secret[str], now_ms: int) -> bytes:
    """Return the keystore, a new one for None, with the entry under its alias; as it was where it is there already.

    Raises ``WrongPassword`` and ``KeystoreError``. A key that does not open with the key password is replaced.
    """
    found = _read(content, password) if content else []
    others = [one for one in found if not entry.is_named(one.alias)]
    for old in found:
        if old in others:
            continue
        if old.tag != _KEY:
            raise KeystoreError(f"holds a trusted certificate as {entry.alias!r}; choose another alias")
        key = _shown(old.key, key_password)
        if content and key and entry.holds(key, old.chain):
            return content
    return _written([*others, _made(entry, key_password, now_ms)], password)


class _Entry(msgspec.Struct, frozen=True):
    """One entry: all its bytes, and what they say."""

    raw: bytes
    tag: int
    alias: str
    key: bytes = b""
    chain: tuple[bytes, ...] = ()


class _Reader:
    """Takes big-endian fields off the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise KeystoreError("is cut off or damaged; bring back a copy of it")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self, size: int) -> bytes:
        return self.take(self.number(size))


def _read(content: bytes, password: Secret[str]) -> list[_Entry]:
    body, digest = content[:-_DIGEST], content[-_DIGEST:]
    if not hmac.compare_digest(_digest(body, password), digest):
        raise WrongPassword("does not open with this password, or is damaged")
    reader = _Reader(body)
    if reader.take(4) != MAGIC or reader.number(4) != _VERSION:
        raise KeystoreError("is not JKS version 2; convert it with keytool -importkeystore")
    return list(_entries(reader, reader.number(4)))


def _entries(reader: _Reader, count: int) -> Iterator[_Entry]:
    for _ in range(count):
        start = reader.at
        tag, alias, _date, key, chain = reader.number(4), reader.sized(2).decode(), reader.take(8), b"", []
        if tag not in {_KEY, _TRUSTED}:
            raise KeystoreError(f"has an entry of kind {tag}, which is not JKS; convert it with keytool")
        if tag == _KEY:
            key = reader.sized(4)
        for _ in range(reader.number(4) if tag == _KEY else 1):
            _type = reader.sized(2)
            chain.append(reader.sized(4))
        yield _Entry(reader.data[start : reader.at], tag, alias, key, tuple(chain))


def _written(entries: list[_Entry], password: Secret[str]) -> bytes:
    body = MAGIC + struct.pack(">II", _VERSION, len(entries)) + b"".join(entry.raw for entry in entries)
    return body + _digest(body, password)


def _made(entry: Entry, key_password: Secret[str], now_ms: int) -> _Entry:
    alias, key = entry.alias.lower(), _hidden(entry.key.reveal(), key_password)
    chain = b"".join(_sized(2, b"X.509") + _sized(4, der) for der in entry.chain)
    head = struct.pack(">I", _KEY) + _sized(2, alias.encode()) + struct.pack(">Q", now_ms)
    return _Entry(head + _sized(4, key) + struct.pack(">I", len(entry.chain)) + chain, _KEY, alias)


def _sized(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size, "big") + data


def _digest(body: bytes, password: Secret[str]) -> bytes:
    return sha1(_encoded(password) + _WHITENER + body).digest()  # noqa: S324 - the format's own


def _hidden(key: bytes, password: Secret[str]) -> bytes:
    secret, salt = _encoded(password), os.urandom(_DIGEST)
    data = salt + _mixed(key, secret, salt) + sha1(secret + key).digest()  # noqa: S324 - the format's own
    algorithm = {"algorithm": _PROTECTED_BY_SUN, "parameters": core.Null()}
    der: bytes = keys.EncryptedPrivateKeyInfo({"encryption_algorithm": algorithm, "encrypted_data": data}).dump()
    return der


def _shown(protected: bytes, password: Secret[str]) -> bytes | None:
    try:
        data = keys.EncryptedPrivateKeyInfo.load(protected)["encrypted_data"].native
    except (ValueError, TypeError):
        return None
    secret = _encoded(password)
    key = _mixed(data[_DIGEST:-_DIGEST], secret, data[:_DIGEST])
    return key if hmac.compare_digest(sha1(secret + key).digest(), data[-_DIGEST:]) else None  # noqa: S324 - likewise


def _mixed(data: bytes, secret: bytes, salt: bytes) -> bytes:
    stream, block = b"", salt
    while len(stream) < len(data):
        block = sha1(secret + block).digest()  # noqa: S324 - the format's own
        stream += block
    return bytes(one ^ other for one, other in zip(data, stream, strict=False))


def _encoded(password: Secret[str]) -> bytes:
    return password.reveal().encode("utf-16-be")
