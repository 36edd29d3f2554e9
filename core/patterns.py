"""Patterns of names: what a profile or a rule allows, told in the form of the name itself.

``*`` stands for any text inside one part, ``**`` for one part or more. The parts are the labels of a DNS name, the
labels of an e-mail address's domain, the labels of a URI's host and the segments of its path: no ``*`` reaches across a
dot or a slash, so that ``https://*.example.org/`` never means ``https://evil.test/.example.org/``. Addresses are
matched by networks (``10.0.0.0/8``). A pattern is about the kind of name that it looks like, and about no other.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from core.errors import InvalidInput
from core.names import MAX_URI, Name, NameKind

ANY = "**"
_MOST_ANY = 2
_LABEL = re.compile(r"[a-z0-9_*-]{1,63}")
_HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_LOCAL = re.compile(r"[^@\s]{1,64}")
_SEGMENT = re.compile(r"[^\s/?#\\]*", re.ASCII)
_SPIFFE_ID = re.compile(r"spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)*")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def kind_of(pattern: str) -> NameKind:
    """Return the kind of name that a pattern is about."""
    if "://" in pattern:
        return NameKind.URI
    if "@" in pattern:
        return NameKind.EMAIL
    return NameKind.DNS if _network(pattern) is None else NameKind.IP


def matches(name: Name, pattern: str) -> bool:
    """Say whether a name is one of those that a checked pattern stands for."""
    if kind_of(pattern) is not name.kind:
        return False
    match name.kind:
        case NameKind.DNS:
            return _fits(name.value.split("."), pattern.lower().split("."))
        case NameKind.EMAIL:
            (local, _, domain), (local_pattern, _, domains) = name.value.rpartition("@"), pattern.rpartition("@")
            return _part(local, local_pattern) and _fits(domain.split("."), domains.lower().split("."))
        case NameKind.IP:
            network = _network(pattern)
            return network is not None and ipaddress.ip_address(name.value) in network
        case NameKind.URI:
            return _uri_fits(name.value, pattern)


def check_pattern(pattern: str, *, field: str) -> str:
    """Return a pattern that can match something; raise ``InvalidInput`` naming ``field`` for any other."""
    problem = _problem(pattern)
    if problem:
        raise InvalidInput.of(field, f"{pattern[:80]!r} {problem}")
    return pattern


def spiffe_problem(uri: str) -> str:
    """Say why a URI is no SPIFFE ID (section 2 of that standard); empty when it is one."""
    if not _SPIFFE_ID.fullmatch(uri) or {".", ".."} & set(uri.split("/")):
        return "is not a SPIFFE ID: spiffe://, a trust domain in lower case, a path without empty or dot segments"
    return ""


def _fits(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == ANY:
        return any(_fits(parts[count:], patterns[1:]) for count in range(1, len(parts) + 1))
    return bool(parts) and _part(parts[0], patterns[0]) and _fits(parts[1:], patterns[1:])


def _part(text: str, pattern: str) -> bool:
    return fnmatchcase(text, pattern.replace("[", "[[]").replace("?", "[?]"))


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _pieces(uri: str) -> tuple[str, str, str | None]:
    """Return scheme, authority and path of a URI or of a pattern of URIs; the path is None where there is none."""
    scheme, _, rest = uri.partition("://")
    authority, slash, path = rest.partition("/")
    return scheme.lower(), authority.lower(), path if slash else None


def _uri_fits(uri: str, pattern: str) -> bool:
    (scheme, host, path), (its_scheme, its_host, its_path) = _pieces(uri), _pieces(pattern)
    name, _, port = host.partition(":") if not host.startswith("[") else (host, "", "")
    its_name, _, its_port = its_host.partition(":") if not its_host.startswith("[") else (its_host, "", "")
    if (scheme, port) != (its_scheme, its_port) or not _HOST.fullmatch(name):
        return False
    if not _fits(name.split("."), its_name.split(".")) or (path is None) != (its_path is None):
        return False
    return path is None or its_path is None or _path_fits(path.split("/"), its_path.split("/"))


def _path_fits(segments: Sequence[str], patterns: Sequence[str]) -> bool:
    """Match a path that stays where it says: what a reader would resolve to another place fits no pattern."""
    plain = all(_SEGMENT.fullmatch(segment) and segment not in {".", ".."} for segment in segments)
    return plain and _fits(segments, patterns)


def _problem(pattern: str) -> str:
    if not pattern or len(pattern) > MAX_URI or not pattern.isascii():
        return "is empty, too long or not ASCII; write international names as xn--…"
    if pattern.count(ANY) > _MOST_ANY:
        return f"holds '**' more than {_MOST_ANY} times"
    match kind_of(pattern):
        case NameKind.URI:
            return _uri_problem(pattern)
        case NameKind.EMAIL:
            local, _, domain = pattern.rpartition("@")
            return "" if _LOCAL.fullmatch(local) and _are_labels(domain) else "is not of the form *@example.com"
        case NameKind.IP:
            return ""
        case NameKind.DNS:
            return _dns_problem(pattern)


def _dns_problem(pattern: str) -> str:
    if re.fullmatch(r"[0-9a-f:.*/]*[0-9]", pattern) and re.search(r"[:/]|\.\d+$", pattern):
        return "is not a network; give addresses like 10.0.0.0/8, with no bit set beyond the prefix"
    return "" if _are_labels(pattern) else "is not of the form *.example.com"


def _uri_problem(pattern: str) -> str:
    scheme, host, path = _pieces(pattern)
    if not _SCHEME.fullmatch(scheme) or not host or "@" in host:
        return "is not of the form spiffe://example.org/ns/*/sa/*"
    name = host.partition(":")[0]
    if not host.startswith("[") and not _are_labels(name):
        return "has a host that no name can have"
    segments = [] if path is None else path.split("/")
    if not all(_SEGMENT.fullmatch(segment) and _is_whole(segment) for segment in segments):
        return "has a path that no name can have"
    return ""


def _are_labels(text: str) -> bool:
    return all(_LABEL.fullmatch(label) and _is_whole(label) for label in text.lower().split("."))


def _is_whole(part: str) -> bool:
    """Say whether ``**``, if it stands here, stands alone."""
    return part == ANY or ANY not in part
