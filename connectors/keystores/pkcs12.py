"""PKCS#12 (RFC 7292): a file with one key and its chain, and keystores of Java in which one entry is put.

Of a keystore all else stays: keys byte for byte as they are encrypted, certificates with their attributes under the
protection they had. What is protected by public keys instead of a password is not read.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from asn1crypto import cms
from asn1crypto import pkcs12 as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from connectors.keystores import pbe
from connectors.keystores.entry import Entry, KeystoreError, WrongPassword
from core.secret import Secret

_ITERATIONS = 10_000
_TRUSTED = "trusted_key_usage"
"""The attribute by which Java knows a certificate that it trusts on its own (2.16.840.1.113894.746875.1.1)."""

_MODERN, _LEGACY = "pbes2", "pkcs12_sha1_tripledes_3key"


class Protection(msgspec.Struct, frozen=True):
    """The password, and whether what is written has to be read by Java and OpenSSL of before 2018."""

    password: Secret[str]
    legacy: bool = False


def make(entry: Entry, protection: Protection) -> bytes:
    """Return a file that holds the entry and nothing else: AES-256 and SHA-256, or 3DES and SHA-1 as ``legacy``."""
    leaf, *above = (x509.load_der_x509_certificate(der) for der in entry.chain)
    key: Any = serialization.load_der_private_key(entry.key.reveal(), None)
    pbes = pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC if protection.legacy else pkcs12.PBES.PBESv2SHA256AndAES256CBC
    encryption = (
        serialization.PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(_ITERATIONS)
        .key_cert_algorithm(pbes)
        .hmac_hash(hashes.SHA1() if protection.legacy else hashes.SHA256())  # noqa: S303 - all that they can check
        .build(protection.password.reveal().encode())
    )
    return pkcs12.serialize_key_and_certificates(entry.alias.encode(), key, leaf, above, encryption)


def replace(content: bytes | None, entry: Entry, protection: Protection) -> bytes:
    """Return a file that holds the entry alone: ``content`` where that is so, also if nothing there can be opened."""
    if content:
        try:
            safe = _Safe(content, protection.password)
            if len(safe.bags) == len(entry.chain) + 1 and safe.holds(entry, protection):
                return content
        except KeystoreError:
            pass
    return make(entry, protection)


def put(content: bytes | None, entry: Entry, protection: Protection) -> bytes:
    """Return the keystore, a new one for None, with the entry under its alias; as it was where it is there already.

    Raises ``WrongPassword`` and ``KeystoreError``.
    """
    made = make(entry, protection)
    if not content:
        return made
    safe = _Safe(content, protection.password)
    if safe.holds(entry, protection):
        return content
    return _sealed([*safe.without(entry), *_Safe(made, protection.password).infos], protection)


class _Bag:
    """One thing in the file: a key, a certificate or something else, with what its attributes say."""

    def __init__(self, bag: asn1.SafeBag) -> None:
        self.asn1 = bag
        self.kind: str = bag["bag_id"].native
        self.is_key = self.kind in {"key_bag", "pkcs8_shrouded_key_bag"}
        attributes = {one["type"].native: one["values"].native for one in bag["bag_attributes"] or ()}
        self.alias: str = (attributes.get("friendly_name") or [""])[0]
        self.key_id: bytes | None = (attributes.get("local_key_id") or [None])[0]
        self.is_trusted = _TRUSTED in attributes
        self.certificate: x509.Certificate | None = None
        if self.kind == "cert_bag" and bag["bag_value"]["cert_id"].native == "x509":
            self.certificate = x509.load_der_x509_certificate(bytes(bag["bag_value"]["cert_value"]))


class _Safe:
    """An opened file: its parts, and the bags of each."""

    def __init__(self, content: bytes, password: Secret[str]) -> None:
        self._password = password
        with _reading():
            pfx = asn1.Pfx.load(content)
            _check_mac(pfx, password)
            self.infos: list[cms.ContentInfo] = list(pfx.authenticated_safe)
            self._parts = [[_Bag(bag) for bag in asn1.SafeContents.load(self._opened(info))] for info in self.infos]

    @property
    def bags(self) -> list[_Bag]:
        """Return what is in all parts."""
        return [bag for part in self._parts for bag in part]

    @property
    def _certificates(self) -> list[_Bag]:
        return [bag for bag in self.bags if bag.certificate and not bag.is_trusted]

    def holds(self, entry: Entry, protection: Protection) -> bool:
        """Say whether the entry is there, encrypted as it would be written now."""
        named = [bag for bag in self.bags if bag.is_key and entry.is_named(bag.alias)]
        if len(named) != 1 or named[0].kind == "key_bag":
            return False
        hidden = named[0].asn1["bag_value"]
        if hidden["encryption_algorithm"]["algorithm"].native != (_LEGACY if protection.legacy else _MODERN):
            return False
        with _reading():
            try:
                key = pbe.decrypt(hidden["encryption_algorithm"], hidden["encrypted_data"].native, self._password)
            except ValueError:
                return False  # it has another password than the keystore, and will be replaced
            chain = [bag.certificate for bag in self._chain(named[0]) if bag.certificate]
            return entry.holds(key, tuple(one.public_bytes(serialization.Encoding.DER) for one in chain))

    def without(self, entry: Entry) -> list[cms.ContentInfo]:
        """Return the parts without the entry's key, its leaf and what of its chain no other key needs."""
        if any(bag.is_trusted and entry.is_named(bag.alias) for bag in self.bags):
            raise KeystoreError(f"holds a trusted certificate as {entry.alias!r}; choose another alias")
        keys = [bag for bag in self.bags if bag.is_key]
        gone = [bag for bag in keys if entry.is_named(bag.alias)]
        needed = [bag for key in keys if key not in gone for bag in self._chain(key)]
        leaving = [bag.certificate for key in gone for bag in self._chain(key)]
        gone += [bag for bag in self._certificates if bag.certificate in leaving and bag not in needed]
        with _reading():
            parts = [self._kept(info, part, gone) for info, part in zip(self.infos, self._parts, strict=True)]
        return [part for part in parts if part is not None]

    def _opened(self, info: cms.ContentInfo) -> bytes:
        kind, content = info["content_type"].native, info["content"]
        if kind == "data":
            return bytes(content)
        if kind != "encrypted_data":
            raise KeystoreError(f"holds a part of kind {kind}, which is not read; convert it with keytool or openssl")
        encrypted = content["encrypted_content_info"]
        algorithm = encrypted["content_encryption_algorithm"]
        return pbe.decrypt(algorithm, encrypted["encrypted_content"].native, self._password)

    def _kept(self, info: cms.ContentInfo, part: Sequence[_Bag], gone: Sequence[_Bag]) -> cms.ContentInfo | None:
        kept = [bag.asn1 for bag in part if bag not in gone]
        if len(kept) == len(part) or not kept:
            return info if kept else None
        data = asn1.SafeContents(kept).dump()
        if info["content_type"].native == "data":
            return cms.ContentInfo({"content_type": "data", "content": data})
        algorithm = info["content"]["encrypted_content_info"]["content_encryption_algorithm"].copy()
        pbe.renew(algorithm)
        encrypted = {
            "content_type": "data",
            "content_encryption_algorithm": algorithm,
            "encrypted_content": pbe.encrypt(algorithm, data, self._password),
        }
        content = {"version": "v0", "encrypted_content_info": encrypted}
        return cms.ContentInfo({"content_type": "encrypted_data", "content": content})

    def _chain(self, key: _Bag) -> list[_Bag]:
        """Return a key's certificates, leaf first, each issued by the next."""
        chain = [bag for bag in self._certificates if key.key_id is not None and bag.key_id == key.key_id][:1]
        while chain:
            above = [bag for bag in self._certificates if bag not in chain and _is_issuer(bag, chain[-1])]
            if not above:
                break
            chain.append(above[0])
        return chain


def _is_issuer(above: _Bag, below: _Bag) -> bool:
    return bool(above.certificate and below.certificate and above.certificate.subject == below.certificate.issuer)


def _sealed(infos: Sequence[cms.ContentInfo], protection: Protection) -> bytes:
    safe, salt, digest = asn1.AuthenticatedSafe(infos).dump(), os.urandom(20), _digest(protection)
    mac = pbe.mac(digest, safe, salt, _ITERATIONS, protection.password)
    mac_data = {
        "mac": {"digest_algorithm": {"algorithm": digest}, "digest": mac},
        "mac_salt": salt,
        "iterations": _ITERATIONS,
    }
    content = {"content_type": "data", "content": safe}
    der: bytes = asn1.Pfx({"version": "v3", "auth_safe": content, "mac_data": mac_data}).dump()
    return der


def _digest(protection: Protection) -> str:
    return "sha1" if protection.legacy else "sha256"


def _check_mac(pfx: asn1.Pfx, password: Secret[str]) -> None:
    facts = pfx["mac_data"]
    if not facts.native:
        raise KeystoreError("has no MAC, so that its password cannot be checked; write it anew with keytool or openssl")
    digest = facts["mac"]["digest_algorithm"]["algorithm"].native
    if digest not in hashlib.algorithms_available:
        raise KeystoreError(f"has a MAC of kind {digest}, which is not read; write it anew with keytool or openssl")
    salt, iterations = facts["mac_salt"].native, facts["iterations"].native
    expected = pbe.mac(digest, bytes(pfx["auth_safe"]["content"]), salt, iterations, password)
    if not hmac.compare_digest(expected, facts["mac"]["digest"].native):
        raise WrongPassword("does not open with this password, or is damaged")


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        # The parser's words may quote what it could not read.
        raise KeystoreError(
            "is damaged or of a kind that is not read; write it anew with keytool or openssl"
        ) from error
