"""Name constraints of certificate authorities (RFC 5280 section 4.2.1.10): read, compared, held against names.

DNS names, IP ranges and e-mail domains are judged. What an imported authority says of other kinds of names is in its
certificate, for relying parties to judge; nothing is concluded from it here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from cryptography import x509

from core.errors import FieldError, InvalidInput, Refused
from core.names import Name, NameKind, dns_name

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def read_constraint(text: str, field: str) -> x509.GeneralName:
    """Read one constraint as people write it; raise ``InvalidInput`` naming ``field``.

    ``example.com`` means that name and all below it, ``10.0.0.0/8`` a range, ``@example.com`` the mailboxes there.
    """
    if text.startswith("@"):
        return x509.RFC822Name(dns_name(text[1:], field=field))
    try:
        return x509.IPAddress(ipaddress.ip_network(text))
    except ValueError as error:
        if "/" in text:
            raise InvalidInput.of(field, f"{text[:80]!r} is not a range of addresses: {error}") from error
    if "*" in text:
        raise InvalidInput.of(field, f"{text[:80]!r} has a wildcard; a name stands for all names below it")
    return x509.DNSName(dns_name(text, field=field))


def extension_of(permitted: Sequence[str], excluded: Sequence[str]) -> x509.NameConstraints | None:
    """Return the extension for constraints as people write them, None without any."""
    if not permitted and not excluded:
        return None
    allowed = [read_constraint(text, f"config.permitted_names[{n}]") for n, text in enumerate(permitted)]
    refused = [read_constraint(text, f"config.excluded_names[{n}]") for n, text in enumerate(excluded)]
    return x509.NameConstraints(allowed or None, refused or None)


def outside(constraint: x509.GeneralName, chain: Iterable[bytes]) -> str:
    """Return why a subtree is not within what every authority of a chain permits; empty when it is."""
    for limits in _limits(chain):
        alike = [base for base in limits.permitted_subtrees or () if type(base) is type(constraint)]
        if alike and not any(_within(constraint.value, base.value) for base in alike):
            allowed = ", ".join(str(base.value) for base in alike)
            return f"{constraint.value} is not within what the authority above permits ({allowed})"
    return ""


def check_names(names: Iterable[Name], chain: Iterable[bytes]) -> None:
    """Raise ``Refused`` for names that the authorities of a chain may not certify: no client would take them."""
    limits = list(_limits(chain))
    wrong = [problem for name in names for problem in [_problem(name, limits)] if problem]
    if wrong:
        raise Refused("; ".join(wrong), errors=tuple(FieldError("csr", problem) for problem in wrong))


def _problem(name: Name, limits: Iterable[x509.NameConstraints]) -> str:
    kind, value = _judged(name)
    for limit in limits:
        permitted = [base.value for base in limit.permitted_subtrees or () if isinstance(base, kind)]
        excluded = [base.value for base in limit.excluded_subtrees or () if isinstance(base, kind)]
        if permitted and not any(_within(value, base) for base in permitted):
            allowed = ", ".join(str(base) for base in permitted)
            return f"{name} is not among the names that the issuer's certificate permits ({allowed})"
        if any(_within(value, base) for base in excluded):
            return f"{name} is among the names that the issuer's certificate excludes"
    return ""


def _judged(name: Name) -> tuple[tuple[type[x509.GeneralName], ...], str | Network]:
    match name.kind:
        case NameKind.DNS:
            return (x509.DNSName,), name.value.removeprefix("*.")
        case NameKind.IP:
            return (x509.IPAddress,), ipaddress.ip_network(name.value)
        case NameKind.EMAIL:
            return (x509.RFC822Name,), name.value
        case NameKind.URI:
            return (), ""


def _within(value: object, base: object) -> bool:
    """Say whether a name or a subtree lies within a subtree of the same kind."""
    if isinstance(value, ipaddress.IPv4Network) and isinstance(base, ipaddress.IPv4Network):
        return value.subnet_of(base)
    if isinstance(value, ipaddress.IPv6Network) and isinstance(base, ipaddress.IPv6Network):
        return value.subnet_of(base)
    if not isinstance(value, str) or not isinstance(base, str):
        return False
    if "@" in value and "@" not in base:
        value = value.rpartition("@")[2]
        return value == base or (base.startswith(".") and value.endswith(base))
    return value == base or value.endswith(f".{base.lstrip('.')}")


def _limits(chain: Iterable[bytes]) -> Iterable[x509.NameConstraints]:
    for der in chain:
        try:
            extensions = x509.load_der_x509_certificate(der).extensions
            yield extensions.get_extension_for_class(x509.NameConstraints).value
        except x509.ExtensionNotFound:
            continue
