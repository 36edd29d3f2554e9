"""Challenges that agents look at as well: what the coordinator makes of what they say, and of those who lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coordinator.enrollment.acme import perspectives, store, validating
from core import acme, wire
from tests.coordinator.acme.client import Client
from tests.coordinator.acme.net import Net, challenge, settings
from tests.coordinator.world import FakeAgent, World, done, open_world, variables

pytestmark = pytest.mark.anyio
GROUP = "grp-views"
ON = {"CERTCTL_ACME_SERVER_PERSPECTIVES": GROUP}


async def group(world: World, *agents: FakeAgent) -> None:
    if not await world.rows("SELECT FROM agent_groups WHERE id = $1", GROUP):
        await world.post("/api/v1/agent-groups", {"id": GROUP, "name": GROUP})
    for agent in agents:
        done(
            await world.call("PUT", f"/api/v1/agent-groups/{GROUP}/members/{agent.id}", json={"membership": "include"})
        )


class Case:
    """A world, a client with an account, agents, and one challenge that the coordinator sees as it has to be."""

    def __init__(self, world: World, client: Client, net: Net, agents: list[FakeAgent]) -> None:
        self.world, self.client, self.net, self.agents = world, client, net, agents
        self.order = ""
        self.found: dict[str, Any] = {}

    async def begin(self, name: str = "v.test") -> None:
        self.order, self.found, key_authorization = await challenge(self.client, name, "http-01")
        self.net.serve(self.found["token"], key_authorization)
        begun = await self.client.post(self.found["url"], {})
        assert begun.json()["status"] == "processing"

    async def again(self) -> None:
        """Have it looked at again, as what was put off or left by a dead coordinator is."""
        await self.ended()
        await self.world.execute("UPDATE acme_authorizations SET answered_at = now() - interval '3 minutes'")
        assert await validating.take_up(self.world.ctx) == 1

    async def die(self) -> None:
        """End what is looked at as a kill does: nothing is written any more."""
        for task in self.world.ctx.validations.tasks:
            task.cancel()
        await asyncio.gather(*self.world.ctx.validations.tasks, return_exceptions=True)

    async def ended(self) -> None:
        await asyncio.gather(*self.world.ctx.validations.tasks)

    async def status(self) -> tuple[str, str]:
        """Return how the challenge and the order stand once the look is over."""
        await self.ended()
        shown = (await self.client.post(self.found["url"])).json()
        assert not {"evidence", "put_off"} & set(shown), "that is for operators"
        return shown["status"], (await self.client.post(self.order)).json()["status"]

    async def told(self) -> dict[str, Any]:
        """Return the challenge as operators see it."""
        shown = await self.world.get(f"/api/v1/acme-orders/{self.order.rpartition('/')[2]}")
        (found,) = [each for each in shown["authorizations"][0]["challenges"] if each["type"] == "http-01"]
        return dict(found)


async def looks(agent: FakeAgent, wait: float = 10, boot: str = "") -> tuple[wire.LookItem, ...]:
    query = {"boot": boot or agent.boot, "wait": wait, "held": ""}
    return msgspec.convert(done(await agent.call("GET", "/work", params=query)), wire.Work).looks


async def say(agent: FakeAgent, state: str, **more: Any) -> wire.LookItem:
    """Have an agent say how its one look went."""
    (item,) = await looks(agent)
    done(await agent.call("POST", f"/looks/{item.look_id}", json={"state": state, **more}))
    return item


@asynccontextmanager
async def case(net: Net, database_url: str, folder: Path, agents: int, **more: str) -> AsyncIterator[Case]:
    async with open_world(variables(database_url, folder, **settings(net), **ON, **more)) as world:
        client = Client(world)
        await client.register()
        made = [await world.agent(f"view-{number}") for number in range(agents)]
        await group(world, *made)
        yield Case(world, client, net, made)
        await asyncio.gather(*world.ctx.validations.tasks)


@pytest.fixture
async def three(net: Net, database_url: str, tmp_path: Path) -> AsyncIterator[Case]:
    async with case(net, database_url, tmp_path, 3) as made:
        yield made


async def test_all_see_it(three: Case) -> None:
    """What is asked is the challenge whole, and what came back is kept with the coordinator's own evidence."""
    await three.begin()
    items = [await say(agent, "seen") for agent in three.agents]
    assert await three.status() == ("valid", "ready")
    assert {(item.type, str(item.name), item.token) for item in items} == {("http-01", "v.test", three.found["token"])}
    assert {item.thumbprint for item in items} == {three.client.key.thumbprint()}
    assert len({item.look_id for item in items}) == 3
    evidence = (await three.told())["evidence"]
    assert evidence["addresses"] == ["127.0.0.1"], "the coordinator's own"
    seen = {(each["agent_id"], each["name"], each["state"]) for each in evidence["perspectives"]}
    assert seen == {(agent.id, agent.name, "seen") for agent in three.agents}
    assert await three.world.value("SELECT count(*) FROM acme_looks") == 0, "what is over is kept in the evidence"


async def test_two_of_three_see_something_else(three: Case) -> None:
    """The answer names each of them and what it saw; the error is the one that most of them had."""
    await three.begin()
    one, two, three_ = three.agents
    at = {"at": "2026-01-01T00:00:00Z", "elapsed_ms": 5}
    evidence = [
        {
            "challenge": "http-01",
            "name": "v.test",
            "asked": "http://v.test:80/",
            "source": "host-1",
            "answer": "gone",
            **at,
        }
    ]
    await say(one, "failed", type="incorrectResponse", detail="answered with status 404", evidence=evidence)
    await say(two, "failed", type="incorrectResponse", detail="answered 'other'")
    await say(three_, "seen")
    assert await three.status() == ("invalid", "invalid")
    told = await three.told()
    assert told["error"]["type"] == acme.URN + "incorrectResponse"
    for part in (
        "not at 2 of 3 other perspectives",
        "view-0: failed (answered with status 404)",
        "view-1: failed (answered 'other')",
        "view-2: seen",
    ):
        assert part in told["error"]["detail"]
    views = {each["name"]: each for each in told["evidence"]["perspectives"]}
    assert views["view-0"]["evidence"][0]["answer"] == "gone"
    assert told["evidence"]["addresses"] == ["127.0.0.1"], "what the coordinator saw stands beside it"
    assert (await three.client.order("v.test")).status_code == 201, "one failure is not too many"


async def test_one_of_three_sees_something_else(three: Case) -> None:
    await three.begin()
    await say(three.agents[0], "failed", type="dns", detail="it has no address here")
    for agent in three.agents[1:]:
        await say(agent, "seen")
    assert await three.status() == ("valid", "ready")
    views = {each["name"]: each for each in (await three.told())["evidence"]["perspectives"]}
    assert (views["view-0"]["state"], views["view-0"]["detail"]) == ("failed", "it has no address here")


async def test_who_has_not_opted_in_is_none(three: Case) -> None:
    """It counts neither for nor against: the other two are enough, and are not if one of them dissents by silence."""
    await three.begin()
    await say(three.agents[0], "none", detail="this host lets its agent look at no challenges")
    await say(three.agents[1], "seen")
    over, _ = await asyncio.wait(three.world.ctx.validations.tasks, timeout=0.5)
    assert not over, "one is not enough"
    await say(three.agents[2], "seen")
    assert await three.status() == ("valid", "ready")


async def test_too_few_put_it_off_and_are_enough_later(three: Case) -> None:
    """The order stays as it is, the reason is told to operators, and the next look begins anew."""
    await three.begin()
    for agent in three.agents[:2]:
        await say(agent, "none", detail="not here")
    await say(three.agents[2], "seen")
    assert await three.status() == ("processing", "pending")
    told = await three.told()
    assert "too few perspectives have looked, at least 2 have to" in told["put_off"]
    assert "view-0: none (not here)" in told["put_off"]
    assert {each["state"] for each in told["evidence"]["perspectives"]} == {"none", "seen"}
    await three.again()
    for agent in three.agents:
        await say(agent, "seen")
    assert await three.status() == ("valid", "ready")
    assert (await three.told())["put_off"] is None


async def test_too_few_are_connected(net: Net, database_url: str, tmp_path: Path) -> None:
    """Nobody is asked then; who is away or retired is not connected."""
    async with case(net, database_url, tmp_path, 3) as made:
        await made.world.execute(
            "UPDATE agents SET last_seen_at = now() - interval '3 minutes' WHERE id = $1", made.agents[0].id
        )
        done(await made.world.call("DELETE", f"/api/v1/agents/{made.agents[1].id}"))
        await made.begin()
        assert await made.status() == ("processing", "pending")
        reason = (await made.told())["put_off"]
        assert f"1 agents of the group {GROUP} (CERTCTL_ACME_SERVER_PERSPECTIVES) are connected, and 2 are" in reason
        assert await looks(made.agents[2], wait=0) == ()
        other = await made.world.agent("view-new")
        await group(made.world, other)
        await made.again()
        for agent in (made.agents[2], other):
            await say(agent, "seen")
        assert await made.status() == ("valid", "ready")


async def test_agents_validate_nothing(three: Case) -> None:
    """The coordinator looks first: what it does not see itself nobody is asked about."""
    order, found, _ = await challenge(three.client, "lie.test", "http-01")
    three.net.serve(found["token"], "something else")
    await three.client.post(found["url"], {})
    three.order, three.found = order, found
    assert await three.status() == ("invalid", "invalid")
    assert await three.world.value("SELECT count(*) FROM acme_looks") == 0
    assert "perspectives" not in (await three.told())["evidence"]


async def test_a_liar_has_its_own_word_only(three: Case) -> None:
    """Not that of another agent, not twice, and not what would spoil a terminal or a table."""
    await three.begin()
    liar, honest, third = three.agents
    (its,), (others,) = await looks(liar), await looks(honest)
    response = await liar.call("POST", f"/looks/{others.look_id}", json={"state": "failed", "type": "dns"})
    assert response.status_code == 404
    for wrong in (
        {"state": "valid"},
        {"state": "failed", "type": "made up"},
        {"state": "failed", "type": "dns", "detail": "x" * 3000},
        {"state": "seen", "evidence": [{}] * 3},
    ):
        response = await liar.call("POST", f"/looks/{its.look_id}", json=wrong)
        assert response.status_code == 400, response.text
    detail = "\x1b[31m" + "z" * 1500
    done(await liar.call("POST", f"/looks/{its.look_id}", json={"state": "failed", "detail": detail}))
    done(await liar.call("POST", f"/looks/{its.look_id}", json={"state": "seen"}))
    done(await honest.call("POST", f"/looks/{others.look_id}", json={"state": "seen"}))
    await say(third, "seen")
    assert await three.status() == ("valid", "ready")
    views = {each["name"]: each for each in (await three.told())["evidence"]["perspectives"]}
    assert views["view-0"]["state"] == "failed", "the first word counts"
    assert views["view-0"]["detail"].startswith("\\x1b[31mzz")
    assert len(views["view-0"]["detail"]) <= 1000
    response = await liar.call("POST", f"/looks/{its.look_id}", json={"state": "seen"})
    assert response.status_code == 404, "nobody waits for it any more"


async def test_a_look_is_offered_to_the_next_process(three: Case) -> None:
    """What one did not tell the end of, its successor is offered at once, and the same one after a while."""
    await three.begin()
    first = three.agents[0]
    (item,) = await looks(first)
    assert await looks(first, wait=0) == ()
    assert await looks(first, wait=0, boot="bootanother") == (item,)
    await three.world.execute("UPDATE acme_looks SET offered_at = now() - interval '20 seconds'")
    assert await looks(first, wait=0, boot="bootanother") == (item,)
    await three.world.execute("UPDATE acme_looks SET created_at = now() - interval '1 minute'")
    assert await looks(first, wait=0, boot="bootthethird") == (), "nobody waits for it any more"
    for agent in three.agents[1:]:
        (other,) = await three.world.rows("SELECT id FROM acme_looks WHERE agent_id = $1", agent.id)
        done(await agent.call("POST", f"/looks/{other['id']}", json={"state": "seen"}))
    assert await three.status() == ("valid", "ready"), "two of three are enough, the third was silent"


async def test_silence_is_no_word_on_the_name(three: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perspectives, "LOOKED_WITHIN_S", 0.3)
    await three.begin()
    assert await three.status() == ("processing", "pending")
    assert "view-1: silent (it has not answered)" in (await three.told())["put_off"]


async def test_another_coordinator_goes_on(net: Net, database_url: str, tmp_path: Path) -> None:
    """One that dies while it waits leaves looks that nobody waits for; the next one asks its own."""
    async with (
        case(net, database_url, tmp_path, 2) as made,
        open_world(variables(database_url, tmp_path / "two", **settings(net), **ON)) as second,
    ):
        await made.begin()
        first = made.agents[0]
        (old,) = await looks(first)
        await made.die()
        await made.world.execute("UPDATE acme_authorizations SET answered_at = now() - interval '3 minutes'")
        assert await validating.take_up(second.ctx) == 1
        (new,) = await looks(first)
        assert old.look_id != new.look_id
        assert (await first.call("POST", f"/looks/{old.look_id}", json={"state": "seen"})).status_code == 404
        done(await first.call("POST", f"/looks/{new.look_id}", json={"state": "seen"}))
        await say(made.agents[1], "seen")
        await asyncio.gather(*second.ctx.validations.tasks)
        assert await made.status() == ("valid", "ready")


async def test_looks_go_with_what_they_were_about(three: Case) -> None:
    await three.begin()
    await looks(three.agents[0])
    await three.die()
    await three.world.execute("UPDATE acme_authorizations SET expires_at = now() - interval '3 days'")
    assert await three.world.value("SELECT count(*) FROM acme_looks") == 3
    async with three.world.ctx.db.connection() as conn:
        await store.collect(conn, three.world.ctx.settings.acme.order_ttl)
    assert await three.world.value("SELECT count(*) FROM acme_looks") == 0


async def test_six_may_have_two_that_dissent(net: Net, database_url: str, tmp_path: Path) -> None:
    async with case(net, database_url, tmp_path, 6, CERTCTL_ACME_SERVER_PERSPECTIVES_MIN="6") as made:
        await made.begin()
        for number, agent in enumerate(made.agents):
            await say(agent, "failed" if number < 2 else "seen", **({"type": "tls"} if number < 2 else {}))
        assert await made.status() == ("valid", "ready")
