"""What both ends of ACME compute alike: key authorizations, what challenges show of them, certificate identifiers.

RFC 8555 (ACME), RFC 8737 (tls-alpn-01), RFC 8738 (IP addresses), RFC 9773 (renewal information),
draft-ietf-acme-dns-account-label, draft-ietf-acme-dns-persist.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from core.certificates import new_serial, serial_hex
from core.csr import signature_hash
from core.errors import InvalidInput
from core.keys import KeyAlgorithm, generate, to_pem
from core.names import Name, NameKind
from core.secret import Secret

HTTP_01, DNS_01, TLS_ALPN_01 = "http-01", "dns-01", "tls-alpn-01"
DNS_ACCOUNT_01, DNS_PERSIST_01 = "dns-account-01", "dns-persist-01"
URN = "urn:ietf:params:acme:error:"
ALPN_PROTOCOL = "acme-tls/1"
ID_PE_ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
_ALPN_LIFE = timedelta(days=7)
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
_NO_BASE64 = 1
"""A length that leaves this much over four is none that base64 can have."""


def encode(data: bytes) -> str:
    """Return base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Return the bytes of base64url; raise ``ValueError`` for anything but its one form without padding."""
    if not _BASE64URL.fullmatch(text) or len(text) % 4 == _NO_BASE64:
        raise ValueError("is not base64url without padding")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode(data) != text:
        raise ValueError("is base64url with bits left over")
    return data


def key_authorization(token: str, thumbprint: str) -> str:
    """Return what http-01 serves (RFC 8555 section 8.1); ``thumbprint`` is the account key's (RFC 7638)."""
    return f"{token}.{thumbprint}"


def txt_value(key_authorization: str) -> str:
    """Return what dns-01 and dns-account-01 put into a TXT record (RFC 8555 section 8.4)."""
    return encode(hashlib.sha256(key_authorization.encode()).digest())


def alpn_extension(key_authorization: str) -> x509.UnrecognizedExtension:
    """Return the extension of a tls-alpn-01 certificate, which has to be critical (RFC 8737 section 3)."""
    return x509.UnrecognizedExtension(
        ID_PE_ACME_IDENTIFIER, b"\x04\x20" + hashlib.sha256(key_authorization.encode()).digest()
    )


class ALPNCertificate(NamedTuple):
    """What a TLS server shows for tls-alpn-01: a certificate in DER, and its key as PKCS#8 in PEM."""

    certificate: bytes
    key: Secret[bytes]


def alpn_certificate(name: Name, key_authorization: str) -> ALPNCertificate:
    """Make the certificate to show when ``acme-tls/1`` is negotiated for a name (RFC 8737 section 3)."""
    key, now = generate(KeyAlgorithm.ECDSA_P256), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ACME challenge")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(new_serial())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _ALPN_LIFE)
        .add_extension(x509.SubjectAlternativeName([name.general_name()]), critical=False)
        .add_extension(alpn_extension(key_authorization), critical=True)
        .sign(key, signature_hash(key))
    )
    return ALPNCertificate(certificate.public_bytes(serialization.Encoding.DER), to_pem(key))


def alpn_server_name(name: Name) -> str:
    """Return what a tls-alpn-01 client asks for by SNI: an address by its reverse name (RFC 8738 section 6)."""
    if name.kind is NameKind.IP:
        return ipaddress.ip_address(name.value).reverse_pointer
    return name.value


def dns_name(identifier: str, account_url: str = "", *, persist: bool = False) -> str:
    """Return where a name is validated in the DNS; a wildcard as the name that it hangs on.

    With ``account_url`` that of dns-account-01 (draft-ietf-acme-dns-account-label section 3.1), with ``persist``
    that of dns-persist-01 (draft-ietf-acme-dns-persist section 3).
    """
    base = identifier.removeprefix("*.")
    if persist:
        return f"_validation-persist.{base}"
    if account_url:
        label = base64.b32encode(hashlib.sha256(account_url.encode()).digest()[:10]).decode().lower()
        return f"_{label}._acme-challenge.{base}"
    return f"_acme-challenge.{base}"


def certificate_id(authority_key_id: bytes, serial: int) -> str:
    """Return the identifier of a certificate in renewal information (RFC 9773 section 4.1)."""
    length = serial.bit_length() // 8 + 1  # DER's content octets, a leading zero included
    return f"{encode(authority_key_id)}.{encode(serial.to_bytes(length, 'big'))}"


def certificate_id_of(certificate: x509.Certificate) -> str:
    """Return the same of a certificate, empty where its extension does not name its authority's key."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        return ""
    key_id = extension.key_identifier
    return certificate_id(key_id, certificate.serial_number) if key_id else ""


def read_certificate_id(text: str) -> tuple[str, str]:
    """Return the authority's key identifier in hex and the serial number as certctl writes it."""
    try:
        key_id, serial = (decode(part) for part in text.split("."))
    except ValueError as error:
        raise InvalidInput.of("certificate", "is not the base64url of a key id, a dot and that of a serial") from error
    if not key_id or not serial:
        raise InvalidInput.of("certificate", "lacks a key identifier or a serial number")
    return key_id.hex(), serial_hex(int.from_bytes(serial, "big"))
