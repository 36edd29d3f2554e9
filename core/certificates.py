"""Certificates as values: canonical serial numbers and fingerprints, what a certificate says, chains in order."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from core.errors import InvalidInput
from core.keys import UNREADABLE, KeyAlgorithm, algorithm_of, spki_sha256
from core.names import Name, from_general_name

SERIAL_BITS = 159
"""RFC 5280 section 4.1.2.2 allows 20 octets of a positive number; 159 random bits always fit."""


class CertificateFacts(msgspec.Struct, frozen=True):
    """What a certificate says, in certctl's canonical forms (see ``serial_hex`` and ``fingerprint``)."""

    serial: str
    fingerprint: str
    common_name: str
    names: tuple[Name, ...]
    not_before: datetime
    not_after: datetime
    spki_sha256: str
    key_algorithm: KeyAlgorithm


def new_serial() -> int:
    """Return a positive random serial number of 159 bits; unpredictable, never zero."""
    return secrets.randbits(SERIAL_BITS) | 1 << (SERIAL_BITS - 1)


def serial_hex(serial: int) -> str:
    """Return the one form in which serial numbers are stored and compared: lower-case hex, no padding, no colons."""
    return f"{serial:x}"


def fingerprint(der: bytes) -> str:
    """Return the SHA-256 of a DER certificate in lower-case hex."""
    return hashlib.sha256(der).hexdigest()


def read_certificate(der: bytes, *, field: str = "certificate") -> CertificateFacts:
    """Parse a DER certificate; raise ``InvalidInput`` naming ``field`` when it cannot be read."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        common_names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        names = _names(certificate, field)
    except UNREADABLE as error:
        raise InvalidInput.of(field, f"is not a readable certificate: {error}") from error
    return CertificateFacts(
        serial=serial_hex(certificate.serial_number),
        fingerprint=fingerprint(der),
        common_name=str(common_names[0].value) if common_names else "",
        names=names,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        spki_sha256=spki_sha256(key),
        key_algorithm=algorithm_of(key, field=field),
    )


class AuthorityFacts(msgspec.Struct, frozen=True):
    """What the certificate of an authority says."""

    subject: str
    key_algorithm: str
    path_length: int | None
    not_before: datetime
    not_after: datetime


def authority_key_id(der: bytes) -> str:
    """Return the identifier of the key that signed a certificate in hex; empty where it does not say."""
    try:
        found = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        return ""
    return (found.value.key_identifier or b"").hex()


def read_authority(der: bytes) -> AuthorityFacts:
    """Parse the certificate of an authority, which may have any subject and a key of any kind."""
    certificate = x509.load_der_x509_certificate(der)
    try:
        path_length = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    except x509.ExtensionNotFound:
        path_length = None
    try:
        algorithm = str(algorithm_of(certificate.public_key()))
    except InvalidInput:
        algorithm = "another"
    dates = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return AuthorityFacts(certificate.subject.rfc4514_string(), algorithm, path_length, *dates)


def _names(certificate: x509.Certificate, field: str) -> tuple[Name, ...]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(from_general_name(name, field=field) for name in extension.value)


def to_pem(der: bytes) -> bytes:
    """Return one certificate as PEM."""
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


def chain_to_pem(chain: tuple[bytes, ...]) -> bytes:
    """Return DER certificates as one PEM text in the given order (leaf first)."""
    return b"".join(to_pem(der) for der in chain)


def pem_to_chain(pem: bytes, *, field: str = "chain") -> tuple[bytes, ...]:
    """Return the certificates of a PEM text as DER, in order; raise ``InvalidInput`` when there is none."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except UNREADABLE as error:
        raise InvalidInput.of(field, f"holds no readable PEM certificate: {error}") from error
    return tuple(c.public_bytes(serialization.Encoding.DER) for c in certificates)
