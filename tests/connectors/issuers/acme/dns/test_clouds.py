"""Records at three clouds, which stand-ins serve as their vendors describe them: what is the same for all of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import anyio
import pytest

from connectors.issuers.acme.dns.base import TXTRecord
from connectors.issuers.acme.dns.record_sets import DEADLINE_S
from core.errors import DeadlineExceeded, Misconfigured, NotFound
from tests.connectors.issuers.acme.dns.azure_server import Azure
from tests.connectors.issuers.acme.dns.clouds import Cloud, Wrong
from tests.connectors.issuers.acme.dns.google_server import Google
from tests.connectors.issuers.acme.dns.route53_server import Amazon
from tests.connectors.issuers.acme.service import Reply, Service, serving
from tests.connectors.issuers.acme.times import QuickTimer

pytestmark = pytest.mark.anyio
CLOUDS: tuple[type[Cloud], ...] = (Amazon, Google, Azure)
NAME = "_acme-challenge.www.example.com"
RECORD = TXTRecord(NAME, "value-1")
OTHER = TXTRecord(NAME, "value-2")
LONG = TXTRecord(NAME, "ca.example; accounturi=https://ca.test/" + "a" * 400)


@pytest.fixture(params=CLOUDS, ids=lambda kind: kind.__name__.lower())
def cloud(request: pytest.FixtureRequest) -> Cloud:
    """One of them."""
    made: Cloud = request.param()
    return made


@pytest.fixture
def service(cloud: Cloud) -> Iterator[Service]:
    """Where it is."""
    with serving(cloud) as running:
        yield running


async def test_values_of_one_name_come_and_go_one_by_one(cloud: Cloud, service: Service) -> None:
    provider = cloud.provider(service, QuickTimer())
    for record in (RECORD, RECORD, OTHER, LONG):
        await provider.present(record)
    assert cloud.values("example.com", NAME) == sorted([RECORD.value, OTHER.value, LONG.value])
    for record in (RECORD, RECORD, LONG):
        await provider.clean_up(record)
    assert cloud.values("example.com", NAME) == [OTHER.value]
    for _ in range(2):
        await provider.clean_up(OTHER)
    assert NAME not in cloud.zone("example.com").sets
    assert cloud.conflicts == 0


async def test_what_others_have_written_stays_as_it_was(cloud: Cloud, service: Service) -> None:
    strange = cloud.spelled("somebody else's & <others>")
    cloud.zone("example.com").sets[NAME] = (3600, (strange,))
    provider = cloud.provider(service, QuickTimer())
    await provider.present(RECORD)
    assert cloud.zone("example.com").sets[NAME] == (3600, (strange, cloud.spelled(RECORD.value)))
    await provider.clean_up(RECORD)
    assert cloud.zone("example.com").sets[NAME] == (3600, (strange,))


async def test_a_set_that_is_deleted_meanwhile_is_made_anew(cloud: Cloud, service: Service) -> None:
    sets = cloud.zone("example.com").sets
    sets[NAME] = (3600, (cloud.spelled("gone soon"),))
    cloud.meanwhile = lambda: sets.pop(NAME, None)
    timer = QuickTimer(lambda: setattr(cloud, "meanwhile", lambda: None))
    await cloud.provider(service, timer).present(RECORD)
    assert cloud.zone("example.com").sets[NAME] == (60, (cloud.spelled(RECORD.value),))
    assert len(timer.slept) == cloud.conflicts == 1


@pytest.mark.parametrize("existing", [True, False])
async def test_many_write_to_one_name_and_nothing_is_lost(cloud: Cloud, service: Service, existing: bool) -> None:
    records = [TXTRecord(NAME, f"value-{number}") for number in range(5)]
    kept = ["there before"] if existing else []
    if existing:
        cloud.zone("example.com").sets[NAME] = (60, (cloud.spelled(kept[0]),))
    cloud.meeting = threading.Barrier(len(records))
    providers = [cloud.provider(service, QuickTimer()) for _ in records]
    async with anyio.create_task_group() as group:
        for provider, record in zip(providers, records, strict=True):
            group.start_soon(provider.present, record)
    assert cloud.values("example.com", NAME) == sorted([*kept, *(record.value for record in records)])
    assert cloud.conflicts >= len(records) - 1
    cloud.meeting = threading.Barrier(len(records))
    async with anyio.create_task_group() as group:
        for provider, record in zip(providers, records, strict=True):
            group.start_soon(provider.clean_up, record)
    assert cloud.values("example.com", NAME) == kept


async def test_many_names_are_written_at_once_with_one_look_at_the_zones(cloud: Cloud, service: Service) -> None:
    provider = cloud.provider(service, QuickTimer())
    names = [f"_acme-challenge.n{number}.example.com" for number in range(20)]
    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(provider.present, TXTRecord(name, "value"))
    assert sorted(cloud.zone("example.com").sets) == sorted(names)
    listings = [asked for asked in service.asked if is_listing(asked.path)]
    assert len(listings) == len({asked.path for asked in listings}) > 1


def is_listing(path: str) -> bool:
    return path.partition("?")[0].endswith(("/hostedzonesbyname", "/managedZones", "/dnsZones"))


@pytest.mark.parametrize(
    "name, zone",
    [
        ("_acme-challenge.example.com", "example.com"),
        ("_acme-challenge.sub.example.com", "sub.example.com"),
        ("_acme-challenge.www.sub.example.com", "sub.example.com"),
        ("_acme-challenge.notsub.example.com", "example.com"),
        ("_acme-challenge.example.org", "example.org"),
        ("b.example.com", "b.example.com"),
    ],
)
async def test_the_zone_is_the_public_one_with_the_longest_name(
    cloud: Cloud, service: Service, name: str, zone: str
) -> None:
    await cloud.provider(service, QuickTimer()).present(TXTRecord(name, "value"))
    assert {each.name: list(each.sets) for each in cloud.zones if each.sets} == {zone: [name]}


async def test_a_name_in_no_zone_or_in_two_is_told(cloud: Cloud, service: Service) -> None:
    with pytest.raises(NotFound, match=r"no public zone that _acme-challenge\.example\.net lies in; "):
        await cloud.provider(service, QuickTimer()).present(TXTRecord("_acme-challenge.example.net", "value"))
    with pytest.raises(NotFound, match="no public zone"):
        await cloud.provider(service, QuickTimer()).present(TXTRecord("com", "value"))
    with pytest.raises(Misconfigured, match=r"has 2 public zones twice\.test \(.*, .*\); name the one"):
        await cloud.provider(service, QuickTimer()).present(TXTRecord("_acme-challenge.twice.test", "value"))


WRONG = [
    pytest.param(kind, wrong, id=f"{kind.__name__.lower()}: {what}")
    for kind in CLOUDS
    for what, wrong in kind.wrong.items()
]


@pytest.mark.parametrize("kind, wrong", WRONG)
async def test_what_is_refused_is_told_with_its_remedy_and_without_secrets(kind: type[Cloud], wrong: Wrong) -> None:
    cloud = kind()
    with serving(cloud) as service:
        provider = cloud.provider(service, QuickTimer(), **wrong.changes)
        with pytest.raises(wrong.kind, match=wrong.said) as caught:
            await provider.present(RECORD)
    assert not any(secret in str(caught.value) for secret in cloud.secrets)
    assert not any(zone.sets for zone in cloud.zones)


async def test_who_asks_too_much_waits_and_gives_up_in_the_end(cloud: Cloud, service: Service) -> None:
    provider, timer = cloud.provider(service, QuickTimer()), QuickTimer()
    cloud.throttling = 4
    await cloud.provider(service, timer).present(RECORD)
    assert cloud.values("example.com", NAME) == [RECORD.value]
    assert len(timer.slept) >= 4
    assert all(pause >= 0.25 for pause in timer.slept)
    cloud.throttling = 10_000
    with pytest.raises(DeadlineExceeded, match=rf"{NAME}: not within {DEADLINE_S:.0f} s: .* answered 4"):
        await provider.clean_up(RECORD)


async def test_an_outage_is_told_as_one_that_passes(cloud: Cloud, service: Service) -> None:
    for reply in (Reply(503, b"<html>Service Unavailable"), Reply(200, b"<html>not what it should be")):
        cloud.failing = reply
        with pytest.raises(DeadlineExceeded, match=f"answered {reply.status}"):
            await cloud.provider(service, QuickTimer()).present(RECORD)
