"""Certificates that somebody else has issued: what they say, also where certctl would never issue such a thing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import NameOID

from core.certificates import fingerprint, serial_hex
from core.errors import InvalidInput
from core.keys import UNREADABLE, algorithm_of, spki_sha256
from core.names import Name, from_general_name, parse_name

_MOST_LINKS = 8
_MOST_TEXT = 250


class Foreign(NamedTuple):
    """What a certificate says. ``names`` are those that certctl could ask for, ``left_out`` counts the others."""

    certificate: x509.Certificate
    der: bytes
    fingerprint: str
    serial: str
    subject: str
    common_name: str
    names: tuple[Name, ...]
    left_out: int
    key_algorithm: str
    spki_sha256: str
    not_before: datetime
    not_after: datetime
    is_authority: bool


def read_foreign(der: bytes) -> Foreign:
    """Parse a DER certificate of any origin; raise ``InvalidInput`` when it cannot be read at all."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        names, left_out = _names(certificate)
        subject = certificate.subject.rfc4514_string()
        common_names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        is_authority = _is_authority(certificate)
        spki = spki_sha256(key)
    except UNREADABLE as error:
        raise InvalidInput.of("certificate", f"is not a readable certificate: {error}") from error
    said = str(common_names[0].value) if common_names else names[0].value if names else subject
    return Foreign(
        certificate,
        der,
        fingerprint(der),
        serial_hex(certificate.serial_number),
        _printable(subject),
        _printable(said) or serial_hex(certificate.serial_number),
        names or _from_text(said),
        left_out,
        _algorithm(key),
        spki,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        is_authority,
    )


def chain_of(leaf: Foreign, authorities: Sequence[Foreign]) -> list[Foreign]:
    """Return the authorities above a leaf, nearest first, without the root."""
    chain: list[Foreign] = []
    link = leaf
    while len(chain) < _MOST_LINKS:
        above = next((each for each in authorities if each not in chain and _issued(each, link)), None)
        if above is None or above.certificate.issuer == above.certificate.subject:
            break
        chain.append(above)
        link = above
    return chain


def _issued(above: Foreign, below: Foreign) -> bool:
    if above.certificate.subject != below.certificate.issuer:
        return False
    try:
        below.certificate.verify_directly_issued_by(above.certificate)
    except UNREADABLE:
        return False
    return True


def _names(certificate: x509.Certificate) -> tuple[tuple[Name, ...], int]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return (), 0
    found: dict[Name, None] = {}
    left_out = 0
    for name in extension.value:
        try:
            found[from_general_name(name)] = None
        except InvalidInput:
            left_out += 1
    return tuple(found), left_out


def _from_text(text: str) -> tuple[Name, ...]:
    """Return the name that a common name is, from the times before there were others."""
    try:
        return (parse_name(text),)
    except InvalidInput:
        return ()


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return certificate.version is x509.Version.v1 and certificate.issuer == certificate.subject


def _algorithm(key: CertificatePublicKeyTypes) -> str:
    try:
        return str(algorithm_of(key))
    except InvalidInput:
        pass
    match key:
        case rsa.RSAPublicKey():
            return f"rsa-{key.key_size}"
        case dsa.DSAPublicKey():
            return f"dsa-{key.key_size}"
        case ec.EllipticCurvePublicKey():
            return f"ec-{key.curve.name}"
        case _:
            return type(key).__name__.removesuffix("PublicKey").lower()


def _printable(text: str) -> str:
    """Return a text as it may be stored and shown on one line."""
    return "".join(each if each.isprintable() else "?" for each in text)[:_MOST_TEXT]
