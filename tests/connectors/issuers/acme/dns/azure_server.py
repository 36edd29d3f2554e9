"""Azure DNS as its REST reference (2018-05-01) describes it, and Microsoft's token server (client credentials)."""

from __future__ import annotations

from itertools import count
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from connectors.issuers.acme.dns.azure_dns import AzureDNS, AzureDNSConfig
from connectors.issuers.acme.polling import Timer
from core.errors import Forbidden, Misconfigured, NotFound, Refused
from core.secret import Secret
from tests.connectors.issuers.acme.dns.clouds import PAGE, Cloud, Wrong, Zone
from tests.connectors.issuers.acme.service import Asked, Reply, Service

TENANT, CLIENT, SECRET, SUBSCRIPTION, GROUP = "tenant-1", "client-1", "secret-of-azure", "subscription-1", "group-1"


class Azure(Cloud):
    """One subscription with one resource group."""

    secrets = (SECRET, "wrong-secret", "token-of-azure")
    wrong: ClassVar = {
        "another tenant": Wrong({"tenant_id": "tenant-2"}, Refused, r"AADSTS90002: .*; correct tenant_id"),
        "another application": Wrong({"client_id": "client-2"}, Refused, r"AADSTS700016: .*client_id and client_sec"),
        "another secret": Wrong(
            {"client_secret": Secret("wrong-secret")}, Forbidden, r"AADSTS7000215: .*\(invalid_client\); correct"
        ),
        "another subscription": Wrong(
            {"subscription_id": "subscription-2"}, Forbidden, r"AuthorizationFailed\); give the application the role"
        ),
        "a group that is not there": Wrong(
            {"resource_group": "group-2"}, NotFound, r"ResourceGroupNotFound\).*subscription_id, resource_group and"
        ),
        "a zone that is not there": Wrong(
            {"resource_group": GROUP, "zone": "www.example.com"}, NotFound, r"ParentResourceNotFound\).* zone"
        ),
        "a zone that the name does not lie in": Wrong(
            {"resource_group": GROUP, "zone": "example.org"}, Misconfigured, "does not lie in the zone example.org"
        ),
    }

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[str] = []
        self.numbers = count(1)
        self.etags: dict[tuple[str, str], str] = {}
        self.metadata: dict[tuple[str, str], dict[str, str]] = {}
        self.host = ""

    def provider(self, service: Service, timer: Timer, **changes: Any) -> AzureDNS:
        fields = {
            "tenant_id": TENANT,
            "client_id": CLIENT,
            "client_secret": Secret(SECRET),
            "subscription_id": SUBSCRIPTION,
            "authority_url": f"{service.url}/login",
            "api_url": service.url,
            "connection": service.connection,
        }
        config = AzureDNSConfig(**{**fields, **changes})
        assert not any(secret in repr(config) for secret in self.secrets)
        return AzureDNS(config, timer=timer)

    def plain(self, value: tuple[str, ...]) -> str:
        return "".join(value)

    def spelled(self, value: str) -> tuple[str, ...]:
        return (value,)

    def throttle(self) -> Reply:
        return Reply(429, {"error": {"code": "TooManyRequests", "message": "slow down"}}, {"Retry-After": "7"})

    def serve(self, asked: Asked) -> Reply:
        url = urlsplit(asked.path)
        if self.signs_in(asked):
            return self._token(asked, url.path)
        if asked.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            return error(401, "InvalidAuthenticationToken", "The access token is invalid.")
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if query.get("api-version") != "2018-05-01":
            return error(400, "InvalidApiVersionParameter", "The api-version is invalid.")
        return self._manage(asked, url.path, query)

    def _manage(self, asked: Asked, path: str, query: dict[str, str]) -> Reply:
        match [unquote(part) for part in path.split("/")[1:]]:
            case ["subscriptions", subscription, *_rest] if subscription != SUBSCRIPTION:
                return error(403, "AuthorizationFailed", "The client does not have authorization to perform action")
            case ["subscriptions", _, "resourceGroups", group, *_rest] if group != GROUP:
                return error(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")
            case [*_scope, "providers", "Microsoft.Network", "dnsZones"]:
                return self._zones(asked, query)
            case [*_scope, "dnsZones", name, "TXT", relative]:
                zone = next((zone for zone in self.zones if zone.name == name), None)
                if zone is None:
                    return error(404, "ParentResourceNotFound", f"The zone {name} could not be found")
                return self._record_set(asked, zone, relative)
        return error(404, "NotFound", "no such resource")

    def signs_in(self, asked: Asked) -> bool:
        return asked.path.startswith("/login/")

    def _token(self, asked: Asked, path: str) -> Reply:
        form = {name: values[0] for name, values in parse_qs(asked.body.decode()).items()}
        assert form["grant_type"] == "client_credentials"
        assert form["scope"] == f"https://{asked.headers['host']}/.default"
        if path != f"/login/{TENANT}/oauth2/v2.0/token":
            return refused(400, "invalid_request", "AADSTS90002: Tenant 'tenant-2' not found.\r\nTrace ID: 1")
        if form["client_id"] != CLIENT:
            return refused(400, "unauthorized_client", "AADSTS700016: Application with identifier was not found")
        if form["client_secret"] != SECRET:
            return refused(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
        self.tokens.append(f"token-of-azure-{len(self.tokens)}")
        return Reply(body={"access_token": self.tokens[-1], "expires_in": 3599, "token_type": "Bearer"})

    def _zones(self, asked: Asked, query: dict[str, str]) -> Reply:
        start = int(query.get("$skiptoken", "0"))
        scope = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.Network"
        zones = [
            {
                "id": f"{scope}/dnsZones/{zone.name}",
                "name": zone.name.title() if zone.key == "z2" else zone.name,
                "properties": {"zoneType": "Public" if zone.public else "Private"},
            }
            for zone in self.zones[start : start + PAGE]
        ]
        path = f"{urlsplit(asked.path).path}?api-version=2018-05-01&$skiptoken={start + PAGE}"
        more = start + PAGE < len(self.zones)
        following = {"nextLink": f"https://{self.host or asked.headers['host']}{path}"} if more else {}
        return Reply(body={"value": zones, **following})

    def _record_set(self, asked: Asked, zone: Zone, relative: str) -> Reply:
        name = zone.name if relative == "@" else f"{relative}.{zone.name}"
        if asked.method == "GET":
            with self.lock:
                found = self._described(zone, name)
            self.seen_together()
            message = f"The resource record '{relative}' does not exist in resource group '{GROUP}'."
            return found or Reply(404, {"code": "NotFound", "message": message})
        with self.lock:
            return self._write(asked, zone, name)

    def _write(self, asked: Asked, zone: Zone, name: str) -> Reply:
        etag = self.etags.get((zone.name, name), "") if name in zone.sets else ""
        wanted, none = asked.headers.get("if-match"), asked.headers.get("if-none-match")
        if (wanted is not None and wanted != etag) or (none == "*" and etag):
            self.conflicts += 1
            return error(412, "PreconditionFailed", "The condition was not satisfied")
        if asked.method == "DELETE":
            zone.sets.pop(name, None)
            del self.etags[zone.name, name]
            return Reply(200)
        properties = asked.json()["properties"]
        values = tuple(tuple(each["value"]) for each in properties["TXTRecords"])
        assert all(len(string) <= 255 for value in values for string in value)
        self.put(zone, name, properties["TTL"], values, properties.get("metadata") or {})
        return self._described(zone, name) or Reply(500)

    def put(
        self, zone: Zone, name: str, ttl: int, values: tuple[tuple[str, ...], ...], metadata: dict[str, str]
    ) -> None:
        zone.sets[name] = (ttl, values)
        self.etags[zone.name, name] = f"etag-{next(self.numbers)}"
        self.metadata[zone.name, name] = metadata

    def _described(self, zone: Zone, name: str) -> Reply | None:
        if name not in zone.sets:
            return None
        ttl, values = zone.sets[name]
        # A set that a test has put there has an ETag as well.
        etag = self.etags.setdefault((zone.name, name), f"etag-{next(self.numbers)}")
        records = [{"value": list(value)} for value in values]
        metadata = self.metadata.get((zone.name, name), {})
        properties = {"TTL": ttl, "fqdn": f"{name}.", "TXTRecords": records, "metadata": metadata}
        return Reply(body={"id": "x", "name": name, "etag": etag, "properties": properties})


def error(status: int, code: str, message: str) -> Reply:
    return Reply(status, {"error": {"code": code, "message": message}})


def refused(status: int, code: str, description: str) -> Reply:
    return Reply(status, {"error": code, "error_description": description})
