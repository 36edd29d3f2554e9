"""Records at Cloudflare by its API (v4), with a token that may edit DNS records of the zone and read zones."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec

from connectors.issuers.acme.dns.base import API, TTL_S, Provider, TXTRecord, json_of, objects, parents
from connectors.issuers.acme.transport import Answer, Connection
from core.errors import NotFound
from core.secret import Secret

API_URL = "https://api.cloudflare.com/client/v4"
_IS_THERE_ALREADY = 81058
_REMEDY = "give the token Zone:Read and DNS:Edit for the zone"


class CloudflareConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A zone at Cloudflare."""

    api_token: Annotated[
        Secret[str],
        msgspec.Meta(description="API token with Zone:Read and DNS:Edit.", extra_json_schema={"secret": True}),
    ]
    zone_id: Annotated[str, msgspec.Meta(description="Id of the zone; default: found by the name.")] = ""
    api_url: Annotated[str, msgspec.Meta(description="Address of the API.")] = API_URL
    connection: Annotated[Connection, msgspec.Meta(description="How it is reached.")] = Connection()


class Cloudflare:
    """Adds and deletes records."""

    def __init__(self, config: CloudflareConfig) -> None:
        self._config = config
        self._api = API("Cloudflare", config.connection)

    async def present(self, record: TXTRecord) -> None:
        """Add a record; the same one may be there already."""
        zone = await self._zone(record.fqdn)
        body = {"type": "TXT", "name": record.fqdn, "content": f'"{record.value}"', "ttl": TTL_S}
        answer = await self._call("POST", f"/zones/{zone}/dns_records", body=body)
        if _IS_THERE_ALREADY not in [error.get("code") for error in _errors(answer)]:
            self._check(answer)

    async def clean_up(self, record: TXTRecord) -> None:
        """Delete the record with this value."""
        zone = await self._zone(record.fqdn)
        for found in await self._get(f"/zones/{zone}/dns_records", type="TXT", name=record.fqdn):
            if str(found.get("content", "")).strip('"') == record.value:
                answer = await self._call("DELETE", f"/zones/{zone}/dns_records/{found['id']}")
                self._check(answer)

    async def _zone(self, fqdn: str) -> str:
        if self._config.zone_id:
            return self._config.zone_id
        for candidate in parents(fqdn):
            found = await self._get("/zones", name=candidate)
            if found:
                return str(found[0]["id"])
        raise NotFound(f"Cloudflare shows this token no zone that {fqdn} lies in; {_REMEDY}")

    async def _get(self, path: str, **query: str) -> list[dict[str, Any]]:
        answer = await self._call("GET", f"{path}?{urlencode(query)}")
        self._check(answer)
        return [each for each in objects(json_of(answer), "result") if "id" in each]

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        headers = {"Authorization": f"Bearer {self._config.api_token.reveal()}", "Content-Type": "application/json"}
        content = None if body is None else msgspec.json.encode(body)
        return await self._api.call(method, f"{self._config.api_url}{path}", headers=headers, body=content)

    def _check(self, answer: Answer) -> None:
        said = "; ".join(f"{error.get('message')} ({error.get('code')})" for error in _errors(answer))
        self._api.check(answer, said, _REMEDY)


def _errors(answer: Answer) -> list[dict[str, Any]]:
    return objects(json_of(answer), "errors")


CONFIG_TYPE = CloudflareConfig


def make(config: CloudflareConfig) -> Provider:
    """Return what changes them."""
    return Cloudflare(config)
