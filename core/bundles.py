"""Files with many certificates in them: PEM, PKCS#12 and JKS, as one list of what they hold.

Private keys are told and not returned. What stands between PEM blocks is explanatory text (RFC 7468 section 2).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

from core.errors import InvalidInput
from core.jks import read_jks
from core.keys import UNREADABLE
from core.secret import Secret

MOST_ENTRIES = 1000
Kind = Literal["certificate", "private key", "other"]
_MARK = re.compile(rb"-----(BEGIN|END) ([A-Z0-9 ]{1,40})-----")
_CERTIFICATES = {"CERTIFICATE", "X509 CERTIFICATE"}


class Entry(NamedTuple):
    """One thing in a file: where it stands or what it is called, and for a certificate its DER."""

    name: str
    kind: Kind
    der: bytes = b""


def read_pem(text: str) -> list[Entry]:
    """Return what a PEM text holds; raise ``InvalidInput`` when that is nothing, or too much."""
    blocks = enumerate(_blocks(text.encode()), 1)
    return _checked([_block(place, label, inner) for place, (label, inner) in blocks], "pem")


def _blocks(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield label and content of each block, in one pass over the data."""
    begin: re.Match[bytes] | None = None
    for mark in _MARK.finditer(data):
        if mark[1] == b"BEGIN":
            begin = mark
        elif begin is not None and mark[2] == begin[2]:
            yield mark[2].decode(), data[begin.end() : mark.start()]
            begin = None


def _block(place: int, label: str, inner: bytes) -> Entry:
    name = f"block {place}"
    if label.endswith("PRIVATE KEY"):
        return Entry(name, "private key")
    if label not in _CERTIFICATES:
        return Entry(f"{name} ({label})", "other")
    try:
        return Entry(name, "certificate", base64.b64decode(b"".join(inner.split()), validate=True))
    except binascii.Error:
        return Entry(f"{name}, which is no base64", "certificate")


def read_pkcs12(data: bytes, password: Secret[str]) -> list[Entry]:
    """Return what a PKCS#12 file holds; raise ``InvalidInput`` when the password does not open it."""
    secret = password.reveal().encode() or None
    try:
        store = pkcs12.load_pkcs12(data, secret)
    except UNREADABLE as error:
        problem = "is no PKCS#12 file that opens with this password"
        raise InvalidInput.of("pkcs12", problem) from error
    found = [Entry("private key", "private key")] if store.key is not None else []
    certificates = [*([store.cert] if store.cert else []), *store.additional_certs]
    for place, held in enumerate(certificates, 1):
        alias = (held.friendly_name or b"").decode(errors="replace")
        found.append(Entry(alias or f"certificate {place}", "certificate", held.certificate.public_bytes(Encoding.DER)))
    return _checked(found, "pkcs12")


def read_keystore(data: bytes, password: Secret[str]) -> list[Entry]:
    """Return what a Java key store of the type JKS holds; raise ``InvalidInput`` when the password is another one."""
    return _checked(list(_of_keystore(data, password)), "jks")


def _of_keystore(data: bytes, password: Secret[str]) -> Iterator[Entry]:
    for entry in read_jks(data, password, most=MOST_ENTRIES):
        if entry.has_key:
            yield Entry(entry.alias, "private key")
        yield from (Entry(entry.alias, "certificate", der) for der in entry.certificates)


def _checked(found: list[Entry], field: str) -> list[Entry]:
    if not found:
        raise InvalidInput.of(field, "holds no certificate; check that it is the right file")
    if len(found) > MOST_ENTRIES:
        raise InvalidInput.of(field, f"has {len(found)} entries; send at most {MOST_ENTRIES} at a time")
    return found
