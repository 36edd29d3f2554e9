"""Amazon Route 53 as its API reference (2013-04-01) describes it: signatures, paging, change batches."""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import parse_qs, quote, urlsplit
from xml.etree.ElementTree import Element, fromstring
from xml.sax.saxutils import escape

from connectors.issuers.acme.dns.route53 import Route53, Route53Config
from connectors.issuers.acme.polling import Timer
from core.errors import Forbidden, NotFound, Refused
from core.secret import Secret
from tests.connectors.issuers.acme.dns.clouds import PAGE, Cloud, Wrong, Zone
from tests.connectors.issuers.acme.service import Asked, Reply, Service

NAMESPACE = "https://route53.amazonaws.com/doc/2013-04-01/"
KEY_ID, SECRET, SESSION = "AKIDEXAMPLE", "secret-of-amazon", "session-of-amazon"
AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(\w+)/(\d{8}/[\w-]+/\w+/aws4_request), SignedHeaders=([\w;-]+), Signature=(\w{64})"
)


class Denied(Exception):
    """What is answered instead."""

    def __init__(self, status: int, code: str, message: str = "no") -> None:
        super().__init__(code)
        self.reply = error(status, code, message)


class Amazon(Cloud):
    """One account."""

    secrets = (SECRET, SESSION, "wrong-secret", "wrong-session")
    wrong: ClassVar = {
        "a key id that is not known": Wrong(
            {"access_key_id": "AKIDOTHER"}, Forbidden, r"\(InvalidClientTokenId\); correct access_key_id"
        ),
        "another secret": Wrong(
            {"secret_access_key": Secret("wrong-secret")}, Forbidden, r"DoesNotMatch\); correct secret_access_key"
        ),
        "another region": Wrong({"region": "eu-west-1"}, Forbidden, "correct secret_access_key, region"),
        "a session that is over": Wrong({"session_token": Secret("wrong-session")}, Forbidden, "give new temporary"),
        "a zone that is not there": Wrong(
            {"hosted_zone_id": "Z404"}, NotFound, r"NoSuchHostedZone\); correct hosted_zone_id"
        ),
        "a zone that the name does not lie in": Wrong({"hosted_zone_id": "z7"}, Refused, "not permitted in zone"),
        "a zone that it may not write to": Wrong({"hosted_zone_id": "z6"}, Forbidden, "ChangeResourceRecordSets and"),
    }

    def __init__(self) -> None:
        super().__init__()
        self.changes: dict[str, int] = {}
        self.session = ""

    def provider(self, service: Service, timer: Timer, **changes: Any) -> Route53:
        fields = {
            "access_key_id": KEY_ID,
            "secret_access_key": Secret(SECRET),
            "api_url": service.url,
            "connection": service.connection,
        }
        config = Route53Config(**{**fields, **changes})
        assert not any(secret in repr(config) for secret in self.secrets)
        return Route53(config, timer=timer)

    def plain(self, value: str) -> str:
        return value.replace('" "', "").strip('"')

    def spelled(self, value: str) -> str:
        return f'"{value}"'

    def throttle(self) -> Reply:
        return error(400, "Throttling", "Rate exceeded")

    def serve(self, asked: Asked) -> Reply:
        try:
            self._authenticate(asked)
            return self._route(asked)
        except Denied as denied:
            return denied.reply

    def _authenticate(self, asked: Asked) -> None:
        """Compute the signature anew from what has come in, as the user guide has it."""
        found = AUTHORIZATION.fullmatch(asked.headers.get("authorization", ""))
        if found is None:
            raise Denied(403, "MissingAuthenticationToken")
        key_id, scope, names, signature = found.groups()
        if key_id != KEY_ID:
            raise Denied(403, "InvalidClientTokenId", "The security token included in the request is invalid.")
        stamp, url = asked.headers["x-amz-date"], urlsplit(asked.path)
        query = sorted(
            (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
            for name, values in parse_qs(url.query).items()
            for value in values
        )
        canonical = f"{asked.method}\n{quote(url.path, safe='/-_.~')}\n"
        canonical += "&".join(f"{name}={value}" for name, value in query) + "\n"
        canonical += "".join(f"{name}:{asked.headers[name]}\n" for name in names.split(";"))
        canonical += f"\n{names}\n{hashlib.sha256(asked.body).hexdigest()}"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = f"AWS4{SECRET}".encode()
        for part in (stamp[:8], "us-east-1", "route53", "aws4_request", text):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        age = datetime.now(UTC) - datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        needed = {"host", "x-amz-date"} | {name for name in asked.headers if name.startswith("x-amz-")}
        if key.hex() != signature or not needed <= set(names.split(";")) or abs(age.total_seconds()) > 300:
            raise Denied(403, "SignatureDoesNotMatch", "The request signature we calculated does not match.")
        if asked.headers.get("x-amz-security-token", "") != self.session:
            raise Denied(403, "ExpiredToken", "The security token included in the request is expired")

    def _route(self, asked: Asked) -> Reply:
        url = urlsplit(asked.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        match asked.method, url.path.split("/")[1:]:
            case "GET", ["2013-04-01", "hostedzonesbyname"]:
                return self._zones(query)
            case "GET", ["2013-04-01", "change", change]:
                return self._change(change)
            case "GET", ["2013-04-01", "hostedzone", key, "rrset"]:
                return self._sets(self._of(key), query)
            case "POST", ["2013-04-01", "hostedzone", key, "rrset"]:
                with self.lock:
                    return self._batch(self._of(key), fromstring(asked.body))  # noqa: S314 - of the code under test
        return error(404, "UnknownOperationException")

    def _of(self, key: str) -> Zone:
        for zone in self.zones:
            if zone.key == key:
                return zone
        raise Denied(404, "NoSuchHostedZone", f"No hosted zone found with ID: {key}")

    def _zones(self, query: dict[str, str]) -> Reply:
        def place(name: str) -> tuple[str, ...]:
            return tuple(reversed(name.rstrip(".").split(".")))

        ordered = sorted(self.zones, key=lambda zone: (place(zone.name), zone.key))
        start = (place(query["dnsname"]), query.get("hostedzoneid", ""))
        left = [zone for zone in ordered if (place(zone.name), zone.key) >= start]
        told = "".join(
            f"<HostedZone><Id>/hostedzone/{zone.key}</Id><Name>{zone.name}.</Name><CallerReference>x</CallerReference>"
            f"<Config><PrivateZone>{'false' if zone.public else 'true'}</PrivateZone></Config></HostedZone>"
            for zone in left[: min(int(query["maxitems"]), PAGE)]
        )
        following = "".join(
            f"<NextDNSName>{zone.name}.</NextDNSName><NextHostedZoneId>{zone.key}</NextHostedZoneId>"
            for zone in left[PAGE : PAGE + 1]
        )
        more = "true" if following else "false"
        return xml(
            "ListHostedZonesByNameResponse",
            f"<HostedZones>{told}</HostedZones><IsTruncated>{more}</IsTruncated>{following}",
        )

    def _sets(self, zone: Zone, query: dict[str, str]) -> Reply:
        with self.lock:
            # Names are sorted; the list begins with the first that is not before the one asked for.
            later = sorted(name for name in zone.sets if f"{name}." >= query["name"])[: int(query["maxitems"])]
            told = "".join(described(name, *zone.sets[name]) for name in later)
        self.seen_together()
        return xml("ListResourceRecordSetsResponse", f"<ResourceRecordSets>{told}</ResourceRecordSets>")

    def _batch(self, zone: Zone, root: Element) -> Reply:
        if zone.key == "z6":
            raise Denied(403, "AccessDenied", "User is not authorized to perform: route53:ChangeResourceRecordSets")
        sets = dict(zone.sets)
        for change in root.findall("{*}ChangeBatch/{*}Changes/{*}Change"):
            self._apply(zone, sets, change)
        zone.sets = sets
        number = f"C{len(self.changes)}"
        self.changes[number] = self.waits
        told = f"<ChangeInfo><Id>/change/{number}</Id><Status>PENDING</Status></ChangeInfo>"
        return xml("ChangeResourceRecordSetsResponse", told)

    def _apply(self, zone: Zone, sets: dict[str, tuple[int, tuple[Any, ...]]], change: Element) -> None:
        def said(path: str) -> str:
            return (change.findtext("/".join(f"{{*}}{name}" for name in path.split("/"))) or "").strip()

        name = said("ResourceRecordSet/Name").removesuffix(".")
        what = f"resource record set [name='{name}.', type='TXT']"
        if not f".{name}".endswith(f".{zone.name}"):
            raise Denied(400, "InvalidChangeBatch", f"[RRSet with DNS name {name}. is not permitted in zone]")
        values = tuple(
            each.text for each in change.findall("{*}ResourceRecordSet/{*}ResourceRecords/{*}ResourceRecord/{*}Value")
        )
        told = (int(said("ResourceRecordSet/TTL")), values)
        problem = ""
        match said("Action"):
            case "CREATE" if name in sets:
                problem = f"[Tried to create {what} but it already exists]"
            case "CREATE":
                sets[name] = told
            case "DELETE" if name not in sets:
                problem = f"[Tried to delete {what} but it was not found]"
            case "DELETE" if sets[name][0] != told[0] or set(sets[name][1]) != set(values):
                problem = f"[Tried to delete {what} but the values provided do not match the current values]"
            case "DELETE":
                del sets[name]
            case other:
                raise Denied(400, "InvalidInput", other)
        if problem:
            self.conflicts += 1
            raise Denied(400, "InvalidChangeBatch", problem)

    def _change(self, number: str) -> Reply:
        left = self.changes[number]
        self.changes[number] = max(0, left - 1)
        status = "PENDING" if left else "INSYNC"
        return xml("GetChangeResponse", f"<ChangeInfo><Id>/change/{number}</Id><Status>{status}</Status></ChangeInfo>")


def described(name: str, ttl: int, values: tuple[str, ...], more: str = "") -> str:
    records = "".join(f"<ResourceRecord><Value>{escape(value)}</Value></ResourceRecord>" for value in values)
    return (
        f"<ResourceRecordSet><Name>{name}.</Name><Type>TXT</Type>{more}<TTL>{ttl}</TTL>"
        f"<ResourceRecords>{records}</ResourceRecords></ResourceRecordSet>"
    )


def xml(root: str, inner: str, status: int = 200) -> Reply:
    return Reply(status, f'<?xml version="1.0"?>\n<{root} xmlns="{NAMESPACE}">{inner}</{root}>'.encode())


def error(status: int, code: str, message: str = "no") -> Reply:
    told = f"<Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message>"
    return xml("ErrorResponse", f"<Error>{told}</Error><RequestId>r</RequestId>", status)
