"""Trials of targets: who asks, who is offered them, how they end, and where that is shown."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from core import wire
from tests.coordinator.world import FakeAgent, World, done, problem

pytestmark = pytest.mark.anyio


async def offered(agent: FakeAgent, boot: str = "", wait: float = 0) -> tuple[wire.TrialItem, ...]:
    query = {"boot": boot or agent.boot, "wait": wait}
    return msgspec.convert(done(await agent.call("GET", "/work", params=query)), wire.Work).trials


async def tell(agent: FakeAgent, trial_id: str, **report: Any) -> Any:
    body = msgspec.to_builtins(wire.TrialReport(**report))
    return await agent.call("POST", f"/trials/{trial_id}/result", json=body)


async def test_a_trial_is_offered_told_and_shown(world: World) -> None:
    agent = await world.agent()
    target_id = await world.target(agent)
    assert (await world.get(f"/api/v1/targets/{target_id}"))["last_test"] is None
    answer = await world.call("POST", f"/api/v1/targets/{target_id}/test", json={})
    assert answer.status_code == 202
    trial = answer.json()
    assert trial["ok"] is None
    (item,) = await offered(agent)
    assert (item.trial_id, item.target_id, item.target_type) == (trial["id"], target_id, "nginx")
    assert item.config["probe"]["port"] == 443
    done(await tell(agent, item.trial_id, steps=(wire.Step("staged", 1.5),)))
    shown = (await world.get(f"/api/v1/targets/{target_id}"))["last_test"]
    assert shown["ok"] is True
    assert [step["name"] for step in shown["steps"]] == ["staged"]
    assert await offered(agent) == ()
    events = await world.get("/api/v1/audit", resource_id=target_id)
    assert {"target.test_requested", "target.tested"} <= {event["action"] for event in events["data"]}


async def test_a_failure_names_its_step_and_the_first_report_counts(world: World) -> None:
    agent = await world.agent()
    target_id = await world.target(agent)
    trial = await world.post(f"/api/v1/targets/{target_id}/test")
    done(await tell(agent, trial["id"], failure=wire.Failure("checked", "nginx -t said no")))
    done(await tell(agent, trial["id"]))
    shown = (await world.get(f"/api/v1/targets/{target_id}"))["last_test"]
    assert shown["ok"] is False
    assert shown["failure"] == {"step": "checked", "cause": "nginx -t said no", "transient": True}
    again = await world.post(f"/api/v1/targets/{target_id}/test")
    assert again["id"] != trial["id"]
    assert again["ok"] is None
    problem(await tell(agent, trial["id"]), 404)


async def test_a_process_is_offered_a_trial_once_and_its_successor_again(world: World) -> None:
    agent = await world.agent()
    trial = await world.post(f"/api/v1/targets/{await world.target(agent)}/test")
    assert [item.trial_id for item in await offered(agent)] == [trial["id"]]
    assert await offered(agent) == ()
    assert [item.trial_id for item in await offered(agent, boot="anotherboot")] == [trial["id"]]


async def test_one_that_waits_is_answered_to_whoever_asks_again(world: World) -> None:
    agent = await world.agent()
    path = f"/api/v1/targets/{await world.target(agent)}/test"
    assert (await world.post(path))["id"] == (await world.post(path))["id"]


async def test_another_agent_may_not_tell_and_a_removed_target_is_not_tried(world: World) -> None:
    agent, other = await world.agent(), await world.agent("web-2")
    target_id = await world.target(agent)
    trial = await world.post(f"/api/v1/targets/{target_id}/test")
    problem(await tell(other, trial["id"]), 404)
    assert (await world.call("DELETE", f"/api/v1/targets/{target_id}")).status_code == 204
    assert await offered(agent) == ()
    problem(await world.call("POST", f"/api/v1/targets/{target_id}/test", json={}), 409)
    problem(await world.call("POST", "/api/v1/targets/tgt_none/test", json={}), 404)
