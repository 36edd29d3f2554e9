"""Which addresses the server dials on behalf of a stranger (server-side request forgery).

The lists follow the IANA registries of special-purpose addresses (RFC 6890), written out so that they do not change
with the Python that reads them. Private networks (RFC 1918, RFC 4193, RFC 6598) may be dialled where that is said:
names inside them are what an internal authority is for. An address that carries an IPv4 address is judged by that one
as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

from connectors.validation.model import Network

Address = IPv4Address | IPv6Address

METADATA: tuple[Network, ...] = tuple(
    map(
        ip_network,
        (
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fd00:ec2::/32",
            "fd20:ce::254",
        ),
    )
)
"""Where clouds hand out credentials to whoever asks from inside: never dialled, whatever the settings say."""

_SPECIAL: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "an unspecified address"),
        ("127.0.0.0/8", "a loopback address"),
        ("169.254.0.0/16", "a link-local address"),
        ("192.0.0.0/24", "a reserved address"),
        ("192.0.2.0/24", "an address for documentation"),
        ("192.88.99.0/24", "a reserved address"),
        ("198.18.0.0/15", "an address for benchmarks"),
        ("198.51.100.0/24", "an address for documentation"),
        ("203.0.113.0/24", "an address for documentation"),
        ("224.0.0.0/4", "a multicast address"),
        ("255.255.255.255/32", "the broadcast address"),
        ("240.0.0.0/4", "a reserved address"),
        ("::/128", "an unspecified address"),
        ("::1/128", "a loopback address"),
        ("fe80::/10", "a link-local address"),
        ("ff00::/8", "a multicast address"),
        ("2001:db8::/32", "an address for documentation"),
        ("3fff::/20", "an address for documentation"),
        ("64:ff9b:1::/48", "an address of a local translator"),
    )
)
_PRIVATE = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")))
_TEREDO = IPv6Network("2001::/32")
_PROTOCOLS = IPv6Network("2001::/23")
_USABLE = (IPv6Network("2000::/3"), IPv6Network("fc00::/7"))
_LAST_32_BITS = tuple(map(IPv6Network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
"""IPv4-compatible, IPv4-mapped (RFC 4291 section 2.5.5), translated (RFC 7915) and NAT64 (RFC 6052)."""
_ISATAP = {0x0000_5EFE, 0x0200_5EFE}


def why_refused(address: Address, allowed: tuple[Network, ...] = (), *, private: bool = True) -> str:
    """Return why ``address`` is not dialled, for instance "is a loopback address"; empty when it may be.

    What is in ``allowed`` may be, unless it is a metadata service's; ``private`` says whether private networks may.
    """
    address = _without_zone(address)
    if any(address in network for network in METADATA):
        return "is an address of a cloud's metadata service"
    hidden = tuple(_hidden(address)) if isinstance(address, IPv6Address) else ()
    for inner in hidden:
        if why := why_refused(inner, allowed, private=private):
            return f"hides {inner}, which {why}"
    if any(address in network for network in allowed):
        return ""
    if not private and any(address in network for network in _PRIVATE):
        return "is a private address"
    return _special(address, hides=bool(hidden))


def _without_zone(address: Address) -> Address:
    return IPv6Address(int(address)) if isinstance(address, IPv6Address) and address.scope_id else address


def _special(address: Address, *, hides: bool) -> str:
    for network, kind in _SPECIAL:
        if address in network:
            return f"is {kind}"
    if isinstance(address, IPv4Address) or hides:
        return ""
    if address in _PROTOCOLS or not any(address in network for network in _USABLE):
        return "is a reserved address"
    return ""


def _hidden(address: IPv6Address) -> Iterator[IPv4Address]:
    """Give the IPv4 addresses that packets to ``address`` may end at; none for ``::`` and ``::1``."""
    number = int(address)
    low = IPv4Address(number & 0xFFFF_FFFF)
    if number > 1 and any(address in network for network in _LAST_32_BITS):
        yield low
    if (number >> 32) & 0xFFFF_FFFF in _ISATAP:  # RFC 5214 section 6.1
        yield low
    if address.sixtofour:  # RFC 3056
        yield address.sixtofour
    if address in _TEREDO:  # RFC 4380: the server, and the client with its bits turned round
        yield IPv4Address((number >> 64) & 0xFFFF_FFFF)
        yield IPv4Address(~number & 0xFFFF_FFFF)
