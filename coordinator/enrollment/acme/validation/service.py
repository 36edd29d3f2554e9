"""One challenge looked at, with its evidence, whatever kind it is of."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from coordinator.enrollment.acme.validation import caa, http_01, tls_alpn_01
from coordinator.enrollment.acme.validation.dialing import Dialler
from coordinator.enrollment.acme.validation.dns import Resolvers
from coordinator.enrollment.acme.validation.outcome import Evidence, Failed
from core import acme
from core.names import Name, NameKind

__all__ = ["Asked", "Evidence", "Failed", "Settings", "Validator"]
DEADLINE_S = 30.0
_AT_ONCE = 10


@dataclass(frozen=True)
class Settings:
    """How names are looked at. ``resolvers`` empty means the system's, no ``caa_identities`` that CAA is not read.

    ``allowed_networks`` are dialled although nobody is sent there otherwise: loopback, link-local and the like.
    """

    resolvers: tuple[tuple[str, int], ...] = ()
    http_port: int = 80
    tls_port: int = 443
    allowed_networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    concurrency: Mapping[str, int] = field(default_factory=dict)
    caa_identities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """A challenge: ``name`` without the asterisk of a ``wildcard``, ``thumbprint`` of the account's key."""

    type: str
    name: Name
    wildcard: bool
    token: str
    thumbprint: str
    account_url: str


class Validator:
    """Looks at challenges, so many of a kind at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._resolvers = Resolvers(settings.resolvers)
        kinds = (acme.HTTP_01, acme.DNS_01, acme.TLS_ALPN_01)
        self._limits = {kind: asyncio.Semaphore(settings.concurrency.get(kind, _AT_ONCE)) for kind in kinds}

    async def validate(self, asked: Asked) -> Evidence:
        """Look at one challenge; raise ``Failed``. What waits for its turn does not count against the deadline."""
        evidence = Evidence(at=datetime.now(UTC))
        kind = acme.DNS_01 if asked.type == acme.DNS_ACCOUNT_01 else asked.type
        async with self._limits[kind], _timed(evidence):
            await self._look(asked, evidence)
        return evidence

    async def _look(self, asked: Asked, evidence: Evidence) -> None:
        settings, expected = self._settings, acme.key_authorization(asked.token, asked.thumbprint)
        dialler = Dialler(self._resolvers, settings.allowed_networks, evidence)
        match asked.type:
            case acme.HTTP_01:
                ports = settings.http_port, settings.tls_port
                await http_01.validate(asked.name.value, asked.token, expected, dialler, ports, evidence)
            case acme.TLS_ALPN_01:
                await tls_alpn_01.validate(asked.name, expected, dialler, settings.tls_port, evidence)
            case _:
                await self._look_at_txt(asked, acme.txt_value(expected), evidence)

    async def _look_at_txt(self, asked: Asked, value: str, evidence: Evidence) -> None:
        """Look for a TXT record: dns-01 (RFC 8555 section 8.4), or dns-account-01 of its draft."""
        own = asked.account_url if asked.type == acme.DNS_ACCOUNT_01 else ""
        name = acme.dns_name(asked.name.value, own)
        if await self._resolvers.agreed(name, "TXT", lambda text: text == value, evidence):
            return
        found = "; ".join(step.answer for step in evidence.steps)
        detail = f"no TXT record of {name} is {value} (found: {found}); publish it and wait until resolvers see it"
        raise Failed("incorrectResponse" if '"' in found else "dns", detail[:500], evidence)

    async def check_caa(self, name: Name, *, wildcard: bool, account_url: str, challenge: str) -> Evidence | None:
        """Raise ``Failed`` unless CAA allows what is to be issued; addresses have none."""
        if not self._settings.caa_identities or name.kind is not NameKind.DNS:
            return None
        evidence = Evidence(at=datetime.now(UTC))
        async with _timed(evidence):
            await caa.check(
                name.value,
                self._settings.caa_identities,
                self._resolvers,
                evidence,
                wildcard=wildcard,
                account_url=account_url,
                method=challenge,
            )
        return evidence


@asynccontextmanager
async def _timed(evidence: Evidence) -> AsyncIterator[None]:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield
    except TimeoutError as error:
        raise Failed("connection", f"it took longer than {DEADLINE_S:.0f} s", evidence) from error
    finally:
        evidence.ms = round((time.perf_counter() - started) * 1000, 1)
