"""Records at Amazon Route 53 by its API (2013-04-01), with the keys of a user or temporary credentials.

A change batch is taken as a whole or not at all, and what it deletes has to be there exactly so. A set is therefore
deleted and created anew in one batch, never "upserted", which would overwrite what others have written meanwhile.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote, urlencode
from xml.etree.ElementTree import Element, SubElement, tostring

import msgspec

from connectors.issuers.acme.dns import xml_answers
from connectors.issuers.acme.dns.base import API, Provider, TXTRecord
from connectors.issuers.acme.dns.record_sets import RecordSet, edit
from connectors.issuers.acme.dns.signature_v4 import Credentials, signed
from connectors.issuers.acme.dns.zones import Zone, Zones
from connectors.issuers.acme.polling import LoopTimer, Timer, until
from connectors.issuers.acme.transport import Answer, Connection
from core.clock import Clock, SystemClock
from core.errors import PreconditionFailed, Refused, Transient
from core.secret import Secret

API_URL = "https://route53.amazonaws.com"
IN_SYNC_WITHIN_S = 180.0
_NAME = "Amazon Route 53"
_NAMESPACE = "https://route53.amazonaws.com/doc/2013-04-01/"
_PAUSE_S = 4.0
"""An account has five requests a second for all that it does."""
_CHANGED = "InvalidChangeBatch"
_THROTTLED = frozenset({"Throttling", "ThrottlingException", "PriorRequestNotComplete", "RequestLimitExceeded"})
_REMEDY = (
    "allow route53:ListHostedZonesByName, ListResourceRecordSets, ChangeResourceRecordSets and GetChange to whom "
    "access_key_id belongs"
)
_REMEDIES = {
    "InvalidClientTokenId": "correct access_key_id; temporary credentials need session_token as well",
    "UnrecognizedClientException": "correct access_key_id; temporary credentials need session_token as well",
    "SignatureDoesNotMatch": "correct secret_access_key, region, and the clock of the coordinator's host",
    "RequestExpired": "correct the clock of the coordinator's host",
    "ExpiredToken": "give new temporary credentials, or the keys of a user",
    "ExpiredTokenException": "give new temporary credentials, or the keys of a user",
    "NoSuchHostedZone": "correct hosted_zone_id, or leave it out to have the zone found",
}


class Route53Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Public hosted zones at Amazon Route 53."""

    access_key_id: Annotated[str, msgspec.Meta(description="Id of the access key.", min_length=1)]
    secret_access_key: Annotated[
        Secret[str], msgspec.Meta(description="The secret access key itself.", extra_json_schema={"secret": True})
    ]
    session_token: Annotated[
        Secret[str] | None,
        msgspec.Meta(description="Session token of temporary credentials.", extra_json_schema={"secret": True}),
    ] = None
    region: Annotated[
        str, msgspec.Meta(description="Region that requests are signed for; differs in China and GovCloud.")
    ] = "us-east-1"
    hosted_zone_id: Annotated[
        str, msgspec.Meta(description="Id of the hosted zone; default: the longest public one that the name lies in.")
    ] = ""
    api_url: Annotated[str, msgspec.Meta(description="Address of the API.")] = API_URL
    connection: Annotated[Connection, msgspec.Meta(description="How it is reached.")] = Connection()


class Route53:
    """Writes record sets."""

    def __init__(self, config: Route53Config, *, timer: Timer | None = None, clock: Clock | None = None) -> None:
        self._config, self._timer, self._clock = config, timer or LoopTimer(), clock or SystemClock()
        self._credentials = Credentials(
            access_key_id=config.access_key_id,
            secret_access_key=config.secret_access_key,
            session_token=config.session_token,
            region=config.region,
            service="route53",
        )
        self._api = API(_NAME, config.connection)
        self._zones = Zones(self._hosted_zones, service=_NAME, field="hosted_zone_id", remedy=_REMEDY, selective=True)

    async def present(self, record: TXTRecord) -> None:
        """Add a value and wait until all servers of the zone have it."""
        change = await edit(self, record, self._timer, add=True)
        if change:
            what = f"the change of {record.fqdn} at {_NAME}"
            await until(lambda: self._in_sync(change), what=what, deadline_s=IN_SYNC_WITHIN_S, timer=self._timer)

    async def clean_up(self, record: TXTRecord) -> None:
        """Take the value out."""
        await edit(self, record, self._timer, add=False)

    def spelled(self, value: str) -> str:
        """Return a value in quotation marks."""
        from connectors.issuers.acme.dns import wire  # noqa: PLC0415 - heavy, and of use with DNS challenges only

        return wire.txt(value).to_text()

    async def read(self, fqdn: str) -> RecordSet[str]:
        """Return a set; raise ``Refused`` for several that a routing policy chooses from."""
        query = {"name": f"{fqdn}.", "type": "TXT", "maxitems": "1"}
        root = self._root(await self._call("GET", f"{await self._zone(fqdn)}/rrset?{urlencode(query)}"))
        for found in xml_answers.all_of(root, "ResourceRecordSets", "ResourceRecordSet"):
            if (xml_answers.text(found, "Name"), xml_answers.text(found, "Type")) != (f"{fqdn}.", "TXT"):
                continue
            ttl = xml_answers.text(found, "TTL")
            if xml_answers.text(found, "SetIdentifier") or not ttl.isdigit():
                raise Refused(f"{fqdn} has TXT records with a routing policy at {_NAME}; remove it from that name")
            records = xml_answers.all_of(found, "ResourceRecords", "ResourceRecord")
            return RecordSet(tuple(xml_answers.text(record, "Value") for record in records), int(ttl))
        return RecordSet()

    async def write(self, fqdn: str, before: RecordSet[str], values: tuple[str, ...]) -> str:
        """Have one batch delete the set as it was and create it as it shall be; return the id of the change."""
        batch = _batch(fqdn, before, RecordSet(values, before.ttl_s))
        answer = await self._call("POST", f"{await self._zone(fqdn)}/rrset", batch)
        if _error(answer)[0] == _CHANGED and await self.read(fqdn) != before:
            raise PreconditionFailed(f"others change the TXT records of {fqdn} at {_NAME}")
        return xml_answers.text(self._root(answer), "ChangeInfo", "Id").rpartition("/")[2]

    async def _in_sync(self, change: str) -> tuple[bool | None, float]:
        root = self._root(await self._call("GET", f"/change/{quote(change, safe='')}"))
        return (True, 0.0) if xml_answers.text(root, "ChangeInfo", "Status") == "INSYNC" else (None, _PAUSE_S)

    async def _zone(self, fqdn: str) -> str:
        key = self._config.hosted_zone_id or (await self._zones.of(fqdn)).key
        return f"/hostedzone/{quote(key.rpartition('/')[2], safe='')}"

    async def _hosted_zones(self, shortest: str) -> list[Zone]:
        """Return the public zones of a name and below it, which stand together where labels are sorted from behind."""
        query, zones = {"dnsname": f"{shortest}.", "maxitems": "100"}, list[Zone]()
        while True:
            root = self._root(await self._call("GET", f"/hostedzonesbyname?{urlencode(query)}"))
            for found in xml_answers.all_of(root, "HostedZones", "HostedZone"):
                if xml_answers.text(found, "Config", "PrivateZone") != "true":
                    name, key = xml_answers.text(found, "Name"), xml_answers.text(found, "Id")
                    zones.append(Zone(name.rstrip("."), key.rpartition("/")[2]))
            following = xml_answers.text(root, "NextDNSName")
            if xml_answers.text(root, "IsTruncated") != "true" or not f".{following}".endswith(f".{shortest}."):
                return zones
            query |= {"dnsname": following, "hostedzoneid": xml_answers.text(root, "NextHostedZoneId")}

    async def _call(self, method: str, path: str, body: bytes = b"") -> Answer:
        url = f"{self._config.api_url.rstrip('/')}/2013-04-01{path}"
        given = {"content-type": "application/xml"} if body else {}
        headers = signed(self._credentials, method, url, now=self._clock.now(), body=body, headers=given)
        return await self._api.call(method, url, headers=headers, body=body or None)

    def _root(self, answer: Answer) -> Element:
        """Return what was answered; raise what an error tells."""
        code, said = _error(answer)
        self._api.check(answer, said, _REMEDIES.get(code, _REMEDY), throttled=code in _THROTTLED)
        try:
            return xml_answers.read(answer.body)
        except ValueError as error:
            raise Transient(f"{_NAME} answered {answer.status} with something else than its XML: {error}") from error


def _error(answer: Answer) -> tuple[str, str]:
    """Return the code of an error and what is said of it, the code included; empty for none."""
    try:
        root = xml_answers.read(answer.body)
    except ValueError:
        return "", ""
    code = xml_answers.text(root, "Error", "Code") or (_CHANGED if root.tag.endswith(_CHANGED) else "")
    messages = [*xml_answers.all_of(root, "Error", "Message"), *xml_answers.all_of(root, "Messages", "Message")]
    return code, f"{'; '.join(message.text or '' for message in messages)} ({code})" if code else ""


def _batch(fqdn: str, before: RecordSet[str], after: RecordSet[str]) -> bytes:
    root = Element("ChangeResourceRecordSetsRequest", xmlns=_NAMESPACE)
    changes = SubElement(SubElement(root, "ChangeBatch"), "Changes")
    for action, records in (("DELETE", before), ("CREATE", after)):
        if not records.values:
            continue
        change = SubElement(changes, "Change")
        SubElement(change, "Action").text = action
        found = SubElement(change, "ResourceRecordSet")
        for name, text in (("Name", f"{fqdn}."), ("Type", "TXT"), ("TTL", str(records.ttl_s))):
            SubElement(found, name).text = text
        listed = SubElement(found, "ResourceRecords")
        for value in records.values:
            SubElement(SubElement(listed, "ResourceRecord"), "Value").text = value
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root)


CONFIG_TYPE = Route53Config


def make(config: Route53Config) -> Provider:
    """Return what writes them."""
    return Route53(config)
