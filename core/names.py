"""Names in certificates: DNS names, IP addresses, e-mail addresses, URIs (RFC 5280 section 4.2.1.6).

One canonical form everywhere: DNS names lower-case A-labels without a trailing dot (RFC 5891), addresses as
``ipaddress`` prints them, e-mail with a lower-case domain. Hostile look-alikes (bidi controls, zero-width characters,
mixed scripts inside a label) are refused before they can become an A-label.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from enum import StrEnum
from urllib.parse import urlsplit

import idna
import msgspec
from cryptography import x509

from core.errors import InvalidInput

MAX_COMMON_NAME = 64
"""ub-common-name, RFC 5280 appendix A.1; longer names go into the subjectAltName only."""
MAX_DNS_NAME = 253
MAX_EMAIL = 254
MAX_URI = 2000

_DOT_ATOM = re.compile(r"[\w!#$%&'*+/=?^`{|}~-]+(\.[\w!#$%&'*+/=?^`{|}~-]+)*", re.ASCII)
"""The local part of an address without quotes, RFC 5321 section 4.1.2."""
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


class NameKind(StrEnum):
    """The kinds of general name that certctl signs."""

    DNS = "dns"
    IP = "ip"
    EMAIL = "email"
    URI = "uri"


class Name(msgspec.Struct, frozen=True, order=True):
    """One subject alternative name in canonical form."""

    kind: NameKind
    value: str

    def __str__(self) -> str:
        return self.value

    def general_name(self) -> x509.GeneralName:
        """Return the ``cryptography`` form for a CSR or certificate."""
        match self.kind:
            case NameKind.DNS:
                return x509.DNSName(self.value)
            case NameKind.IP:
                return x509.IPAddress(ipaddress.ip_address(self.value))
            case NameKind.EMAIL:
                return x509.RFC822Name(self.value)
            case NameKind.URI:
                return x509.UniformResourceIdentifier(self.value)


def parse_name(text: str, *, field: str = "sans") -> Name:
    """Read a name as people write it and decide its kind.

    ``https://…`` or ``spiffe://…`` is a URI, something with ``@`` an e-mail address, an address literal an IP, all else
    a DNS name (``*.`` allowed as the whole first label). Raises ``InvalidInput`` naming ``field``.
    """
    text = text.strip()
    if not text:
        raise InvalidInput.of(field, "is empty; give a DNS name, IP address, e-mail address or URI")
    if "://" in text:
        return Name(NameKind.URI, _uri(text, field))
    if "@" in text:
        return Name(NameKind.EMAIL, _email(text, field))
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return Name(NameKind.DNS, dns_name(text, field=field))
    if "%" in str(address):
        raise InvalidInput.of(field, f"{text!r} has a zone, which means something on one host only; leave it out")
    return Name(NameKind.IP, str(address))


def from_general_name(name: x509.GeneralName, *, field: str = "csr") -> Name:
    """Read a general name out of a CSR or certificate into canonical form."""
    match name:
        case x509.DNSName():
            return Name(NameKind.DNS, dns_name(name.value, field=field))
        case x509.IPAddress() if isinstance(name.value, ipaddress.IPv4Address | ipaddress.IPv6Address):
            return Name(NameKind.IP, str(name.value))
        case x509.RFC822Name():
            return Name(NameKind.EMAIL, _email(name.value, field))
        case x509.UniformResourceIdentifier():
            return Name(NameKind.URI, _uri(name.value, field))
        case _:
            problem = f"holds a name of type {type(name).__name__}; only DNS, IP, e-mail and URI names are signed"
            raise InvalidInput.of(field, problem)


def dns_name(text: str, *, field: str = "common_name") -> str:
    """Return ``text`` as a lower-case A-label name, at most 253 characters; raise ``InvalidInput`` otherwise."""
    wildcard, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    name = name.removesuffix(".")
    if not name.isascii():
        name = _to_a_labels(name, field)
    name = name.lower()
    if len(wildcard + name) > MAX_DNS_NAME:
        raise InvalidInput.of(
            field, f"is {len(wildcard + name)} characters long; a DNS name has at most {MAX_DNS_NAME}"
        )
    for label in name.split("."):
        if not _LABEL.fullmatch(label):
            problem = f"{text[:80]!r} is not a host name: label {label[:63]!r} must be 1 to 63 of a-z, 0-9 and '-'"
            raise InvalidInput.of(field, problem)
        if label.startswith("xn--"):
            _refuse_lookalikes(_to_u_label(label, field), field)
    if label.isdigit():
        # Whoever reads it takes it for an IPv4 address, a malformed one included (WHATWG URL section 3.5).
        raise InvalidInput.of(field, f"{text[:80]!r} ends in a number, as only an IP address does")
    if wildcard and "." not in name:
        raise InvalidInput.of(field, f"{text!r} covers a whole top-level domain; name one level below it")
    return wildcard + name


def _to_a_labels(name: str, field: str) -> str:
    _refuse_lookalikes(name, field)
    try:
        return idna.encode(name, uts46=True).decode()
    except idna.IDNAError as error:
        raise InvalidInput.of(field, f"{name[:80]!r} is not a valid internationalised name: {error}") from error


def _to_u_label(label: str, field: str) -> str:
    try:
        return idna.ulabel(label)
    except idna.IDNAError as error:
        raise InvalidInput.of(field, f"{label!r} is not a valid internationalised label: {error}") from error


def _refuse_lookalikes(name: str, field: str) -> None:
    """Refuse invisible characters, and labels that mix Latin with another alphabet (UTS 39 section 5)."""
    for character in name:
        if unicodedata.category(character) in {"Cc", "Cf", "Co", "Cs"}:
            problem = f"{name[:80]!r} holds the invisible character U+{ord(character):04X}; remove it"
            raise InvalidInput.of(field, problem)
    for label in name.split("."):
        scripts = {unicodedata.name(c, "?").split(" ")[0] for c in label if c.isalpha()}
        if "LATIN" in scripts and scripts & {"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE"}:
            raise InvalidInput.of(field, f"label {label[:63]!r} mixes alphabets; write it in one")


def _email(text: str, field: str) -> str:
    local, _, domain = text.rpartition("@")
    if len(text) > MAX_EMAIL or domain.startswith("*") or not _DOT_ATOM.fullmatch(local):
        raise InvalidInput.of(field, f"{text[:80]!r} is not an e-mail address of the form user@example.com")
    return f"{local}@{dns_name(domain, field=field)}"


def _uri(text: str, field: str) -> str:
    if len(text) > MAX_URI:
        raise InvalidInput.of(field, f"is {len(text)} characters long; a URI has at most {MAX_URI}")
    try:
        host = urlsplit(text).hostname
    except ValueError:
        host = None
    if not host or not text.isascii() or any(c.isspace() or ord(c) < 32 for c in text):  # noqa: PLR2004 - controls
        problem = f"{text[:80]!r} is not an absolute URI with a host, for instance spiffe://example.org/api"
        raise InvalidInput.of(field, problem)
    return text
