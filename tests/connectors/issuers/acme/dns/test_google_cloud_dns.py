"""What is Google's own: tokens for a service account's key, changes that take time, and what a key's file says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from connectors.issuers.acme.dns.base import TXTRecord
from connectors.issuers.acme.dns.google_cloud_dns import GoogleCloudDNS, GoogleCloudDNSConfig
from core.clock import ManualClock
from core.errors import InvalidInput, Refused
from core.secret import Secret
from tests.connectors.issuers.acme.dns.google_server import Google, described, key_file
from tests.connectors.issuers.acme.service import Reply, Service, serving
from tests.connectors.issuers.acme.times import QuickTimer

pytestmark = pytest.mark.anyio
NAME = "_acme-challenge.www.example.com"
RECORD = TXTRecord(NAME, "value-1")


@pytest.fixture
def google() -> Google:
    return Google()


@pytest.fixture
def service(google: Google) -> Iterator[Service]:
    with serving(google) as running:
        yield running


async def test_a_token_is_used_until_shortly_before_it_expires(google: Google, service: Service) -> None:
    clock = ManualClock(datetime.now(UTC))
    config = GoogleCloudDNSConfig(
        service_account=key_file(service), api_url=f"{service.url}/dns/v1", connection=service.connection
    )
    provider = GoogleCloudDNS(config, timer=QuickTimer(), clock=clock)
    for seconds, tokens in ((0, 1), (3500, 1), (60, 2), (3500, 2), (60, 3)):
        clock.advance(timedelta(seconds=seconds))
        google.now = clock.now().timestamp()
        await provider.present(TXTRecord(NAME, f"value-{google.now}"))
        assert len(google.tokens) == tokens


async def test_a_record_is_there_when_the_change_is_done(google: Google, service: Service) -> None:
    google.waits, timer = 3, QuickTimer()
    await google.provider(service, timer).present(RECORD)
    assert len(timer.slept) == 3


async def test_project_and_zone_may_be_named(google: Google, service: Service) -> None:
    unnamed = key_file(service, project_id="")
    with pytest.raises(InvalidInput, match="project: is missing, and service_account names none"):
        google.provider(service, QuickTimer(), service_account=unnamed)
    provider = google.provider(service, QuickTimer(), service_account=unnamed, project="project-1", managed_zone="z1")
    await provider.present(RECORD)
    assert google.values("example.com", NAME) == ["value-1"]
    assert not [asked for asked in service.asked if asked.path.partition("?")[0].endswith("/managedZones")]


async def test_records_with_a_routing_policy_are_left_alone(google: Google, service: Service) -> None:
    provider = google.provider(service, QuickTimer(), managed_zone="z1")
    await provider.clean_up(RECORD)
    google.failing = Reply(body={"rrsets": [described(NAME, 60, ()) | {"routingPolicy": {"wrr": {}}}]})
    with pytest.raises(Refused, match="routing policy at Google Cloud DNS; remove it"):
        await provider.present(RECORD)


def elliptic() -> str:
    encoding, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    made = ec.generate_private_key(ec.SECP256R1())
    return made.private_bytes(encoding, kind, serialization.NoEncryption()).decode()


FILES = {
    "no JSON": ("no JSON", "is not the JSON key of a service account"),
    "credentials of a person": (json.dumps({"type": "authorized_user"}), r"is not the JSON key .*\$\.type"),
    "a missing field": (
        json.dumps({"type": "service_account", "client_email": "e"}),
        ".*missing required field `private_key`",
    ),
    "no key": (
        json.dumps({"type": "service_account", "client_email": "e", "private_key": "MIIE-not-a-key"}),
        "has a private_key that is no RSA key in PEM",
    ),
    "a key of another kind": (
        json.dumps({"type": "service_account", "client_email": "e", "private_key": elliptic()}),
        "has a private_key that is no RSA key in PEM",
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_no_key_is_told_without_its_content(what: str) -> None:
    content, said = FILES[what]
    with pytest.raises(InvalidInput, match=f"service_account: {said}") as caught:
        GoogleCloudDNS(GoogleCloudDNSConfig(service_account=Secret(content)))
    assert "MII" not in str(caught.value)
