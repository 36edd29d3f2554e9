"""Records at Google Cloud DNS by its API (v1), with the JSON key of a service account (RFC 7523).

A change is taken as a whole or not at all, and what it deletes has to be there exactly so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from connectors.issuers.acme.dns.base import API, TTL_S, Provider, TXTRecord, json_of, objects
from connectors.issuers.acme.dns.record_sets import RecordSet, edit
from connectors.issuers.acme.dns.tokens import Tokens
from connectors.issuers.acme.dns.zones import Zone, Zones
from connectors.issuers.acme.polling import LoopTimer, Timer, until
from connectors.issuers.acme.transport import Answer, Connection
from core.clock import Clock, SystemClock
from core.errors import InvalidInput, PreconditionFailed, Refused
from core.secret import Secret

API_URL = "https://dns.googleapis.com/dns/v1"
DONE_WITHIN_S = 180.0
_NAME = "Google Cloud DNS"
_SCOPE = "https://www.googleapis.com/auth/ndev.clouddns.readwrite"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_LIFETIME_S = 3600
_PAGE = 500
_NOT_FOUND = 404
_CHANGED = frozenset({409, 412})
_THROTTLED = frozenset({"rateLimitExceeded", "userRateLimitExceeded"})
_REMEDY = "give the service account the role DNS Administrator (roles/dns.admin), and correct project and managed_zone"
_TOKEN_REMEDY = "give a key in service_account that is neither deleted nor disabled, and correct this host's clock"  # noqa: S105 - an advice


class GoogleCloudDNSConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Public zones at Google Cloud DNS."""

    service_account: Annotated[
        Secret[str],
        msgspec.Meta(description="JSON key of a service account, as downloaded.", extra_json_schema={"secret": True}),
    ]
    project: Annotated[
        str, msgspec.Meta(description="Id of the project with the zones; default: the service account's own.")
    ] = ""
    managed_zone: Annotated[
        str, msgspec.Meta(description="Name of the zone's resource; default: the longest public one of the name.")
    ] = ""
    api_url: Annotated[str, msgspec.Meta(description="Address of the API.")] = API_URL
    connection: Annotated[Connection, msgspec.Meta(description="How it is reached.")] = Connection()


class _Account(msgspec.Struct):
    """What the key's file says (other members are of no use here)."""

    type: Literal["service_account"]
    client_email: str
    private_key: str
    private_key_id: str = ""
    project_id: str = ""
    token_uri: str = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address


class GoogleCloudDNS:
    """Writes record sets."""

    def __init__(self, config: GoogleCloudDNSConfig, *, timer: Timer | None = None, clock: Clock | None = None) -> None:
        self._config, self._timer, self._clock = config, timer or LoopTimer(), clock or SystemClock()
        self._account, self._key = _read(config.service_account)
        project = config.project or self._account.project_id
        if not project:
            raise InvalidInput.of("project", "is missing, and service_account names none; give the project's id")
        self._url = f"{config.api_url.rstrip('/')}/projects/{quote(project, safe='')}/managedZones"
        self._api = API(_NAME, config.connection)
        self._tokens = Tokens(
            API("Google's token server", config.connection),
            self._account.token_uri,
            self._grant,
            remedy=_TOKEN_REMEDY,
            clock=self._clock,
        )
        self._zones = Zones(self._managed_zones, service=_NAME, field="managed_zone", remedy=_REMEDY)

    async def present(self, record: TXTRecord) -> None:
        """Add a value and wait until all servers of the zone have it."""
        change = await edit(self, record, self._timer, add=True)
        if change:
            zone, what = await self._zone(record.fqdn), f"the change of {record.fqdn} at {_NAME}"
            await until(lambda: self._done(zone, change), what=what, deadline_s=DONE_WITHIN_S, timer=self._timer)

    async def clean_up(self, record: TXTRecord) -> None:
        """Take the value out."""
        await edit(self, record, self._timer, add=False)

    def spelled(self, value: str) -> str:
        """Return a value in quotation marks."""
        from connectors.issuers.acme.dns import wire  # noqa: PLC0415 - heavy, and of use with DNS challenges only

        return wire.txt(value).to_text()

    async def read(self, fqdn: str) -> RecordSet[str]:
        """Return a set; raise ``Refused`` for one that a routing policy chooses from."""
        query = {"name": f"{fqdn}.", "type": "TXT"}
        found = self._checked(await self._call("GET", f"{await self._zone(fqdn)}/rrsets?{urlencode(query)}"))
        for rrset in objects(found, "rrsets"):
            if "routingPolicy" in rrset:
                raise Refused(f"{fqdn} has TXT records with a routing policy at {_NAME}; remove it from that name")
            return RecordSet(tuple(rrset.get("rrdatas", ())), rrset.get("ttl", TTL_S))
        return RecordSet()

    async def write(self, fqdn: str, before: RecordSet[str], values: tuple[str, ...]) -> str:
        """Have one change delete the set as it was and add it as it shall be; return its id unless it is done."""
        after = RecordSet(values, before.ttl_s)
        body = {"deletions": _rrsets(fqdn, before), "additions": _rrsets(fqdn, after)}
        answer = await self._call("POST", f"{await self._zone(fqdn)}/changes", body)
        gone = answer.status == _NOT_FOUND and await self.read(fqdn) != before
        if gone or answer.status in _CHANGED:
            raise PreconditionFailed(f"others change the TXT records of {fqdn} at {_NAME}: {_error(answer)[0]}")
        change = self._checked(answer)
        return "" if change.get("status") == "done" else str(change.get("id", ""))

    async def _done(self, zone: str, change: str) -> tuple[bool | None, float]:
        found = self._checked(await self._call("GET", f"{zone}/changes/{quote(change, safe='')}"))
        return (True if found.get("status") == "done" else None), 0.0

    async def _zone(self, fqdn: str) -> str:
        key = self._config.managed_zone or (await self._zones.of(fqdn)).key
        return f"{self._url}/{quote(key, safe='')}"

    async def _managed_zones(self, _shortest: str) -> list[Zone]:
        fields = "nextPageToken,managedZones(name,dnsName,visibility)"
        query, zones = {"maxResults": str(_PAGE), "fields": fields}, list[Zone]()
        while True:
            found = self._checked(await self._call("GET", f"{self._url}?{urlencode(query)}"))
            zones += [
                Zone(str(each.get("dnsName", "")).rstrip("."), str(each.get("name", "")))
                for each in objects(found, "managedZones")
                if each.get("visibility", "public") == "public"
            ]
            if not found.get("nextPageToken"):
                return zones
            query["pageToken"] = str(found["nextPageToken"])

    async def _call(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> Answer:
        headers = {**await self._tokens.header(), "Content-Type": "application/json"}
        content = None if body is None else msgspec.json.encode(body)
        return await self._api.call(method, url, headers=headers, body=content)

    def _checked(self, answer: Answer) -> dict[str, Any]:
        said, reasons = _error(answer)
        self._api.check(answer, said, _REMEDY, throttled=bool(reasons & _THROTTLED))
        return json_of(answer)

    def _grant(self) -> dict[str, str]:
        """Return the request for a token: an assertion that the account's key signs (RFC 7523 section 2.1)."""
        account, now = self._account, int(self._clock.now().timestamp())
        header = {"alg": "RS256", "typ": "JWT"} | ({"kid": account.private_key_id} if account.private_key_id else {})
        claims = {
            "iss": account.client_email,
            "scope": _SCOPE,
            "aud": account.token_uri,
            "iat": now,
            "exp": now + _LIFETIME_S,
        }
        assertion = jws.serialize_compact(header, msgspec.json.encode(claims), self._key)
        return {"grant_type": _GRANT, "assertion": assertion}


def _read(given: Secret[str]) -> tuple[_Account, RSAKey]:
    """Return the account of a key's file and its key; an error says nothing of the latter."""
    try:
        account = msgspec.json.decode(given.reveal(), type=_Account)
    except msgspec.MsgspecError as error:
        raise InvalidInput.of("service_account", f"is not the JSON key of a service account: {error}") from None
    try:
        return account, RSAKey.import_key(account.private_key)
    except (JoseError, ValueError, TypeError):
        raise InvalidInput.of("service_account", "has a private_key that is no RSA key in PEM") from None


def _rrsets(fqdn: str, records: RecordSet[str]) -> list[dict[str, Any]]:
    if not records.values:
        return []
    return [{"name": f"{fqdn}.", "type": "TXT", "ttl": records.ttl_s, "rrdatas": records.values}]


def _error(answer: Answer) -> tuple[str, set[str]]:
    """Return what is said of an error, and its reasons."""
    error = json_of(answer).get("error")
    if not isinstance(error, dict):
        return "", set()
    reasons = {str(each.get("reason", "")) for each in objects(error, "errors")}
    return f"{error.get('message', '')} ({', '.join(sorted(reasons)) or error.get('status')})", reasons


CONFIG_TYPE = GoogleCloudDNSConfig


def make(config: GoogleCloudDNSConfig) -> Provider:
    """Return what writes them."""
    return GoogleCloudDNS(config)
