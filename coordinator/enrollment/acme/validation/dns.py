"""DNS as a validator asks it: several resolvers at once, and most of those that answer have to agree."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from typing import TypeAlias

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver

from coordinator.enrollment.acme.validation.outcome import Evidence, Failed

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
LIFETIME_S = 10.0
NOTHING = (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer)


class Resolvers:
    """The resolvers that were named, or the system's."""

    def __init__(self, servers: Sequence[tuple[str, int]]) -> None:
        self._servers = [_one(server) for server in servers] or [dns.asyncresolver.Resolver()]
        self._names = [f"{host}:{port}" for host, port in servers] or ["the system's resolver"]
        for server in self._servers:
            server.cache = None
            server.lifetime = LIFETIME_S

    async def ask(self, name: str, kind: str, evidence: Evidence) -> list[dns.resolver.Answer | None]:
        """Return an answer of each resolver that gave one, None for "there is none".

        Raises ``Failed`` when none did.
        """
        found = await asyncio.gather(*(_query(server, name, kind) for server in self._servers))
        for server, answer in zip(self._names, found, strict=True):
            evidence.note(f"{kind} {name}", server, _told(answer))
        answers = [each for each in found if not isinstance(each, dns.exception.DNSException)]
        if not answers:
            detail = f"DNS: no resolver answered the question for {kind} records of {name}: {_told(found[0])}"
            raise Failed("dns", detail, evidence)
        return answers

    async def agreed(self, name: str, kind: str, fits: Callable[[str], bool], evidence: Evidence) -> bool:
        """Say whether most resolvers that answered have a record that fits."""
        answers = await self.ask(name, kind, evidence)
        good = sum(answer is not None and any(fits(text) for text in texts(answer)) for answer in answers)
        return good * 2 > len(answers)

    async def addresses(self, host: str, evidence: Evidence) -> list[Address]:
        """Return the addresses of a host, those of IPv6 first; raise ``Failed`` for none."""
        both = await asyncio.gather(*(self._addresses(host, kind, evidence) for kind in ("AAAA", "A")))
        found = [address for some in both if not isinstance(some, Failed) for address in some]
        if not found:
            failed = next((each for each in both if isinstance(each, Failed)), None)
            raise failed or Failed("dns", f"DNS: {host} has no address; publish an A or AAAA record", evidence)
        return found

    async def _addresses(self, host: str, kind: str, evidence: Evidence) -> list[Address] | Failed:
        try:
            answers = await self.ask(host, kind, evidence)
        except Failed as error:
            return error
        first = next((answer for answer in answers if answer is not None), None)
        return [] if first is None else [ipaddress.ip_address(record.address) for record in first]


def texts(answer: dns.resolver.Answer) -> list[str]:
    """Return the TXT records of an answer, the pieces of each put together."""
    return [b"".join(record.strings).decode(errors="replace") for record in answer if hasattr(record, "strings")]


def _one(server: tuple[str, int]) -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [server[0]], server[1]
    return resolver


async def _query(
    resolver: dns.asyncresolver.Resolver, name: str, kind: str
) -> dns.resolver.Answer | dns.exception.DNSException | None:
    try:
        # The library keeps the first event loop's way for everybody unless it is told.
        return await resolver.resolve(f"{name}.", kind, backend=dns.asyncbackend.get_backend("asyncio"))
    except NOTHING:
        return None
    except dns.exception.DNSException as error:
        return error
    except OSError as error:
        return dns.exception.DNSException(str(error))  # type: ignore[no-untyped-call]


def _told(answer: dns.resolver.Answer | dns.exception.DNSException | None) -> str:
    if answer is None:
        return "no such record"
    if isinstance(answer, dns.exception.DNSException):
        return f"{type(answer).__name__}: {answer}"
    return "; ".join(record.to_text() for record in answer)
