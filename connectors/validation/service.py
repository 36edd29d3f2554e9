"""Validations: does the name that a client ordered answer as only its holder can make it answer (RFC 8555 section 8).

Knows no order and no database: it is given what to ask, and returns evidence or raises ``Failed``, whatever the network
does. A validation ends within ``Settings.deadline_s``, begun when it has one of its type's places; it waits for a place
as long as that again, at most.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType

import anyio

from connectors.validation import caa, dns01, http01, persist01, tls_alpn01
from connectors.validation.lookups import Resolvers
from connectors.validation.model import AT_ONCE, Asked, Busy, Failed, Record, Settings, printable
from core.acme import DNS_01, DNS_ACCOUNT_01, DNS_PERSIST_01, HTTP_01, TLS_ALPN_01
from core.evidence import ErrorType, Evidence
from core.names import Name, NameKind

__all__ = ["CAA", "CHALLENGES", "Asked", "Busy", "Evidence", "Failed", "Settings", "Validator", "printable"]

CAA = "caa"
"""What checks of CAA are called in evidence and in ``Settings.concurrency``."""
Challenge = Callable[[Asked, Settings, Resolvers, Record], Awaitable[None]]
CHALLENGES: Mapping[str, Challenge] = MappingProxyType(
    {
        HTTP_01: http01.validate,
        TLS_ALPN_01: tls_alpn01.validate,
        DNS_01: dns01.validate,
        DNS_ACCOUNT_01: dns01.validate,
        DNS_PERSIST_01: persist01.validate,
    }
)
_BY_DNS = {DNS_01, DNS_ACCOUNT_01, DNS_PERSIST_01}
_PLACES = {DNS_ACCOUNT_01: DNS_01, DNS_PERSIST_01: DNS_01}
"""Types that have their places in common with another: they are one kind of work, and one setting."""
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)


class Validator:
    """Asks the network, a limited number of times at once; one for each event loop."""

    def __init__(
        self,
        settings: Settings,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        places: Mapping[str, anyio.Semaphore] | None = None,
    ) -> None:
        self._settings = settings
        self._now = now
        self._resolvers = Resolvers(settings)
        self._places = places or {
            kind: anyio.Semaphore(max(1, settings.concurrency.get(kind, AT_ONCE)))
            for kind in (*CHALLENGES, CAA)
            if kind not in _PLACES
        }

    def of_authority(self, caa_identities: tuple[str, ...], persist_issuers: tuple[str, ...]) -> Validator:
        """Return one that asks on behalf of an authority with these names, and has its places in common with this."""
        settings = replace(self._settings, caa_identities=caa_identities, persist_issuers=persist_issuers)
        return Validator(settings, self._now, self._places)

    async def validate(self, asked: Asked) -> Evidence:
        """Return the evidence that ``asked.name`` is held by the account; raises ``Failed``, ``Busy`` for no place."""
        record = Record(asked.type, printable(asked.name.value), now=self._now)
        asked = _base(asked)
        _refuse_nonsense(asked, record)
        async with self._place(asked.type, "dns" if asked.type in _BY_DNS else "connection", record):
            await CHALLENGES[asked.type](asked, self._settings, self._resolvers, record)
        return record.evidence()

    async def check_caa(self, name: Name, *, wildcard: bool, account_url: str, challenge: str) -> Evidence | None:
        """Return the evidence that CAA lets us issue, None where it is not looked at; raises ``Failed``.

        It is not looked at for names other than DNS names, nor without ``Settings.caa_identities``.
        """
        if name.kind is not NameKind.DNS or not self._settings.caa_identities:
            return None
        record = Record(CAA, printable(name.value), now=self._now)
        request = caa.request_of(
            self._settings, name.value, wildcard=wildcard, account_url=account_url, challenge=challenge
        )
        async with self._place(CAA, "caa", record):
            await caa.check(request, self._resolvers, record)
        return record.evidence()

    @asynccontextmanager
    async def _place(self, kind: str, late: ErrorType, record: Record) -> AsyncIterator[None]:
        """Hold one of the places, and end what is done there in time; ``late`` is the failure when it is not."""
        places, deadline_s = self._places[_PLACES.get(kind, kind)], self._settings.deadline_s
        try:
            with anyio.fail_after(deadline_s):
                await places.acquire()
        except TimeoutError as error:
            detail = f"too many validations by {kind} are under way; try again in a minute"
            raise Busy("serverInternal", detail, record.evidence()) from error
        try:
            with anyio.fail_after(deadline_s):
                yield
        except TimeoutError as error:
            detail = f"no end within {deadline_s:g} s, while {record.doing}; see why it is slow, then try again"
            raise record.failed(late, detail) from error
        finally:
            places.release()


def _base(asked: Asked) -> Asked:
    """Return the challenge for the name that a wildcard hangs on."""
    base = asked.name.value.removeprefix("*.")
    if asked.name.kind is not NameKind.DNS or base == asked.name.value:
        return asked
    return replace(asked, name=Name(NameKind.DNS, base), wildcard=True)


def _refuse_nonsense(asked: Asked, record: Record) -> None:
    """Refuse what no server is to offer: a challenge that does not fit the name, a token that is a path."""
    if asked.type not in CHALLENGES:
        raise record.failed("malformed", f"the challenge {printable(asked.type)!r} is not known; use another one")
    if asked.name.kind not in {NameKind.DNS, NameKind.IP}:
        raise record.failed(
            "malformed", f"a name of kind {asked.name.kind} has no challenge; order a DNS name or address"
        )
    if asked.type in _BY_DNS and asked.name.kind is NameKind.IP:
        raise record.failed("malformed", "an address is not validated in the DNS; use http-01 or tls-alpn-01")
    if asked.type not in _BY_DNS and asked.wildcard:
        raise record.failed("malformed", f"a wildcard is not validated by {asked.type}; use dns-01")
    if asked.type in {DNS_ACCOUNT_01, DNS_PERSIST_01} and not asked.account_url:
        raise record.failed("serverInternal", f"{asked.type} needs the account's URL; tell the server's operator")
    if asked.type != DNS_PERSIST_01 and not _TOKEN.fullmatch(asked.token):
        raise record.failed("malformed", "the challenge's token is not base64url; order again")
