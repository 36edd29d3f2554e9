"""DNS messages by dnspython under either event loop, and its errors as ours. Imported when the DNS is first asked.

dnspython remembers the first event loop it meets for the whole process, so every call names its own.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import anyio
import dns.asyncbackend
import dns.asyncquery
import dns.exception
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT

from core.errors import InvalidInput, Misconfigured, Transient

QUERY_S = 5.0
_LONGEST_STRING = 255


def backend() -> Any:  # noqa: ANN401 - dnspython keeps the type to itself
    """Return the backend of the loop that runs now."""
    return dns.asyncbackend.get_backend(dns.asyncbackend.sniff())


def absolute(name: str) -> dns.name.Name:
    """Return a name as dnspython has it; raise ``InvalidInput`` for one that is none."""
    try:
        return dns.name.from_text(name.rstrip(".") + ".")
    except dns.exception.DNSException as error:
        raise InvalidInput.of("fqdn", f"{name!r} is no name: {error}") from error


def txt(value: str) -> dns.rdata.Rdata:
    """Return a TXT record's data in strings of at most 255 bytes (RFC 1035 section 3.3.14)."""
    data = value.encode()
    strings = [data[at : at + _LONGEST_STRING] for at in range(0, len(data), _LONGEST_STRING)]
    return dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, dns.rdatatype.TXT, strings)


async def address(host: str) -> str:
    """Return an address of a host, which may be one already; raise ``Transient`` when it has none now."""
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    try:
        found = await anyio.getaddrinfo(host, None)
    except OSError as error:
        raise Transient(f"the DNS server {host} has no address: {error.strerror}") from error
    except UnicodeError as error:
        raise Misconfigured(f"{host!r} is no name of a DNS server") from error
    return str(found[0][4][0])


async def ask(message: dns.message.Message, where: str, port: int, *, tcp: bool = False) -> dns.message.Message:
    """Send a message to a server's address and return the answer, by TCP where it is too long for UDP."""
    try:
        if tcp:
            return await dns.asyncquery.tcp(message, where, timeout=QUERY_S, port=port, backend=backend())
        answer, _ = await dns.asyncquery.udp_with_fallback(
            message, where, timeout=QUERY_S, port=port, ignore_unexpected=True, backend=backend()
        )
    except dns.exception.Timeout as error:
        raise Transient(f"the DNS server {where} did not answer within {QUERY_S:.0f} s") from error
    except (OSError, EOFError) as error:
        raise Transient(f"the DNS server {where} cannot be reached: {error}") from error
    return answer
