"""First contact: what a token is good for, what is refused, and that repeating it is harmless."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from coordinator.agents import watch
from core.wire import TIME_HEADER
from tests.coordinator.world import FakeAgent, World, done, dump, open_world, problem, variables

pytestmark = pytest.mark.anyio


async def new_token(world: World, **options: Any) -> str:
    return str((await world.post("/api/v1/enrollment-tokens", options))["token"])


async def test_a_token_enrolls_one_agent_and_names_it(world: World) -> None:
    made = await world.post("/api/v1/enrollment-tokens", {"note": "for web-1"})
    agent = FakeAgent(world, "web-1")
    metadata = {"hostname": "web-1.example.com", "os": "linux", "architecture": "x86_64", "version": "0.1"}
    enrolled = done(await agent.enroll(made["token"], metadata=metadata))
    assert enrolled == {"agent_id": agent.id, "name": "web-1"}
    shown = await world.get(f"/api/v1/agents/{agent.id}")
    assert {**shown, **metadata, "online": True, "retired_at": None, "name": "web-1"} == shown
    (listed,) = (await world.get("/api/v1/enrollment-tokens"))["data"]
    assert (listed["note"], listed["used_by"], listed["created_by"][:4]) == ("for web-1", agent.id, "key:")
    assert "token" not in listed
    event = (await world.get("/api/v1/audit", action="agent.enrolled"))["data"][0]
    assert (event["actor"], event["details"]["token_id"]) == (f"agent:{agent.id}", made["id"])


async def test_repeating_it_is_harmless_also_after_the_token_has_expired(world: World) -> None:
    token = await new_token(world)
    agent = FakeAgent(world, "web-1")
    first = done(await agent.enroll(token))
    await world.execute("UPDATE enrollment_tokens SET expires_at = now()")
    before = await dump(world.dsn)
    assert done(await agent.enroll(token)) == first
    assert done(await agent.enroll(token, time_ms=0)) == first
    assert await dump(world.dsn) == before


@pytest.mark.parametrize("why", ["unknown", "used", "expired", "empty"])
async def test_a_token_that_is_no_good_enrolls_nobody(world: World, why: str) -> None:
    token = await new_token(world)
    if why == "used":
        done(await FakeAgent(world, "first").enroll(token))
    elif why == "expired":
        await world.execute("UPDATE enrollment_tokens SET expires_at = now()")
    else:
        token = "" if why == "empty" else "cte_" + "x" * 43
    before = await dump(world.dsn)
    refused = problem(await FakeAgent(world, "second").enroll(token), 401)
    assert "certctl" in refused["detail"]
    assert await dump(world.dsn) == before


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "a clock beyond time": ({"time_ms": 10**400}, 400, "time_ms"),
    "a short identity key": ({"identity_key": "AAAA"}, 400, "identity_key"),
    "a long sealing key": ({"sealing_key": "A" * 64}, 400, "sealing_key"),
    "a key that is no base64": ({"sealing_key": "*"}, 400, "sealing_key"),
    "no name": ({"name": ""}, 400, "name"),
    "a name of 300 characters": ({"name": "x" * 300}, 400, "name"),
    "a name with a NUL": ({"name": "a\0b"}, 400, "name"),
    "a name with a line": ({"name": "a\nb"}, 400, "name"),
    "a name in use": ({"name": "taken"}, 409, ""),
    "a host name of 300 characters": ({"metadata": {"hostname": "x" * 300}}, 400, "metadata.hostname"),
    "metadata of another type": ({"metadata": {"os": 7}}, 400, "metadata.os"),
}


async def test_what_is_wrong_is_named_and_leaves_the_token_unused(world: World, subtests: pytest.Subtests) -> None:
    await world.agent("taken")
    token = await new_token(world)
    before = await dump(world.dsn)
    now_ms = int(time.time() * 1000)
    clocks: dict[str, tuple[dict[str, Any], int, str]] = {
        f"a clock {minutes} minutes off": ({"time_ms": now_ms + minutes * 60_000}, 400, "time_ms")
        for minutes in (5, -5)
    }
    for what, (changes, status, field) in {**clocks, **WRONG}.items():
        with subtests.test(what):
            problem(await FakeAgent(world, "new").enroll(token, **changes), status, field)
    assert await dump(world.dsn) == before
    done(await FakeAgent(world, "new").enroll(token))


async def test_fields_of_a_newer_agent_are_not_in_the_way(world: World) -> None:
    done(await FakeAgent(world, "newer").enroll(await new_token(world), a_field_of_tomorrow=1))


async def test_one_token_and_two_agents_at_the_same_time_enroll_one(world: World) -> None:
    token = await new_token(world)
    agents = [FakeAgent(world, f"web-{number}") for number in range(5)]
    answers = await asyncio.gather(*(agent.enroll(token) for agent in agents))
    assert sorted(answer.status_code for answer in answers) == [201, 401, 401, 401, 401]
    assert await world.value("SELECT count(*) FROM agents") == 1


async def test_one_agent_that_asks_twice_at_the_same_time_is_enrolled_once(world: World) -> None:
    token = await new_token(world)
    agent = FakeAgent(world, "web-1")
    answers = await asyncio.gather(*(agent.enroll(token) for _ in range(3)))
    assert {answer.text for answer in answers} == {answers[0].text}
    assert await world.value("SELECT count(*) FROM agents") == 1


async def test_a_static_token_enrolls_many_in_a_closed_network(database_url: str, tmp_path: Path) -> None:
    token = "one-for-all-of-them"
    async with open_world(variables(database_url, tmp_path, CERTCTL_AGENT_BOOTSTRAP_TOKEN=token)) as world:
        for name in ("one", "two"):
            await world.agent(name, token)
        problem(await FakeAgent(world, "three").enroll(token + "x"), 401)
        same = FakeAgent(world, "four")
        answers = await asyncio.gather(*(same.enroll(token) for _ in range(3)))
        assert {answer.status_code for answer in answers} == {201}


async def test_the_poll_is_the_heartbeat_and_tells_the_clocks_skew(world: World, subtests: pytest.Subtests) -> None:
    agent = await world.agent()
    stated = {"right": time.time() + 42, "nonsense": None}
    for what, moment in stated.items():
        with subtests.test(what):
            await world.execute("UPDATE agents SET last_seen_at = now() - interval '10 minutes', skew_ms = 7")
            assert (await world.get(f"/api/v1/agents/{agent.id}"))["online"] is False
            header = "²" if moment is None else str(int(moment * 1000))
            headers = {
                b"Authorization": f"Bearer {agent.token}".encode(),
                TIME_HEADER.encode(): header.encode("latin-1"),
            }
            query = {"boot": agent.boot, "wait": "0"}
            done(await world.http.get(f"/api/v1/agents/{agent.id}/work", params=query, headers=headers))
            await watch.store_signs(world.ctx)
            shown = await world.get(f"/api/v1/agents/{agent.id}")
            assert shown["online"] is True
            assert shown["skew_ms"] == 7 if moment is None else 38_000 < shown["skew_ms"] < 46_000


async def test_a_malformed_poll_is_told_what_is_wrong(world: World, subtests: pytest.Subtests) -> None:
    agent = await world.agent()
    wrong = {
        "boot": {"boot": "A", "wait": 0},
        "wait": {"boot": agent.boot, "wait": 601},
        "held": {"boot": agent.boot, "wait": 0, "held": "job-1,,job-2"},
    }
    for field, query in wrong.items():
        with subtests.test(field):
            problem(await agent.call("GET", "/work", params=query), 400, field)
    with subtests.test("too many held"):
        held = ",".join(f"job-{number}" for number in range(257))
        problem(await agent.call("GET", "/work", params={"boot": agent.boot, "wait": 0, "held": held}), 400, "held")
