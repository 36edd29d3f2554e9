"""dns-persist-01 through the whole server (draft-ietf-acme-dns-persist), on a real DNS server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.enrollment.acme.settings import load
from core import acme
from core.environment import Environment
from core.errors import Misconfigured
from tests.coordinator.acme.client import Client
from tests.coordinator.acme.net import Net, challenge, outcome, settings
from tests.coordinator.world import World, open_world, variables

pytestmark = pytest.mark.anyio

KIND = acme.DNS_PERSIST_01
PERSIST = {
    "CERTCTL_ACME_SERVER_DNS_PERSIST_ENABLED": "true",
    "CERTCTL_ACME_SERVER_CAA_IDENTITIES": "ca.test, other.ca.test",
}


@pytest.fixture
async def world(net: Net, database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(variables(database_url, tmp_path, **settings(net), **PERSIST)) as opened:
        yield opened


async def persisted(client: Client, name: str) -> tuple[str, dict[str, Any]]:
    """Return the order's URL and the challenge."""
    made = (await client.order(name)).headers["location"]
    (url,) = (await client.post(made)).json()["authorizations"]
    offered = (await client.post(url)).json()["challenges"]
    assert [each["type"] for each in offered][-1] == KIND
    return made, offered[-1]


async def test_it_is_offered_last_and_says_who_is_to_be_named(client: Client) -> None:
    _, found = await persisted(client, "offered.test")
    assert found["accounturi"] == client.kid
    assert found["issuer-domain-names"] == ["ca.test", "other.ca.test"]
    assert set(found) == {"type", "url", "status", "accounturi", "issuer-domain-names"}
    (url,) = (await client.order("192.0.2.1")).json()["authorizations"]
    assert KIND not in {each["type"] for each in (await client.post(url)).json()["challenges"]}


async def test_trust_needs_no_record(client: Client) -> None:
    await client.world.call("PATCH", "/api/v1/profiles/prof-default", json={"acme_auth_mode": "trust_authenticated"})
    order = (await client.order("*.trusted.test")).json()
    (shown,) = (await client.post(order["authorizations"][0])).json()["challenges"]
    assert (order["status"], shown["type"], shown["status"]) == ("ready", acme.DNS_01, "valid")


@pytest.mark.parametrize("base", ["/acme", "/acme/profile/prof-default"])
@pytest.mark.parametrize("name, policy", [("{}.test", ""), ("*.{}.test", "; policy=wildcard")])
async def test_one_record_proves_a_name_again_and_again(
    world: World, net: Net, base: str, name: str, policy: str
) -> None:
    """Each order looks at it anew; an authorization that it gave serves its own order only."""
    client = Client(world, base)
    await client.register()
    name = name.format(f"again{len(base)}")
    record = f"other.ca.test; accounturi={client.kid}{policy}"
    net.txt(acme.dns_name(name, persist=True), record)
    order = ""
    for _ in range(2):
        order, found = await persisted(client, name)
        assert (found["status"], found["accounturi"]) == ("pending", client.kid)
        ended = await outcome(client, order, found)
        assert (ended["status"], ended["order"]) == ("valid", "ready")
        assert (await client.finalize((await client.post(order)).json())).json()["status"] == "valid"
    shown = await world.get(f"/api/v1/acme-orders/{order.rpartition('/')[2]}")
    told = shown["authorizations"][0]["challenges"][-1]
    assert (told["type"], told["evidence"]["answer"]) == (KIND, repr(record))
    net.set("clear-txt", host=f"{acme.dns_name(name, persist=True)}.")
    ended = await outcome(client, *await persisted(client, name))
    assert ended["error"]["type"] == acme.URN + "unauthorized"


async def test_the_record_of_another_account_proves_nothing(client: Client, net: Net) -> None:
    other = Client(client.world)
    await other.register()
    net.txt("_validation-persist.anothers.test", f"ca.test; accounturi={other.kid}")
    ended = await outcome(client, *await persisted(client, "anothers.test"))
    assert ended["error"]["type"] == acme.URN + "unauthorized"
    assert f"ca.test; accounturi={client.kid}" in ended["error"]["detail"], "what to add is told"


async def test_a_name_without_the_policy_is_no_wildcard(client: Client, net: Net) -> None:
    net.txt("_validation-persist.narrow.test", f"ca.test; accounturi={client.kid}")
    ended = await outcome(client, *await persisted(client, "*.narrow.test"))
    assert ended["error"]["type"] == acme.URN + "unauthorized"


async def test_caa_names_the_challenge(client: Client, net: Net) -> None:
    policies = [{"tag": "issue", "value": "ca.test; validationmethods=dns-01"}]
    net.set("add-caa", host="methods.test.", policies=policies)
    net.txt("_validation-persist.methods.test", f"ca.test; accounturi={client.kid}")
    ended = await outcome(client, *await persisted(client, "methods.test"))
    assert ended["error"]["type"] == acme.URN + "caa"


async def test_others_are_used_again_beside_it(client: Client, net: Net) -> None:
    order, found, key_authorization = await challenge(client, "beside.test", acme.DNS_ACCOUNT_01)
    net.txt(acme.dns_name("beside.test", client.kid), acme.txt_value(key_authorization))
    assert (await outcome(client, order, found))["order"] == "ready"
    assert (await client.order("beside.test")).json()["status"] == "ready"


async def test_switched_off_again_it_proves_nothing(net: Net, database_url: str, tmp_path: Path) -> None:
    """A challenge that was offered before says so."""
    async with open_world(variables(database_url, tmp_path, **settings(net), **PERSIST)) as before:
        client = Client(before)
        await client.register()
        order, found = await persisted(client, "off.test")
        net.txt("_validation-persist.off.test", f"ca.test; accounturi={client.kid}")
    async with open_world(variables(database_url, tmp_path, **settings(net))) as after:
        again = Client(after, key=client.key)
        again.kid = client.kid
        ended = await outcome(again, order, found)
        assert "use another challenge" in ended["error"]["detail"]


def test_it_needs_a_name_of_this_authority() -> None:
    env = Environment({"CERTCTL_ACME_SERVER_DNS_PERSIST_ENABLED": "true"})
    assert load(env).persist_issuers == ()
    with pytest.raises(Misconfigured, match=r"DNS_PERSIST_ENABLED needs .* set CERTCTL_ACME_SERVER_CAA_IDENTITIES"):
        env.finish()


def test_no_more_names_than_a_challenge_may_hold() -> None:
    names = ",".join(f"ca{number}.test" for number in range(12))
    env = Environment(PERSIST | {"CERTCTL_ACME_SERVER_CAA_IDENTITIES": names})
    found = load(env)
    env.finish()
    assert (len(found.persist_issuers), len(found.caa_identities)) == (10, 12)
