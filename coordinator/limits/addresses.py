"""Whose request it is, as far as addresses tell: the peer's, or behind trusted proxies the one that they name.

``X-Forwarded-For`` and ``Forwarded`` (RFC 7239) are what anybody can write. They are believed only from a peer that
CERTCTL_TRUSTED_PROXIES names, read from the right, and only as far as each hop is itself such a proxy. When both are
there and differ, one of them was written by the caller and neither is believed.

A subject is an IPv4 address or an IPv6 /64: who has one address of such a network has them all (RFC 6177).
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Sequence
from typing import TypeAlias

from werkzeug.datastructures import Headers

from coordinator.settings import Network

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
MOST_HOPS = 16
_SUBJECT_BITS = 64
_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*(?:"([^"]*)"|([^;\s]*))', re.IGNORECASE)
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?|(\d+\.\d+\.\d+\.\d+)(?::\d{1,5})?")


def subject_of(peer: str, headers: Headers, trusted: Sequence[Network]) -> str:
    """Return the address or network that a request is counted for."""
    if trusted and is_trusted(peer, trusted):
        return _subject(_client(peer, headers, trusted))
    return _subject(peer)


def is_trusted(peer: str, trusted: Sequence[Network]) -> bool:
    """Say whether a peer is one of the proxies whose word is taken."""
    address = _parse(peer)
    return address is not None and any(address in network for network in trusted)


def _client(peer: str, headers: Headers, trusted: Sequence[Network]) -> str:
    chains = [
        [hop.strip() for line in headers.getlist("X-Forwarded-For") for hop in line.split(",")],
        [_for(hop) for line in headers.getlist("Forwarded") for hop in line.split(",")],
    ]
    found = {_walk(peer, chain, trusted) for chain in chains if chain}
    return found.pop() if len(found) == 1 else peer


def _walk(peer: str, chain: list[str], trusted: Sequence[Network]) -> str:
    """Return the first address from the right that is no trusted proxy; the last one that could be read, if any."""
    nearest = peer
    for hop in reversed(chain[-MOST_HOPS:]):
        address = _parse(hop)
        if address is None:
            break
        nearest = str(address)
        if not any(address in network for network in trusted):
            break
    return nearest


def _for(element: str) -> str:
    match = _FOR.search(element)
    return (match[1] or match[2] or "") if match else ""


def _parse(text: str) -> Address | None:
    """Return an address, written with or without a port; None for ``unknown``, ``_hidden`` and nonsense."""
    match = _WITH_PORT.fullmatch(text)
    try:
        address = ipaddress.ip_address((match[1] or match[2]) if match else text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@functools.lru_cache(maxsize=4096)
def _subject(text: str) -> str:
    address = _parse(text)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, _SUBJECT_BITS), strict=False))
    return str(address or "unknown")
