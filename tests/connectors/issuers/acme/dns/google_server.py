"""Google Cloud DNS as its REST reference (v1) describes it, and Google's token server (RFC 7523)."""

from __future__ import annotations

import base64
import json
import time
from functools import cache
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from connectors.issuers.acme.dns.google_cloud_dns import GoogleCloudDNS, GoogleCloudDNSConfig
from connectors.issuers.acme.polling import Timer
from core.errors import Forbidden, NotFound, Refused
from core.secret import Secret
from tests.connectors.issuers.acme.dns.clouds import PAGE, Cloud, Wrong, Zone
from tests.connectors.issuers.acme.service import Asked, Reply, Service

EMAIL, KEY_ID, PROJECT = "certctl@project-1.iam.gserviceaccount.com", "key-1", "project-1"
SCOPE = "https://www.googleapis.com/auth/ndev.clouddns.readwrite"


@cache
def key(_name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def key_file(service: Service, name: str = "right", **changes: str) -> Secret[str]:
    """Return a key's file as it is downloaded."""
    encoding, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    fields = {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": KEY_ID,
        "private_key": key(name).private_bytes(encoding, kind, serialization.NoEncryption()).decode(),
        "client_email": EMAIL,
        "client_id": "1",
        "token_uri": f"{service.url}/token",
        "universe_domain": "googleapis.com",
    }
    return Secret(json.dumps({**fields, **changes}))


class Google(Cloud):
    """One project."""

    secrets = ("PRIVATE KEY", "token-of-google")
    wrong: ClassVar = {
        "another key": Wrong({"key": "wrong"}, Refused, r"Invalid JWT Signature\. \(invalid_grant\); give a key in"),
        "an account that is not there": Wrong(
            {"client_email": "other@project-1.iam.gserviceaccount.com"}, Refused, r"account not found.*service_account"
        ),
        "another project": Wrong({"project": "project-2"}, Forbidden, r"\(forbidden\); give the service account the"),
        "a zone that is not there": Wrong(
            {"managed_zone": "z404"}, NotFound, r"z404' does not exist\. \(notFound\).*managed_zone"
        ),
        "a zone that the name does not lie in": Wrong({"managed_zone": "z7"}, Refused, "is not permitted in zone"),
    }

    def __init__(self) -> None:
        super().__init__()
        self.changes: dict[str, int] = {}
        self.tokens: list[str] = []
        self.now: float | None = None
        """Its clock, where a test sets one."""

    def provider(self, service: Service, timer: Timer, **changes: Any) -> GoogleCloudDNS:
        name, email = changes.pop("key", "right"), changes.pop("client_email", EMAIL)
        fields = {
            "service_account": key_file(service, name, client_email=email),
            "api_url": f"{service.url}/dns/v1",
            "connection": service.connection,
        }
        config = GoogleCloudDNSConfig(**{**fields, **changes})
        assert not any(secret in repr(config) for secret in self.secrets)
        return GoogleCloudDNS(config, timer=timer)

    def plain(self, value: str) -> str:
        return value.replace('" "', "").strip('"')

    def spelled(self, value: str) -> str:
        return f'"{value}"'

    def throttle(self) -> Reply:
        return error(403, "rateLimitExceeded", "Queries per minute exceeded")

    def serve(self, asked: Asked) -> Reply:
        url = urlsplit(asked.path)
        if self.signs_in(asked):
            return self._token(asked)
        if asked.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            return error(401, "authError", "Invalid Credentials")
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        return self._manage(asked, url.path, query)

    def _manage(self, asked: Asked, path: str, query: dict[str, str]) -> Reply:
        match asked.method, path.split("/")[1:]:
            case _, ["dns", "v1", "projects", project, *_rest] if project != PROJECT:
                return error(403, "forbidden", "Forbidden")
            case "GET", ["dns", "v1", "projects", _, "managedZones"]:
                return self._zones(query)
            case method, ["dns", "v1", "projects", _, "managedZones", name, *rest]:
                zone = next((zone for zone in self.zones if zone.key == name), None)
                if zone is None:
                    return missing(f"parameters.managedZone' resource named '{name}")
                return self._zone(method, zone, rest, query, asked)
        return error(404, "notFound", "Not Found")

    def signs_in(self, asked: Asked) -> bool:
        return asked.path == "/token"

    def _token(self, asked: Asked) -> Reply:
        form = {name: values[0] for name, values in parse_qs(asked.body.decode()).items()}
        assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        signed, _, signature = form["assertion"].rpartition(".")
        header, claims = (json.loads(decoded(part)) for part in signed.split("."))
        assert header == {"alg": "RS256", "typ": "JWT", "kid": KEY_ID}
        if claims["iss"] != EMAIL:
            return Reply(400, {"error": "invalid_grant", "error_description": "Invalid grant: account not found"})
        try:
            key("right").public_key().verify(decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return Reply(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
        assert claims["aud"] == f"https://{asked.headers['host']}/token"
        assert claims["scope"] == SCOPE
        assert claims["exp"] - claims["iat"] <= 3600
        assert abs(claims["iat"] - (self.now or time.time())) < 300
        self.tokens.append(f"token-of-google-{len(self.tokens)}")
        body = {"access_token": self.tokens[-1], "expires_in": 3600, "token_type": "Bearer"}
        return Reply(body=body)

    def _zones(self, query: dict[str, str]) -> Reply:
        start, size = int(query.get("pageToken", "0")), min(int(query["maxResults"]), PAGE)
        zones = [
            {"name": zone.key, "dnsName": f"{zone.name}.", "visibility": "public" if zone.public else "private"}
            for zone in self.zones[start : start + size]
        ]
        following = {"nextPageToken": str(start + size)} if start + size < len(self.zones) else {}
        return Reply(body={"managedZones": zones, **following})

    def _zone(self, method: str, zone: Zone, rest: list[str], query: dict[str, str], asked: Asked) -> Reply:
        match method, rest:
            case "GET", ["rrsets"]:
                name = query["name"].removesuffix(".")
                with self.lock:
                    found = zone.sets.get(name)
                self.seen_together()
                return Reply(body={"rrsets": [] if found is None else [described(name, *found)]})
            case "POST", ["changes"]:
                with self.lock:
                    return self._create(zone, asked.json())
            case "GET", ["changes", number]:
                left = self.changes[number]
                self.changes[number] = max(0, left - 1)
                return Reply(body={"id": number, "status": "pending" if left else "done"})
        return error(404, "notFound", "Not Found")

    def _create(self, zone: Zone, change: dict[str, Any]) -> Reply:
        sets = dict(zone.sets)
        for place, rrset in enumerate(change["deletions"]):
            name, what = rrset["name"].removesuffix("."), f"entity.change.deletions[{place}]"
            if name not in sets:
                self.conflicts += 1
                return missing(f"{what}' resource named '{rrset['name']} (TXT)")
            if sets[name][0] != rrset["ttl"] or set(sets[name][1]) != set(rrset["rrdatas"]):
                self.conflicts += 1
                return error(412, "conditionNotMet", f"Precondition not met for '{what}'")
            del sets[name]
        for place, rrset in enumerate(change["additions"]):
            name, what = rrset["name"].removesuffix("."), f"entity.change.additions[{place}]"
            assert rrset["type"] == "TXT"
            if not f".{name}".endswith(f".{zone.name}"):
                return error(400, "invalidZoneApex", f"The resource '{what}' is not permitted in zone '{zone.name}.'")
            if name in sets:
                self.conflicts += 1
                return error(409, "alreadyExists", f"The resource '{what}' named '{name}. (TXT)' already exists")
            sets[name] = (rrset["ttl"], tuple(rrset["rrdatas"]))
        zone.sets = sets
        number = str(len(self.changes))
        self.changes[number] = self.waits
        return Reply(body={"id": number, "status": "pending"})


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def described(name: str, ttl: int, values: tuple[str, ...]) -> dict[str, Any]:
    return {"kind": "dns#resourceRecordSet", "name": f"{name}.", "type": "TXT", "ttl": ttl, "rrdatas": values}


def missing(what: str) -> Reply:
    return error(404, "notFound", f"The '{what}' does not exist.")


def error(status: int, reason: str, message: str) -> Reply:
    told = {"message": message, "domain": "global", "reason": reason}
    return Reply(status, {"error": {"code": status, "message": message, "errors": [told]}})
