"""Validations that fail too often: counted for each account and name, by all coordinators together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.validation.model import Record
from connectors.validation.service import Asked, Evidence
from core import acme
from tests.coordinator.acme.client import Client, refused
from tests.coordinator.acme.net import Net, challenge, outcome, settings
from tests.coordinator.world import World, open_world, variables

pytestmark = pytest.mark.anyio

LIMIT = "CERTCTL_ACME_SERVER_RATE_LIMIT_FAILED_VALIDATIONS_PER_HOUR"


@pytest.fixture
async def replicas(net: Net, database_url: str, tmp_path: Path) -> AsyncIterator[tuple[World, World]]:
    """Two coordinators on one database, where each account may fail twice for a name."""
    given = settings(net) | {LIMIT: "2"}
    async with (
        open_world(variables(database_url, tmp_path / "one", **given)) as one,
        open_world(variables(database_url, tmp_path / "two", **given)) as two,
    ):
        yield one, two


async def both(replicas: tuple[World, World]) -> tuple[Client, Client]:
    """Return one account at either coordinator."""
    here = Client(replicas[0])
    await here.register()
    there = Client(replicas[1], key=here.key)
    there.kid = here.kid
    return here, there


async def fail(client: Client, name: str) -> None:
    """Say that a record is there which is not."""
    order, found, _ = await challenge(client, name, "dns-01")
    assert (await outcome(client, order, found))["status"] == "invalid"


async def test_failures_are_counted_by_all_replicas(replicas: tuple[World, World], net: Net) -> None:
    here, there = await both(replicas)
    order, waiting, key_authorization = await challenge(there, "bad.test", "dns-01")
    await fail(here, "bad.test")
    await fail(there, "bad.test")
    for client, names in ((here, ["bad.test"]), (there, ["good.test", "*.bad.test"])):
        answer = await client.order(*names)
        problem = refused(answer, "rateLimited", 429)
        assert "bad.test" in problem["detail"]
        assert "good.test" not in problem["detail"]
        assert 1500 < int(answer.headers["retry-after"]) <= 1800, "one of two in an hour comes back in half of it"
    identifier = {"type": "dns", "value": "bad.test"}
    refused(await here.post("new-authz", {"identifier": identifier}), "rateLimited", 429)
    net.txt("_acme-challenge.bad.test", acme.txt_value(key_authorization))
    answer = await here.post(waiting["url"], {})
    refused(answer, "rateLimited", 429)
    assert int(answer.headers["retry-after"]) > 1500
    assert (await here.post(waiting["url"])).json()["status"] == "pending", "it is no failure, and may be tried later"
    await replicas[0].execute("UPDATE limit_buckets SET full_at = full_at - interval '31 minutes'")
    assert (await outcome(there, order, waiting))["order"] == "ready"


async def test_others_do_not_wait(replicas: tuple[World, World]) -> None:
    """Neither for another name, nor by another account, nor where nothing is looked at."""
    here, there = await both(replicas)
    for _ in range(2):
        await fail(here, "worse.test")
    assert (await there.order("a.worse.test", "test.test")).status_code == 201
    other = Client(replicas[1])
    await other.register()
    assert (await other.order("worse.test")).status_code == 201
    await replicas[0].call("PATCH", "/api/v1/profiles/prof-default", json={"acme_auth_mode": "trust_authenticated"})
    assert (await here.order("worse.test")).json()["status"] == "ready"


async def test_what_is_valid_stays_so(replicas: tuple[World, World], net: Net) -> None:
    here, there = await both(replicas)
    order, found, key_authorization = await challenge(here, "once.test", "dns-01")
    lost = [await challenge(here, "once.test", "http-01") for _ in range(2)]
    net.txt("_acme-challenge.once.test", acme.txt_value(key_authorization))
    assert (await outcome(here, order, found))["order"] == "ready"
    for each in lost:
        assert (await outcome(here, *each[:2]))["status"] == "invalid"
    assert (await there.order("once.test")).json()["status"] == "ready"
    refused(await there.order("*.once.test"), "rateLimited", 429)


async def test_the_servers_own_failures_are_not_counted(
    replicas: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = await both(replicas)
    ctx = replicas[0].ctx

    async def broken(asked: Asked) -> Evidence:
        raise Record(asked.type, str(asked.name)).failed("serverInternal", "no DNS resolver is known")

    monkeypatch.setattr(ctx.validations.of(ctx), "validate", broken)
    for _ in range(3):
        await fail(here, "ours.test")
    assert (await here.order("ours.test")).status_code == 201


async def test_without_a_limit(net: Net, database_url: str, tmp_path: Path) -> None:
    async with open_world(variables(database_url, tmp_path, **settings(net), **{LIMIT: "0"})) as world:
        client = Client(world)
        await client.register()
        for _ in range(3):
            await fail(client, "free.test")
        assert await world.rows("SELECT FROM limit_buckets WHERE name = 'acme failed validations'") == []
