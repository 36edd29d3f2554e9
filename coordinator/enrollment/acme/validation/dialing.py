"""Dialling what a client named: resolved once, looked at, and dialled at exactly that address (RFC 8555, 10.4).

Private networks may be dialled, since that is where an internal authority's names are; what only this host and its own
network can reach may not, however it is written.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable, Sequence

import anyio
import httpcore

from coordinator.enrollment.acme.validation.dns import Address, Resolvers
from coordinator.enrollment.acme.validation.outcome import Evidence, Failed

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
CONNECT_S = 5.0
_METADATA = frozenset({ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")})
"""Where clouds tell a machine its own secrets, beside 169.254.169.254, which is link-local."""
_NO_HOSTS = (ipaddress.ip_network("0.0.0.0/8"), ipaddress.ip_network("fec0::/10"))
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))


def inner(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, if it is one that does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if any(address in network for network in _NAT64):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else address)


def refused(address: Address, allowed: Sequence[Network]) -> bool:
    """Say whether nobody may be sent to an address: this host, its link, its cloud, no single host at all."""
    if any(address in network for network in allowed):
        return False
    real = inner(address)
    return (
        real in _METADATA
        or real.is_loopback
        or real.is_link_local
        or real.is_unspecified
        or real.is_multicast
        or real.is_reserved
        or any(real.version == network.version and real in network for network in _NO_HOSTS)
    )


class Dialler(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that a name has now; nothing is resolved a second time on the way."""

    def __init__(self, resolvers: Resolvers, allowed: Sequence[Network], evidence: Evidence) -> None:
        self._resolvers = resolvers
        self._allowed = allowed
        self._evidence = evidence
        self._inner = httpcore.AnyIOBackend()

    async def addresses(self, host: str) -> list[Address]:
        """Return a host's addresses; raise ``Failed`` if one of them may not be dialled."""
        try:
            found: list[Address] = [ipaddress.ip_address(host)]
        except ValueError:
            found = await self._resolvers.addresses(host, self._evidence)
        for address in found:
            if refused(address, self._allowed):
                self._evidence.note(f"connect to {host}", str(address), "refused: not an address to be sent to")
                detail = f"{host} is at {address}, where nobody is sent; let it have an address that others can reach"
                raise Failed("connection", detail, self._evidence)
        return found

    async def connect_tcp(  # noqa: D102 - the library's port
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - each address has the same time
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        last: Exception | None = None
        for address in await self.addresses(host):
            try:
                return await self._inner.connect_tcp(str(address), port, CONNECT_S, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                why = str(error) or type(error).__name__
                self._evidence.note(f"connect to {host}", f"{address} port {port}", why)
                last = error
        detail = f"{host} port {port} does not take a connection ({last}); open it to this server"
        raise Failed("connection", detail, self._evidence) from last

    async def connect_unix_socket(  # noqa: D102
        self,
        path: str,  # noqa: ARG002
        timeout: float | None = None,  # noqa: ARG002, ASYNC109
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        raise Failed("connection", "a socket of this host is nothing to be sent to", self._evidence)

    async def sleep(self, seconds: float) -> None:  # noqa: D102
        await anyio.sleep(seconds)


def unverified(*, alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """Return a context that takes any certificate: what is looked at is what the certificate or the page says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context
