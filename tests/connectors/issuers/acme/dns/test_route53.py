"""What is Amazon's own: temporary credentials, changes that take their time, routing policies, and XML that is safe."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from connectors.issuers.acme.dns import xml_answers
from connectors.issuers.acme.dns.base import TXTRecord
from connectors.issuers.acme.dns.route53 import IN_SYNC_WITHIN_S
from core.errors import DeadlineExceeded, Refused
from core.secret import Secret
from tests.connectors.issuers.acme.dns.route53_server import (
    SESSION,
    Amazon,
    described,
    error,
    xml,
)
from tests.connectors.issuers.acme.service import Asked, Reply, Service, serving
from tests.connectors.issuers.acme.times import QuickTimer

pytestmark = pytest.mark.anyio
NAME = "_acme-challenge.www.example.com"
RECORD = TXTRecord(NAME, "value-1")


class Scripted(Amazon):
    """Answers some requests by what a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.instead: dict[str, list[Reply]] = {}

    def serve(self, asked: Asked) -> Reply:
        for method_and_end, replies in self.instead.items():
            method, _, end = method_and_end.partition(" ")
            if replies and asked.method == method and asked.path.partition("?")[0].endswith(end):
                return replies.pop(0)
        return super().serve(asked)


@pytest.fixture
def amazon() -> Amazon:
    return Scripted()


@pytest.fixture
def service(amazon: Scripted) -> Iterator[Service]:
    with serving(amazon) as running:
        yield running


async def test_temporary_credentials_have_a_session_token_and_a_zone_may_be_named(
    amazon: Scripted, service: Service
) -> None:
    amazon.session = SESSION
    for zone in ("z1", "/hostedzone/z1"):
        provider = amazon.provider(service, QuickTimer(), session_token=Secret(SESSION), hosted_zone_id=zone)
        await provider.present(RECORD)
        assert amazon.values("example.com", NAME) == ["value-1"]
    assert not [asked for asked in service.asked if "hostedzonesbyname" in asked.path]


async def test_a_record_is_there_when_all_servers_have_it(amazon: Scripted, service: Service) -> None:
    amazon.waits, timer = 3, QuickTimer()
    await amazon.provider(service, timer).present(RECORD)
    assert timer.slept == [4.0] * 3
    amazon.waits = 1000
    with pytest.raises(DeadlineExceeded, match=f"the change of {NAME} .* not within {IN_SYNC_WITHIN_S:.0f} s"):
        await amazon.provider(service, QuickTimer()).present(TXTRecord(NAME, "value-2"))


async def test_a_prior_request_and_other_limits_are_waited_for(amazon: Scripted, service: Service) -> None:
    amazon.instead["POST /rrset"] = [
        error(400, "PriorRequestNotComplete", "The request was rejected because of a prior request."),
        error(400, "ThrottlingException"),
        Reply(503, b""),
    ]
    amazon.instead["GET /change/C0"] = [error(400, "Throttling", "Rate exceeded")]
    timer = QuickTimer()
    await amazon.provider(service, timer).present(RECORD)
    assert len(timer.slept) == 4


async def test_a_batch_that_is_wrong_though_nobody_else_writes_is_told_at_once(
    amazon: Scripted, service: Service
) -> None:
    message = "<Messages><Message>FATAL problem: InvalidCharacterString</Message></Messages>"
    for reply in (
        error(400, "InvalidChangeBatch", "FATAL problem: InvalidCharacterString"),
        xml("InvalidChangeBatch", message, 400),
    ):
        amazon.instead["POST /rrset"] = [reply]
        timer = QuickTimer()
        with pytest.raises(Refused, match=r"FATAL problem: InvalidCharacterString \(InvalidChangeBatch\)"):
            await amazon.provider(service, timer).present(RECORD)
        assert timer.slept == []


async def test_records_with_a_routing_policy_are_left_alone(amazon: Scripted, service: Service) -> None:
    weighted = described(NAME, 60, ('"one of several"',), "<SetIdentifier>one</SetIdentifier><Weight>1</Weight>")
    found = xml("ListResourceRecordSetsResponse", f"<ResourceRecordSets>{weighted}</ResourceRecordSets>")
    amazon.instead["GET /rrset"] = [found]
    with pytest.raises(Refused, match="routing policy at Amazon Route 53; remove it"):
        await amazon.provider(service, QuickTimer()).present(RECORD)


EXPANDING = b'<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><a>&c;</a>'
FETCHING = b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><a>&b;</a>'


@pytest.mark.parametrize("body", [EXPANDING, FETCHING, b"<!DOCTYPE a><a/>"])
async def test_a_document_type_is_refused(body: bytes, amazon: Scripted, service: Service) -> None:
    with pytest.raises(ValueError, match="has a document type a"):
        xml_answers.read(body)
    amazon.instead["GET /hostedzonesbyname"] = [Reply(200, body)] * 1000
    with pytest.raises(DeadlineExceeded, match="something else than its XML: has a document type"):
        await amazon.provider(service, QuickTimer()).present(RECORD)


@pytest.mark.parametrize("body", [b"", b"<a>", b"\xff\xfe", b"<a>&b;</a>", b'<?xml version="1.0" encoding="x"?><a/>'])
def test_what_is_no_xml_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"syntax error|not well-formed|no element|undefined entity|unknown encoding"):
        xml_answers.read(body)
