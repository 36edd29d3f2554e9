"""Questions to recursive resolvers: all that are configured are asked at the same time, and a majority decides.

Truncated answers are asked for again over TCP, CNAMEs are followed by the resolver. Who gave no answer at all
(SERVFAIL, REFUSED, silence) has no vote; that a name or a record does not exist is an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import NamedTuple

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rdata
import dns.resolver

from connectors import together
from connectors.validation.model import Record, Settings, printable
from core.errors import Misconfigured

_PAYLOAD = 1232
"""Octets of UDP that are asked for: what passes everywhere without fragments."""


class Server(NamedTuple):
    """A recursive resolver."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Reply(NamedTuple):
    """What one resolver said: records, none where there are none, or why it gave no answer."""

    server: Server
    records: tuple[dns.rdata.Rdata, ...] = ()
    problem: str = ""


def servers_of(settings: Settings) -> tuple[Server, ...]:
    """Return the resolvers of the settings; raise ``Misconfigured`` for one that is not an address and a port."""
    for host, port in settings.resolvers:
        try:
            ip_address(host)
        except ValueError as error:
            problem = f"the resolver {host!r} for ACME validations is not an IP address; name it by its address"
            raise Misconfigured(problem) from error
        if not 0 < port < 1 << 16:
            raise Misconfigured(f"the port {port} of the resolver {host} for ACME validations is none; use 53")
    return tuple(Server(host, port) for host, port in settings.resolvers)


class Resolvers:
    """The recursive resolvers; without any, those of the system's resolv.conf at the time of a question."""

    def __init__(self, settings: Settings) -> None:
        self._servers = servers_of(settings)
        self._timeout_s = settings.dns_s

    def servers(self, record: Record) -> tuple[Server, ...]:
        """Return who is asked; fails where nobody is configured."""
        servers = self._servers or _system()
        if not servers:
            problem = "no DNS resolver is known; name one in the settings of who looks, or in its /etc/resolv.conf"
            raise record.failed("serverInternal", problem)
        return servers

    async def ask(self, name: str, kinds: Sequence[str], record: Record) -> list[list[Reply]]:
        """Ask every resolver for records of each kind; fails only when the name can be asked of nobody."""
        servers = self.servers(record)
        questions = [(server, kind) for kind in kinds for server in servers]
        replies = await together.for_each(
            questions, lambda one: self.ask_one(one[0], name, one[1], record), len(questions)
        )
        return [replies[at : at + len(servers)] for at in range(0, len(replies), len(servers))]

    async def ask_one(self, server: Server, name: str, kind: str, record: Record) -> Reply:
        """Ask one resolver, and tell how it went."""
        record.doing = f"asking {server} for {kind} records of {name}"
        if str(server) not in record.resolvers:
            record.resolvers.append(str(server))
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [dns.nameserver.Do53Nameserver(server.host, server.port)]
        resolver.use_edns(0, 0, _PAYLOAD)
        # Each time anew: the library keeps the backend that it has seen first, whatever loop runs now.
        backend = dns.asyncbackend.get_backend(dns.asyncbackend.sniff())
        try:
            answer = await resolver.resolve(
                dns.name.from_text(name),
                kind,
                raise_on_no_answer=False,
                search=False,
                lifetime=self._timeout_s,
                backend=backend,
            )
        except dns.resolver.NXDOMAIN:
            return Reply(server)
        except (dns.exception.DNSException, OSError) as error:
            return Reply(server, problem=_problem(error))
        return Reply(server, tuple(answer.rrset or ()))


def _system() -> tuple[Server, ...]:
    try:
        known = dns.resolver.Resolver()
    except dns.resolver.NoResolverConfiguration:
        return ()
    return tuple(Server(str(host), known.port) for host in known.nameservers)


def _problem(error: Exception) -> str:
    """Say in few words why a resolver gave no answer: its response code, or what went wrong on the way."""
    if isinstance(error, dns.resolver.NoNameservers):
        reasons = [one[3] for one in error.kwargs["errors"]]
        reason = reasons[-1] if reasons else "nothing"
        return printable(reason if isinstance(reason, str) else str(reason) or type(reason).__name__)
    if isinstance(error, dns.exception.Timeout):
        return "timeout"
    return printable(str(error) or type(error).__name__)


def answered(replies: Iterable[Reply]) -> list[Reply]:
    """Return the replies that are answers."""
    return [reply for reply in replies if not reply.problem]


def majority(replies: Iterable[Reply], matches: Callable[[Reply], bool]) -> bool:
    """Say whether more than half of those that answered match, and at least one did."""
    votes = answered(replies)
    return 2 * sum(map(matches, votes)) > len(votes)


def shared(replies: Iterable[Reply]) -> list[dns.rdata.Rdata]:
    """Return the records that more than half of those that answered have, in the order they were seen in."""
    votes = answered(replies)
    counted = Counter(one for reply in votes for one in dict.fromkeys(reply.records))
    return [one for one, count in counted.items() if 2 * count > len(votes)]


def problems(replies: Iterable[Reply]) -> str:
    """Name the resolvers that gave no answer, each with why; empty when all did."""
    return ", ".join(f"{reply.server} said {reply.problem}" for reply in replies if reply.problem)
