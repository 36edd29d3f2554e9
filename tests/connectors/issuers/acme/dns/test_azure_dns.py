"""What is Microsoft's own: a zone that is named with its group, metadata of record sets, and lists of several pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from connectors.issuers.acme.dns.azure_dns import AzureDNSConfig
from connectors.issuers.acme.dns.base import TXTRecord
from core import marking
from core.errors import InvalidInput, Misconfigured, Refused
from tests.connectors.issuers.acme.dns.azure_server import GROUP, Azure
from tests.connectors.issuers.acme.service import Service, serving
from tests.connectors.issuers.acme.times import QuickTimer

pytestmark = pytest.mark.anyio
NAME = "_acme-challenge.www.example.com"
RECORD = TXTRecord(NAME, "value-1")


@pytest.fixture
def azure() -> Azure:
    return Azure()


@pytest.fixture
def service(azure: Azure) -> Iterator[Service]:
    with serving(azure) as running:
        yield running


async def test_a_zone_may_be_named_with_its_group(azure: Azure, service: Service) -> None:
    provider = azure.provider(service, QuickTimer(), resource_group=GROUP, zone="Example.com.")
    for name in (NAME, "example.com"):
        await provider.present(TXTRecord(name, "value"))
        assert azure.values("example.com", name) == ["value"]
    assert not [asked for asked in service.asked if "/dnsZones?" in asked.path]
    with pytest.raises(Misconfigured, match=r"does not lie in the zone example\.com; correct zone, or where its CNAME"):
        await provider.present(TXTRecord("_acme-challenge.notexample.com", "value"))


async def test_zones_are_looked_for_in_a_group(azure: Azure, service: Service) -> None:
    await azure.provider(service, QuickTimer(), resource_group=GROUP).present(RECORD)
    listings = [asked.path for asked in service.asked if "/dnsZones?" in asked.path]
    assert len(listings) > 1
    assert all(f"/resourceGroups/{GROUP}/" in path for path in listings)


def test_a_zone_without_its_group_is_refused() -> None:
    given = {"tenant_id": "t", "client_id": "c", "client_secret": "s", "subscription_id": "s", "zone": "example.com"}
    with pytest.raises(InvalidInput, match="names a zone without its resource_group; give both"):
        marking.decode(given, AzureDNSConfig)


async def test_metadata_and_one_token_last(azure: Azure, service: Service) -> None:
    azure.put(azure.zone("example.com"), NAME, 300, (("a", "b"),), {"owner": "somebody"})
    provider = azure.provider(service, QuickTimer())
    await provider.present(RECORD)
    assert azure.zone("example.com").sets[NAME] == (300, (("a", "b"), ("value-1",)))
    assert azure.metadata["example.com", NAME] == {"owner": "somebody"}
    assert len(azure.tokens) == 1


async def test_a_set_without_records_is_filled(azure: Azure, service: Service) -> None:
    azure.put(azure.zone("example.com"), NAME, 300, (), {})
    await azure.provider(service, QuickTimer()).present(RECORD)
    assert azure.values("example.com", NAME) == ["value-1"]
    assert azure.conflicts == 0


async def test_the_token_is_sent_to_nobody_else(azure: Azure, service: Service) -> None:
    azure.host = "elsewhere.test"
    with pytest.raises(Refused, match=r"go on at elsewhere\.test; correct api_url"):
        await azure.provider(service, QuickTimer()).present(RECORD)
