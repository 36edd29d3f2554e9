"""Entries, and how each kind of keystore takes them."""

from __future__ import annotations

from hashlib import sha256
from typing import Protocol

import pytest
from cryptography.hazmat.primitives.serialization import NoEncryption

from connectors.keystores import jks, pkcs12
from connectors.keystores.entry import DER, PKCS8, Entry
from core.secret import Secret
from tests.agent.deployment.authority import Authority, Key

PASSWORD = "change-it"
SECRET = Secret(PASSWORD)
AUTHORITY = Authority()


class Put(Protocol):
    """One kind of keystore."""

    def __call__(self, content: bytes | None, of: Entry, password: Secret[str] = SECRET) -> bytes: ...


def entry(alias: str = "server", key: Key | None = None) -> Entry:
    issued = AUTHORITY.issue(key=key)
    return Entry(alias, Secret(issued.key.private_bytes(DER, PKCS8, NoEncryption())), issued.chain)


def prints(of: Entry) -> list[str]:
    return [sha256(der).hexdigest() for der in of.chain]


def put_jks(content: bytes | None, of: Entry, password: Secret[str] = SECRET) -> bytes:
    return jks.put(content, of, password, password)


def put_pkcs12(content: bytes | None, of: Entry, password: Secret[str] = SECRET) -> bytes:
    return pkcs12.put(content, of, pkcs12.Protection(password))


def put_legacy(content: bytes | None, of: Entry, password: Secret[str] = SECRET) -> bytes:
    return pkcs12.put(content, of, pkcs12.Protection(password, legacy=True))


KINDS = [
    pytest.param("JKS", put_jks, id="jks"),
    pytest.param("PKCS12", put_pkcs12, id="pkcs12"),
    pytest.param("PKCS12", put_legacy, id="legacy"),
]
