"""Loops can be looked at and asked to run; what changes by itself is told once."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coordinator.agents import health, watch
from coordinator.bindings import service as bindings
from coordinator.certificates import lives
from coordinator.loops import routes, ticks
from coordinator.loops import service as loops
from tests.coordinator.database.conftest import until
from tests.coordinator.world import World, done, open_world, problem, running, variables

pytestmark = pytest.mark.anyio
PATH = "/api/v1/admin/loops"


async def events(world: World, resource_id: str, *actions: str) -> list[str]:
    rows = await world.rows(
        "SELECT action FROM audit_events WHERE resource_id = $1 AND action = ANY($2) ORDER BY id", resource_id, actions
    )
    return [row["action"] for row in rows]


async def loop(world: World, name: str) -> dict[str, Any]:
    (found,) = [each for each in (await world.get(PATH))["data"] if each["name"] == name]
    return dict(found)


# Seen and asked for ---------------------------------------------------------------------------------------------


async def test_loops_have_the_documents_names_and_intervals(world: World) -> None:
    listed = await world.get(PATH)
    assert listed["runner"] == ""
    found = {each["name"]: each["interval_s"] for each in listed["data"]}
    documents = {
        "renewal-check": 3600,
        "job-processor": 30,
        "job-retry": 300,
        "job-timeout": 600,
        "agent-health-check": 120,
        "short-lived-expiry": 30,
        "status-transitions": 3600,
    }
    assert found.items() >= documents.items()
    assert all(each["purpose"] and each["last_run_at"] is None for each in listed["data"])


async def test_an_interval_is_what_its_variable_says(database_url: str, tmp_path: Path) -> None:
    more = {"CERTCTL_SCHEDULER_RETRY_INTERVAL": "7s", "CERTCTL_SCHEDULER_RENEWAL_CHECK_INTERVAL": "5m"}
    async with open_world(variables(database_url, tmp_path, **more)) as world:
        assert (await loop(world, "job-retry"))["interval_s"] == 7
        assert (await loop(world, "renewal-check"))["interval_s"] == 300


async def test_a_run_that_is_asked_of_one_coordinator_happens_on_the_other(
    replicas: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = replicas
    ran: list[int] = []

    async def tick(ctx: object) -> None:
        ran.append(id(ctx))

    monkeypatch.setattr(loops, "LOOPS", (loops.Loop("job-retry", 3600.0, tick),))
    async with running(one):
        await until(lambda: len(ran) == 1)
        for number in (2, 3):
            answer = await two.call("POST", f"{PATH}/job-retry/run")
            assert answer.status_code == 200
            assert answer.json()["waiting"] == 0
            assert answer.json()["ran_on"] == (await two.get(PATH))["runner"] != ""
            assert ran == [id(one.ctx)] * number
    assert await events(two, "job-retry", "loop.run_asked") == ["loop.run_asked"] * 2


async def test_a_run_that_nobody_can_do_now_is_accepted_and_done_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "_PATIENCE_S", 0.05)
    answer = await world.call("POST", f"{PATH}/job-retry/run")
    assert (answer.status_code, answer.json()["waiting"]) == (202, 1)

    async def over() -> bool:
        return bool((await loop(world, "job-retry"))["waiting"] == 0)

    async with running(world):
        await until(over)


async def test_a_failing_loop_says_why_until_it_works_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = True

    async def tick(_ctx: object) -> None:
        if broken:
            raise RuntimeError("password=hunter2")

    monkeypatch.setattr(loops, "LOOPS", (loops.Loop("job-retry", 3600.0, tick),))
    async with running(world):
        failed = await world.post(f"{PATH}/job-retry/run")
        assert failed["last_error"].startswith("RuntimeError")
        assert "hunter2" not in str(failed)
        broken = False
        well = await world.post(f"{PATH}/job-retry/run")
        assert well["last_error"] == ""
        assert well["failed_at"] >= failed["failed_at"]


async def test_only_an_admin_and_only_a_loop(world: World) -> None:
    problem(await world.call("POST", f"{PATH}/job-retry/run", "operator"), 403)
    problem(await world.call("GET", PATH, "auditor"), 403)
    assert "job-retry" in problem(await world.call("POST", f"{PATH}/nothing/run"), 404)["detail"]


# What changes by itself -----------------------------------------------------------------------------------------

LIVES = ("certificate.expiring", "certificate.expired", "certificate.active")


async def test_a_life_is_told_once_by_however_many_coordinators(replicas: tuple[World, World]) -> None:
    one, two = replicas
    agent = await one.agent()
    certificate_id, _ = await one.certificate(agent_id=agent.id, lifetime_s=30 * 86400)
    await agent.work()

    async def told() -> list[str]:
        await asyncio.gather(*(lives.tell(world.ctx) for world in (one, two) * 3))
        return await events(one, certificate_id, *LIVES)

    def pass_by(days: int) -> None:
        for world in replicas:
            world.clock.advance(timedelta(days=days))

    assert await told() == []
    pass_by(21)
    assert await told() == ["certificate.expiring"]
    assert await told() == ["certificate.expiring"]
    pass_by(10)
    assert await told() == ["certificate.expiring", "certificate.expired"]
    await bindings.renew_due(one.ctx)
    await agent.work()
    assert await told() == ["certificate.expiring", "certificate.expired", "certificate.active"]


async def test_a_timer_wakes_at_the_moment_a_certificate_expires(world: World) -> None:
    agent = await world.agent()
    certificate_id, _ = await world.certificate(agent_id=agent.id, lifetime_s=1800)
    await agent.work()
    async with running(world):
        world.clock.advance(timedelta(minutes=31))

        async def told() -> bool:
            return "certificate.expired" in await events(world, certificate_id, *LIVES)

        await until(told)
    assert (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]["life"] == "expired"


async def test_an_agent_that_goes_silent_is_told_once_and_so_is_its_return(replicas: tuple[World, World]) -> None:
    one, two = replicas
    agent = await one.agent()
    told = ("agent.offline", "agent.online")

    async def look() -> list[str]:
        await asyncio.gather(*(health.check(world.ctx) for world in (one, two) * 2))
        return await events(one, agent.id, *told)

    await one.execute("UPDATE agents SET last_seen_at = now() - interval '3 minutes'")
    assert await look() == [], "a coordinator that has just begun to hear calls nobody silent"
    for world in replicas:
        world.ctx.polls.hearing_since = time.monotonic() - 121
    assert await look() == ["agent.offline"]
    assert await look() == ["agent.offline"]
    one.ctx.polls.saw(agent.id)
    await watch.store_signs(one.ctx)
    assert await look() == ["agent.offline", "agent.online"]
    assert await one.value("SELECT offline_since FROM agents") is None


async def test_after_a_time_without_a_database_nobody_is_silent_at_once(world: World) -> None:
    world.ctx.polls.hearing_since = world.ctx.polls._stored_at = time.monotonic() - 300
    world.ctx.polls.stored()
    assert time.monotonic() - world.ctx.polls.hearing_since < 1


async def test_a_retired_agent_is_not_missed(world: World) -> None:
    agent = await world.agent()
    done(await world.call("DELETE", f"/api/v1/agents/{agent.id}", params={"force": "true", "reason": "over"}))
    world.ctx.polls.hearing_since = time.monotonic() - 121
    await world.execute("UPDATE agents SET last_seen_at = now() - interval '3 minutes'")
    await health.check(world.ctx)
    assert await events(world, agent.id, "agent.offline") == []


async def test_who_may_be_silent_next_is_known(world: World) -> None:
    world.ctx.polls.hearing_since = time.monotonic() - 121
    assert await health.check(world.ctx) is None
    await world.agent()
    await world.execute("UPDATE agents SET last_seen_at = now() - interval '50 seconds'")
    wait_s = await health.check(world.ctx)
    assert wait_s is not None
    assert 65 < wait_s <= 70


# What waits for too long ----------------------------------------------------------------------------------------


async def test_a_request_that_no_agent_answers_fails_is_tried_again_and_becomes_louder(world: World) -> None:
    agent = await world.agent()
    certificate_id, (job_id,) = await world.certificate(agent_id=agent.id)
    assert await bindings.end_overdue(world.ctx) == 0
    for count in range(1, 13):
        await world.execute("UPDATE jobs SET created_at = now() - interval '25 hours', not_before = created_at")
        await world.execute("UPDATE jobs SET not_before = now() - interval '25 hours'")
        assert await bindings.end_overdue(world.ctx) == 1, count
    first = await world.get(f"/api/v1/jobs/{job_id}")
    assert (first["state"], first["failure"]["step"]) == ("Failed", "csr")
    status = (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
    assert status["failing"]
    assert "has not handed in" in status["reason"]
    assert await events(world, certificate_id, "issuance.failing") == ["issuance.failing"]
    assert await agent.poll() == [], "the next attempt backs off"
    await world.execute("UPDATE jobs SET not_before = now() WHERE state = 'AwaitingCSR'")
    await agent.work()
    assert (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]["life"] == "valid"


async def test_the_timeout_is_what_its_variable_says(database_url: str, tmp_path: Path) -> None:
    more = {"CERTCTL_JOB_AWAITING_CSR_TIMEOUT": "1h"}
    async with open_world(variables(database_url, tmp_path, **more)) as world:
        agent = await world.agent()
        await world.certificate(agent_id=agent.id)
        await world.execute(
            "UPDATE jobs SET created_at = now() - interval '61 min', not_before = now() - interval '59 min'"
        )
        assert await bindings.end_overdue(world.ctx) == 0, "it could not begin before"
        await world.execute("UPDATE jobs SET not_before = now() - interval '61 min'")
        assert await bindings.end_overdue(world.ctx) == 1


async def test_a_lease_has_a_timer(world: World) -> None:
    agent = await world.agent()
    await world.certificate(target_ids=[await world.target(agent)])
    await agent.issue(await agent.item())
    await agent.item()
    (timeout,) = [each for each in ticks.LOOPS if each.name == "job-timeout"]
    pause_s = await timeout.tick(world.ctx)
    assert pause_s is not None
    assert 170 < pause_s <= 180
