"""Which of an account's public zones a name lies in: the one with the longest name, since zones stand within zones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
import msgspec

from connectors.issuers.acme.dns.base import parents
from core.errors import Misconfigured, NotFound


class Zone(msgspec.Struct, frozen=True):
    """A public zone: its name without a dot at the end, and what the service knows it by."""

    name: str
    key: str


class Zones:
    """The zones of an account, listed once. ``listing`` is given the shortest name that may be the zone.

    ``field`` is where people name a zone themselves, ``remedy`` what helps when none is found. Unless ``selective``, a
    listing has all zones there are.
    """

    def __init__(
        self,
        listing: Callable[[str], Awaitable[Sequence[Zone]]],
        *,
        service: str,
        field: str,
        remedy: str,
        selective: bool = False,
    ) -> None:
        self._listing, self._service, self._field, self._remedy = listing, service, field, remedy
        self._selective = selective
        self._listed: dict[str, Sequence[Zone]] = {}
        self._lock = anyio.Lock()

    async def of(self, fqdn: str) -> Zone:
        """Return the zone that a name lies in; raise ``NotFound`` for none, ``Misconfigured`` for several."""
        candidates = parents(fqdn)
        listed = await self._zones(candidates[-1] if candidates else fqdn)
        for candidate in candidates:
            found = [zone for zone in listed if zone.name == candidate]
            if len(found) > 1:
                keys = ", ".join(sorted(zone.key for zone in found))
                raise Misconfigured(
                    f"{self._service} has {len(found)} public zones {candidate} ({keys}); name the one that is "
                    f"delegated to in {self._field}"
                )
            if found:
                return found[0]
        raise NotFound(f"{self._service} shows no public zone that {fqdn} lies in; {self._remedy}")

    async def _zones(self, shortest: str) -> Sequence[Zone]:
        key = shortest if self._selective else ""
        async with self._lock:
            if key not in self._listed:
                self._listed[key] = await self._listing(shortest)
            return self._listed[key]
