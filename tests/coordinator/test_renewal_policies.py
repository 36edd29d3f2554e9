"""Renewal policies: every field is kept, and a change reaches what was issued before, also after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
import structlog

from coordinator.bindings import service as bindings
from coordinator.renewal_policies import service as renewal_policies
from coordinator.renewal_policies import store
from tests.coordinator.database.conftest import until
from tests.coordinator.test_agent_groups import says
from tests.coordinator.world import FakeAgent, World, done, problem, running

pytestmark = pytest.mark.anyio
DAY = 86400
DEFAULT = "/api/v1/renewal-policies/rp-default"


async def left(world: World, certificate_id: str) -> timedelta | None:
    """Return how much is left of a certificate when it is due; None when nobody renews it."""
    moment: timedelta | None = await world.value(
        """
        SELECT not_after - renew_at FROM holders JOIN certificate_versions AS versions ON versions.id = version_id
        WHERE holders.certificate_id = $1
        """,
        certificate_id,
    )
    return moment


async def about(world: World, certificate_id: str, wanted: timedelta) -> bool:
    """Say whether so much is left when it is due, but for the seconds between the clocks of test and database."""
    found = await left(world, certificate_id)
    return found is not None and abs(found - wanted) < timedelta(minutes=1)


async def replanned(world: World) -> int:
    """Follow all marks; return in how many steps."""
    steps = 0
    while await renewal_policies.replan(world.ctx):
        steps += 1
    return steps


async def issued(world: World, agent: FakeAgent, number: int = 1, **wish: Any) -> list[str]:
    """Have some certificates issued; return their ids."""
    made = [
        (await world.certificate(agent_id=agent.id, common_name=f"n{each}.example.com", **wish))[0]
        for each in range(number)
    ]
    await agent.work()
    return made


async def test_a_policy_is_made_read_replaced_merged_and_removed(world: World) -> None:
    body = {
        "name": "Early",
        "days_before": 10,
        "max_retries": 3,
        "retry_interval_s": 60,
        "alert_thresholds_days": [20, 5],
        "alert_channels": {"critical": ["pager"]},
        "alert_severity_map": {"5": "critical"},
    }
    made = await world.post("/api/v1/renewal-policies", {**body, "id": "rp-early"})
    assert {name: made[name] for name in body} == body
    patch = {"alert_severity_map": {"20": "error", "5": None}, "days_before": None}
    merged = done(await world.call("PATCH", "/api/v1/renewal-policies/rp-early", json=patch))
    assert (merged["alert_severity_map"], merged["days_before"], merged["max_retries"]) == ({"20": "error"}, None, 3)
    replaced = done(await world.call("PUT", "/api/v1/renewal-policies/rp-early", json={"name": "Early"}))
    assert (replaced["max_retries"], replaced["alert_thresholds_days"], replaced["revision"]) == (10, [30, 14, 7, 0], 3)
    await world.certificate(renewal_policy_id="rp-early")
    problem(await world.call("DELETE", "/api/v1/renewal-policies/rp-early"), 409)
    problem(await world.call("DELETE", DEFAULT), 409)
    await world.execute("DELETE FROM certificates")
    assert (await world.call("DELETE", "/api/v1/renewal-policies/rp-early")).status_code == 204


@pytest.mark.parametrize(
    "body,field",
    [
        ({"days_before": 0}, "days_before"),
        ({"max_retries": -1}, "max_retries"),
        ({"retry_interval_s": 0}, "retry_interval_s"),
        ({"renewal_window_days": 30}, "renewal_window_days"),
        ({"alert_thresholds_days": [-1]}, "alert_thresholds_days[0]"),
        ({"alert_channels": {"loud": ["pager"]}}, "alert_channels[...]"),
        ({"alert_severity_map": {"soon": "error"}}, "alert_severity_map[...]"),
        ({"alert_severity_map": {"5": "loud"}}, "alert_severity_map[...]"),
    ],
)
async def test_a_policy_that_makes_no_sense_is_refused_with_the_field(
    world: World, body: dict[str, Any], field: str
) -> None:
    found = problem(await world.call("POST", "/api/v1/renewal-policies", json={"name": "x", **body}), 400)
    assert [error["field"].partition("[")[0] for error in found["errors"]] == [field.partition("[")[0]]


async def test_a_changed_window_reaches_what_was_issued_before(world: World) -> None:
    agent = await world.agent()
    certificate_id, short_id = [(await issued(world, agent, lifetime_s=s))[0] for s in (47 * DAY, 6 * DAY)]
    assert await left(world, certificate_id) == timedelta(days=47) / 3
    done(await world.call("PATCH", DEFAULT, json={"days_before": 10}))
    assert await left(world, certificate_id) == timedelta(days=47) / 3, "the request itself computes nothing"
    assert await replanned(world) == 1
    assert await left(world, certificate_id) == timedelta(days=10)
    assert await about(world, short_id, timedelta(days=2)), "a window of ten days is none for six days"
    done(await world.call("PATCH", DEFAULT, json={"auto_renew": False}))
    await replanned(world)
    assert await left(world, certificate_id) is None
    done(await world.call("PUT", DEFAULT, json={"name": "Default"}))
    await replanned(world)
    assert await about(world, certificate_id, timedelta(days=47) / 3), "as when it was issued"
    assert await replanned(world) == 0


async def test_a_change_of_other_fields_computes_nothing(world: World) -> None:
    await issued(world, await world.agent())
    done(await world.call("PATCH", DEFAULT, json={"max_retries": 4, "description": "patient"}))
    assert await replanned(world) == 0


async def test_the_loop_follows_a_change_at_once_and_renews_what_is_due_by_it(world: World) -> None:
    agent = await world.agent()
    (certificate_id,) = await issued(world, agent, lifetime_s=47 * DAY)
    done(await world.call("PATCH", DEFAULT, json={"auto_renew": False}))
    async with running(world):
        await until(lambda: _is(left(world, certificate_id), None))
        world.clock.advance(timedelta(days=40))
        done(await world.call("PATCH", DEFAULT, json={"auto_renew": True}))
        await until(lambda: _is(world.value("SELECT count(*) FROM jobs WHERE trigger = 'due'"), 1))


async def _is(value: Any, wanted: object) -> bool:
    return bool(await value == wanted)


async def test_a_change_goes_on_in_batches_where_a_crash_has_cut_it_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await world.agent()
    ids = await issued(world, agent, 5, lifetime_s=47 * DAY)
    monkeypatch.setattr(renewal_policies, "_BATCH", 2)
    done(await world.call("PATCH", DEFAULT, json={"days_before": 10}))
    assert await renewal_policies.replan(world.ctx)
    changed = [await left(world, each) == timedelta(days=10) for each in sorted(ids)]
    assert changed == [True, True, False, False, False]

    def crash(_name: str) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as patched:
        patched.setattr(renewal_policies, "crash_point", crash)
        with pytest.raises(ConnectionResetError):
            await renewal_policies.replan(world.ctx)
    assert [await left(world, each) == timedelta(days=10) for each in sorted(ids)] == changed
    assert await asyncio.gather(*(renewal_policies.replan(world.ctx) for _ in range(4))) != [False] * 4
    await replanned(world)
    assert {await left(world, each) for each in ids} == {timedelta(days=10)}


async def test_a_certificate_that_is_given_another_policy_is_due_by_that_one(world: World) -> None:
    agent = await world.agent()
    moved, stays = await issued(world, agent, 2)
    await world.post("/api/v1/renewal-policies", {"name": "Early", "id": "rp-early", "days_before": 20})
    await world.execute("UPDATE certificates SET renewal_policy_id = 'rp-early' WHERE id = $1", moved)
    async with world.ctx.db.transaction() as tx:
        await renewal_policies.certificate_changed(tx, moved)
    assert (await left(world, moved), await left(world, stays)) == (timedelta(days=20), timedelta(days=47) / 3)


async def test_a_version_that_comes_meanwhile_keeps_its_own_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await world.agent()
    (certificate_id,) = await issued(world, agent)
    async with world.ctx.db.connection() as conn:
        seen = await store.holders_to_plan(conn, [certificate_id])
    await world.post(f"/api/v1/certificates/{certificate_id}/renew")
    await agent.work()

    async def old_look(*_arguments: object) -> Any:
        return [{**dict(seen[0].items()), "auto_renew": False}]

    monkeypatch.setattr(store, "holders_to_plan", old_look)
    done(await world.call("PATCH", DEFAULT, json={"days_before": 3}))
    await replanned(world)
    assert await left(world, certificate_id) == timedelta(days=47) / 3


async def test_only_agents_of_the_group_are_renewed_by_themselves_the_others_wait_for_a_person(world: World) -> None:
    inside, outside = await world.agent("inside"), await world.agent("outside")
    await says(inside, os="linux")
    await says(outside, os="darwin")
    await world.post("/api/v1/agent-groups", {"name": "Linux", "id": "grp-linux", "match_os": "linux"})
    await world.post("/api/v1/renewal-policies", {"name": "L", "id": "rp-linux", "agent_group_id": "grp-linux"})
    first, second = [(await issued(world, a, renewal_policy_id="rp-linux"))[0] for a in (inside, outside)]
    assert (await left(world, first), await left(world, second)) == (timedelta(days=47) / 3, None)
    world.clock.advance(timedelta(days=40))
    assert await bindings.renew_due(world.ctx) == 1
    await inside.work()
    await world.post(f"/api/v1/certificates/{second}/renew")
    await outside.work()
    assert await left(world, second) is None
    assert await world.value("SELECT count(*) FROM certificate_versions WHERE certificate_id = $1", second) == 2


CHANGES: dict[str, Callable[[World, FakeAgent], Awaitable[Any]]] = {
    "an upgrade of the agent's host": lambda world, agent: says(agent, os="linux"),
    "a hand that puts it in": lambda world, agent: world.call(
        "PUT", f"/api/v1/agent-groups/grp-linux/members/{agent.id}", json={"membership": "include"}
    ),
    "a change of the group": lambda world, agent: world.call(
        "PATCH", "/api/v1/agent-groups/grp-linux", json={"match_os": "darwin"}
    ),
    "a change of the policy": lambda world, agent: world.call(
        "PATCH", "/api/v1/renewal-policies/rp-linux", json={"agent_group_id": None}
    ),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_who_comes_into_a_group_is_renewed_by_itself_from_then_on(world: World, what: str) -> None:
    agent = await world.agent()
    await says(agent, os="darwin")
    await world.post("/api/v1/agent-groups", {"name": "Linux", "id": "grp-linux", "match_os": "linux"})
    await world.post("/api/v1/renewal-policies", {"name": "L", "id": "rp-linux", "agent_group_id": "grp-linux"})
    (certificate_id,) = await issued(world, agent, renewal_policy_id="rp-linux")
    await replanned(world)
    assert await left(world, certificate_id) is None
    await CHANGES[what](world, agent)
    assert await replanned(world) == 1
    assert await left(world, certificate_id) is not None
    await says(agent, os="linux" if "upgrade" in what else "darwin")
    assert await replanned(world) == 0, "what an agent only repeats computes nothing"


async def test_weakness_a8_the_policys_retries_and_pauses_are_kept(world: World) -> None:
    agent = await world.agent()
    done(await world.call("PATCH", DEFAULT, json={"max_retries": 2, "retry_interval_s": 100}))
    certificate_id, _ = await world.certificate(agent_id=agent.id, lifetime_s=47 * DAY)
    for failure, pause in enumerate((100, 200, 3600, 3600), start=1):
        await agent.fail(await agent.item(), "no entropy")
        waits = await world.value("SELECT extract(epoch FROM not_before - now()) FROM jobs WHERE state = 'AwaitingCSR'")
        assert 0.8 * pause - 1 <= float(waits) <= 1.2 * pause
        status = (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
        assert (status["failing"], status["holders"][0]["failing"]) == (failure > 2, failure > 2)
        assert status["reason"] == "no entropy"
        await world.execute("UPDATE jobs SET not_before = now()")
    await agent.work()
    status = (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
    assert (status["life"], status["failing"], status["reason"]) == ("valid", False, "")


async def test_weakness_a9_a_failing_certificate_gets_louder_once_and_is_tried_on(world: World) -> None:
    agent = await world.agent()
    target = await world.target(agent)
    done(await world.call("PATCH", DEFAULT, json={"max_retries": 1}))
    certificate_id, _ = await world.certificate(target_ids=[target])
    await agent.issue(await agent.item())
    with structlog.testing.capture_logs() as entries:
        for _ in range(4):
            await agent.fail(await agent.item())
            await world.execute("UPDATE jobs SET not_before = now()")
    loud = [entry for entry in entries if entry["event"] == "certificate_failing"]
    assert [(e["log_level"], e["certificate_id"], e["failures"]) for e in loud] == [("warning", certificate_id, 2)]
    events = await world.rows("SELECT action, details FROM audit_events WHERE action LIKE '%.failing'")
    assert [(row["action"], row["details"]["cause"]) for row in events] == [("deployment.failing", "nginx -t said no")]
    status = (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
    assert (status["failing"], status["service"]) == (True, "not served")
    await agent.work()
    status = (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
    assert (status["failing"], status["service"]) == (False, "served")
