"""Records at Azure DNS by the Azure Resource Manager (2018-05-01), with a client secret of an application.

Each record set has an ETag that changes with it, and is written only where it is still the one that was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import msgspec

from connectors.issuers.acme.dns.base import API, TTL_S, Provider, TXTRecord, json_of, objects
from connectors.issuers.acme.dns.record_sets import RecordSet, edit
from connectors.issuers.acme.dns.tokens import Tokens
from connectors.issuers.acme.dns.zones import Zone, Zones
from connectors.issuers.acme.polling import LoopTimer, Timer
from connectors.issuers.acme.transport import Answer, Connection
from core.clock import Clock, SystemClock
from core.errors import Misconfigured, PreconditionFailed, Refused
from core.secret import Secret

API_URL = "https://management.azure.com"
AUTHORITY_URL = "https://login.microsoftonline.com"
Strings = tuple[str, ...]
"""One TXT record."""
_NAME = "Azure DNS"
_VERSION = "api-version=2018-05-01"
_PROVIDER = "providers/Microsoft.Network/dnsZones"
_LONGEST_STRING = 255
_NOT_FOUND = 404
_CHANGED = frozenset({409, 412})
_REMEDY = (
    "give the application the role DNS Zone Contributor for the zone, and correct subscription_id, resource_group and "
    "zone"
)
_TOKEN_REMEDY = (
    "correct tenant_id, client_id and client_secret, which is the value of a secret, not its id, and expires"  # noqa: S105 - an advice
)


class AzureDNSConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Public zones at Azure DNS."""

    tenant_id: Annotated[str, msgspec.Meta(description="Directory (tenant) id of the application.", min_length=1)]
    client_id: Annotated[str, msgspec.Meta(description="Application (client) id.", min_length=1)]
    client_secret: Annotated[
        Secret[str],
        msgspec.Meta(description="Value of a client secret of the application.", extra_json_schema={"secret": True}),
    ]
    subscription_id: Annotated[str, msgspec.Meta(description="Subscription with the zones.", min_length=1)]
    resource_group: Annotated[
        str, msgspec.Meta(description="Resource group with the zones; default: all of the subscription.")
    ] = ""
    zone: Annotated[
        str,
        msgspec.Meta(description="Name of the zone, with resource_group; default: the longest public one of the name."),
    ] = ""
    authority_url: Annotated[str, msgspec.Meta(description="Where tokens come from; differs in sovereign clouds.")] = (
        AUTHORITY_URL
    )
    api_url: Annotated[
        str, msgspec.Meta(description="Address of the Resource Manager; differs in sovereign clouds.")
    ] = API_URL
    connection: Annotated[Connection, msgspec.Meta(description="How it is reached.")] = Connection()

    def __post_init__(self) -> None:
        """Hold the fields against each other."""
        if self.zone and not self.resource_group:
            raise ValueError("names a zone without its resource_group; give both, or neither to have the zone found")


class AzureDNS:
    """Writes record sets."""

    def __init__(self, config: AzureDNSConfig, *, timer: Timer | None = None, clock: Clock | None = None) -> None:
        self._config, self._timer = config, timer or LoopTimer()
        self._url = config.api_url.rstrip("/")
        self._api = API(_NAME, config.connection)
        self._tokens = Tokens(
            API("Microsoft's token server", config.connection),
            f"{config.authority_url.rstrip('/')}/{quote(config.tenant_id, safe='')}/oauth2/v2.0/token",
            self._grant,
            remedy=_TOKEN_REMEDY,
            clock=clock or SystemClock(),
        )
        self._zones = Zones(self._dns_zones, service=_NAME, field="resource_group", remedy=_REMEDY)

    async def present(self, record: TXTRecord) -> None:
        """Add a value."""
        await edit(self, record, self._timer, add=True)

    async def clean_up(self, record: TXTRecord) -> None:
        """Take the value out."""
        await edit(self, record, self._timer, add=False)

    def spelled(self, value: str) -> Strings:
        """Return a value in the strings of a record, which have a limit."""
        return tuple(value[at : at + _LONGEST_STRING] for at in range(0, len(value), _LONGEST_STRING))

    async def read(self, fqdn: str) -> RecordSet[Strings]:
        """Return a set."""
        answer = await self._call("GET", await self._record_set(fqdn))
        if answer.status == _NOT_FOUND:
            return RecordSet()
        found = self._checked(answer)
        properties = found.get("properties") or {}
        return RecordSet(
            tuple(tuple(each.get("value", ())) for each in objects(properties, "TXTRecords")),
            properties.get("TTL", TTL_S),
            str(found.get("etag", "")),
            dict(properties.get("metadata") or {}),
        )

    async def write(self, fqdn: str, before: RecordSet[Strings], values: tuple[Strings, ...]) -> str:
        """Put a set, or delete it, where it is still the one of that ETag, or there is still none."""
        condition = {"If-Match": before.etag} if before.etag else {"If-None-Match": "*"}
        records = [{"value": strings} for strings in values]
        properties = {"TTL": before.ttl_s, "TXTRecords": records, "metadata": before.metadata}
        method, body = ("PUT", {"properties": properties}) if values else ("DELETE", None)
        answer = await self._call(method, await self._record_set(fqdn), condition, body)
        if answer.status in _CHANGED:
            raise PreconditionFailed(f"others change the TXT records of {fqdn} at {_NAME}: {_error(answer)}")
        if values or answer.status != _NOT_FOUND:
            self._checked(answer)
        return ""

    async def _record_set(self, fqdn: str) -> str:
        zone = await self._zone(fqdn)
        if not f".{fqdn}".endswith(f".{zone.name}"):
            raise Misconfigured(f"{fqdn} does not lie in the zone {zone.name}; correct zone, or where its CNAME leads")
        relative = fqdn.removesuffix(zone.name).rstrip(".") or "@"
        return f"{self._url}{zone.key}/TXT/{quote(relative, safe='')}?{_VERSION}"

    async def _zone(self, fqdn: str) -> Zone:
        if not self._config.zone:
            return await self._zones.of(fqdn)
        name = self._config.zone.rstrip(".").lower()
        return Zone(name, f"{self._scope}/{_PROVIDER}/{quote(name, safe='')}")

    @property
    def _scope(self) -> str:
        """Return where zones are looked for."""
        scope = f"/subscriptions/{quote(self._config.subscription_id, safe='')}"
        group = self._config.resource_group
        return f"{scope}/resourceGroups/{quote(group, safe='')}" if group else scope

    async def _dns_zones(self, _shortest: str) -> list[Zone]:
        url, zones = f"{self._url}{self._scope}/{_PROVIDER}?{_VERSION}", list[Zone]()
        while url:
            found = self._checked(await self._call("GET", url))
            zones += [
                Zone(str(each.get("name", "")).lower(), str(each["id"]))
                for each in objects(found, "value")
                if str(each.get("id", "")).startswith("/subscriptions/")
                and (each.get("properties") or {}).get("zoneType", "Public") == "Public"
            ]
            url = self._next(str(found.get("nextLink") or ""))
        return zones

    def _next(self, url: str) -> str:
        """Return the address of the next page; the token is for nobody but the Resource Manager."""
        ours, theirs = httpx.URL(self._url), httpx.URL(url)
        if url and (ours.host, ours.port) != (theirs.host, theirs.port):
            raise Refused(f"{_NAME} has its list of zones go on at {theirs.host}; correct api_url")
        return url

    async def _call(
        self, method: str, url: str, condition: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None
    ) -> Answer:
        headers = {**await self._tokens.header(), **(condition or {}), "Content-Type": "application/json"}
        content = None if body is None else msgspec.json.encode(body)
        return await self._api.call(method, url, headers=headers, body=content)

    def _checked(self, answer: Answer) -> dict[str, Any]:
        self._api.check(answer, _error(answer), _REMEDY)
        return json_of(answer)

    def _grant(self) -> dict[str, str]:
        """Return the request for a token (RFC 6749 section 4.4.2)."""
        return {
            "grant_type": "client_credentials",
            "client_id": self._config.client_id,
            "client_secret": self._config.client_secret.reveal(),
            "scope": f"{self._url}/.default",
        }


def _error(answer: Answer) -> str:
    """Return what is said of an error; the DNS tells its own without the object around it."""
    found = json_of(answer)
    error = found.get("error", found)
    return f"{error.get('message', '')} ({error['code']})" if isinstance(error, dict) and "code" in error else ""


CONFIG_TYPE = AzureDNSConfig


def make(config: AzureDNSConfig) -> Provider:
    """Return what writes them."""
    return AzureDNS(config)
