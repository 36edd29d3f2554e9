"""Time travel: certificates of every lifetime fall due when a third is left, once, with the loops running."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from coordinator.bindings import service as bindings
from coordinator.bindings import store
from coordinator.database.driver import Record
from coordinator.loops import service as loops
from tests.coordinator.database.conftest import until
from tests.coordinator.world import World, open_world, running, variables

pytestmark = pytest.mark.anyio

LIFETIMES = {
    "a minute": timedelta(minutes=1),
    "an hour": timedelta(hours=1),
    "six days": timedelta(days=6),
    "47 days": timedelta(days=47),
    "a year": timedelta(days=365),
}
MOMENT = timedelta(milliseconds=1)


async def looked(world: World) -> None:
    """Return when the renewal loop has looked at the present state of things and fallen asleep again."""
    ticks = 0
    tick = loops.RENEWALS.tick

    async def counted() -> bool:
        nonlocal ticks
        ticks += 1
        await tick(world.ctx)
        return ticks > 1

    await until(counted)


async def issuances(world: World) -> int:
    return int(await world.value("SELECT count(*) FROM jobs WHERE kind = 'issuance'"))


@pytest.mark.parametrize("name", LIFETIMES)
async def test_a_certificate_falls_due_exactly_when_a_third_is_left_and_is_renewed_once(
    world: World, name: str
) -> None:
    lifetime = LIFETIMES[name]
    agent = await world.agent()
    certificate_id, _ = await world.certificate(agent_id=agent.id, lifetime_s=int(lifetime.total_seconds()))
    async with running(world):
        await agent.work()
        for renewal in range(1, 4):
            status = (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
            assert status["life"] == "valid"
            left = await world.value(
                "SELECT not_after - renew_at FROM certificate_versions, holders WHERE id = version_id"
            )
            assert left == lifetime / 3
            due = await world.value("SELECT renew_at FROM holders")
            world.clock.advance(due - world.clock.now() - MOMENT)
            await looked(world)
            assert await issuances(world) == renewal, "not yet"
            world.clock.advance(MOMENT)
            await until_issuances(world, renewal + 1)
            assert (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]["life"] == "due"
            await looked(world)
            assert await issuances(world) == renewal + 1, "once"
            await agent.work()
            await looked(world)
    assert await world.value("SELECT count(*) FROM certificate_versions") == 4
    assert await world.value("SELECT count(*) FROM audit_events WHERE action = 'certificate.due'") == 3


async def until_issuances(world: World, number: int) -> None:
    async def reached() -> bool:
        return await issuances(world) == number

    await until(reached)


async def test_what_a_policy_does_not_renew_expires_and_says_so(world: World) -> None:
    agent = await world.agent()
    await world.execute("INSERT INTO renewal_policies (id, name, auto_renew) VALUES ('rp-never', 'Never', false)")
    certificate_id, _ = await world.certificate(agent_id=agent.id, renewal_policy_id="rp-never", lifetime_s=3600)
    async with running(world):
        await agent.work()
        world.clock.advance(timedelta(days=1))
        await looked(world)
        assert await issuances(world) == 1
    status = (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
    assert (status["life"], status["renew_at"]) == ("expired", None)


async def test_a_policys_own_window_is_kept(world: World) -> None:
    agent = await world.agent()
    await world.execute("INSERT INTO renewal_policies (id, name, days_before) VALUES ('rp-early', 'Early', 10)")
    await world.certificate(agent_id=agent.id, renewal_policy_id="rp-early")
    await agent.work()
    left = await world.value("SELECT not_after - renew_at FROM certificate_versions, holders WHERE id = version_id")
    assert left == timedelta(days=10)


async def test_two_replicas_renew_once(database_url: str, tmp_path: Path) -> None:
    first_folder, second_folder = tmp_path / "one", tmp_path / "two"
    async with (
        open_world(variables(database_url, first_folder)) as one,
        open_world(variables(database_url, second_folder)) as two,
    ):
        agent = await one.agent()
        for number in range(30):
            await one.certificate(agent_id=agent.id, common_name=f"n{number}.example.com", lifetime_s=3600)
        await agent.work()
        for world in (one, two):
            world.clock.advance(timedelta(minutes=50))
        queued = await asyncio.gather(*(bindings.renew_due(world.ctx) for world in (one, two) * 3))
        assert sum(queued) == 30
        assert await issuances(one) == 60
        assert await one.value("SELECT count(*) FROM audit_events WHERE action = 'certificate.due'") == 30


async def test_a_replica_whose_look_is_a_moment_old_queues_and_records_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await world.agent()
    await world.certificate(agent_id=agent.id, lifetime_s=3600)
    await agent.work()
    world.clock.advance(timedelta(minutes=50))
    async with world.ctx.db.transaction() as tx:
        seen = await store.due_holders(tx, world.clock.now(), 10)

    async def old_look(*_arguments: object) -> list[Record]:
        return seen

    assert len(seen) == await bindings.renew_due(world.ctx) == 1
    monkeypatch.setattr(store, "due_holders", old_look)
    assert await bindings.renew_due(world.ctx) == 0
    assert await issuances(world) == 2
    assert await world.value("SELECT count(*) FROM audit_events WHERE action = 'certificate.due'") == 1


async def test_a_certificate_that_keeps_failing_is_tried_again_and_stays_visible(world: World) -> None:
    agent = await world.agent()
    certificate_id, _ = await world.certificate(agent_id=agent.id, lifetime_s=3600)
    await agent.work()
    world.clock.advance(timedelta(minutes=41))
    await bindings.renew_due(world.ctx)
    for failure in range(1, 4):
        await agent.fail(await agent.item(), "no entropy")
        status = (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
        assert (status["life"], status["reason"], status["holders"][0]["failures"]) == ("due", "no entropy", failure)
        assert await bindings.renew_due(world.ctx) == 0, "the retry is queued already"
        await world.execute("UPDATE jobs SET not_before = now()")
    world.clock.advance(timedelta(hours=1))
    assert (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]["life"] == "expired"
    await agent.work()
    assert (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]["life"] == "valid"


async def test_a_failing_loop_is_told_and_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = 0

    async def tick(_ctx: object) -> float:
        nonlocal ticks
        ticks += 1
        raise RuntimeError("a defect")

    loop = loops.Loop("renewals", 0.01, tick)
    monkeypatch.setattr(loops, "LOOPS", (loop,))
    async with running(world):
        await until(lambda: ticks > 3)


async def test_expired_nonces_and_sessions_are_cleaned_away(world: World) -> None:
    agent = await world.agent()
    await agent.token_request()
    await loops.CLEANING.tick(world.ctx)
    assert await world.value("SELECT count(*) FROM agent_nonces") == 1
    await world.execute("UPDATE agent_nonces SET expires_at = now() - interval '1 second'")
    await world.execute("UPDATE agent_sessions SET expires_at = now() - interval '1 second'")
    await loops.CLEANING.tick(world.ctx)
    assert await world.value("SELECT count(*) FROM agent_nonces") == 0
    assert await world.value("SELECT count(*) FROM agent_sessions") == 0
