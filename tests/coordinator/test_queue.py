"""The queue as an agent sees it: leases and their epochs, waiting, retries, what a newer version does to older work."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cryptography.x509 import BasicConstraints, load_der_x509_certificate

from coordinator.bindings import service as bindings
from coordinator.jobs import service as jobs
from core import wire
from tests.coordinator.database.conftest import until
from tests.coordinator.world import FakeAgent, World, csr_for, done, dump, problem

pytestmark = pytest.mark.anyio


async def deployment(world: World, agent: FakeAgent, **wish: Any) -> wire.DeploymentItem:
    """Bring a new certificate as far as its first deployment, delivered to its agent."""
    target = await world.target(agent, f"site-{await world.value('SELECT count(*) FROM targets')}")
    await world.certificate(target_ids=[target], **wish)
    await agent.issue(await agent.item())
    item = await agent.item()
    assert isinstance(item, wire.DeploymentItem)
    return item


async def make_due(world: World) -> None:
    """End every waiting time and every lease, as time would."""
    await world.execute("UPDATE jobs SET not_before = now() WHERE not_before > now()")
    await world.execute("UPDATE jobs SET lease_until = now() - interval '1 second' WHERE lease_until IS NOT NULL")


async def test_a_certificate_goes_all_the_way(world: World) -> None:
    agent = await world.agent()
    target = await world.target(agent)
    certificate_id, job_ids = await world.certificate(target_ids=[target], sans=["example.com"])
    issuance = await agent.item()
    assert (issuance.job_id, issuance.lease_epoch) == (job_ids[0], 1)
    assert [str(name) for name in issuance.names] == ["www.example.com", "example.com"]
    answer = await agent.issue(issuance)
    item = await agent.item()
    assert (item.chain, item.version_id, item.target_id) == (answer.chain, answer.version_id, target)
    assert load_der_x509_certificate(item.root).extensions.get_extension_for_class(BasicConstraints).value.ca
    load_der_x509_certificate(item.chain[-1]).verify_directly_issued_by(load_der_x509_certificate(item.root))
    await agent.serve(item)
    run = await world.get(f"/api/v1/runs/{job_ids[0]}")
    assert (run["state"], [job["state"] for job in run["jobs"]]) == ("served", ["Completed", "Completed"])
    status = (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
    assert (status["life"], status["service"], status["served_on"]) == ("valid", "served", 1)
    assert await agent.poll() == []


async def test_a_job_that_ended_is_leased_to_nobody(world: World) -> None:
    agent = await world.agent()
    item = await deployment(world, agent)
    leased = "SELECT array_agg(kind) FROM jobs WHERE lease_until IS NOT NULL"
    assert await world.value(leased) == ["deployment"]
    await agent.fail(item)
    assert await world.value(leased) is None


async def test_what_is_held_is_not_delivered_again_and_a_lost_answer_is(world: World) -> None:
    agent = await world.agent()
    item = await deployment(world, agent)
    assert await agent.poll(held=(item.job_id,)) == []
    again = await agent.item()
    assert (again.job_id, again.lease_epoch) == (item.job_id, item.lease_epoch + 1)
    problem(await agent.report(item.job_id, agent.report_on(item)), 409)
    await agent.serve(again)


async def test_a_restarted_agent_gets_its_predecessors_work_even_while_it_names_it(world: World) -> None:
    agent = await world.agent()
    item = await deployment(world, agent)
    again = await agent.item(held=(item.job_id,), boot="anotherboot")
    assert again.lease_epoch == item.lease_epoch + 1


async def test_a_stale_lease_takes_no_csr_and_no_report(world: World) -> None:
    agent = await world.agent()
    await world.certificate(agent_id=agent.id)
    item = await agent.item()
    stale = problem(await agent.submit(item, csr_for(item), epoch=item.lease_epoch + 1), 409)
    assert stale["type"] == "urn:certctl:problem:stale-lease"
    await agent.issue(item)
    failure = agent.report_on(item, outcome="failed", failure=wire.Failure("csr", "late"))
    assert problem(await agent.report(item.job_id, failure), 409)["type"].endswith("stale-lease")


async def test_a_poll_is_woken_by_new_work_and_only_after_the_commit(world: World) -> None:
    agent = await world.agent()
    waiting = asyncio.create_task(agent.poll(wait=30))
    topic = jobs.agent_topic(agent.id)
    await until(lambda: topic in world.ctx.db.wakeups._waiters)
    async with world.ctx.db.transaction() as tx:
        tx.wake(topic)
        await asyncio.sleep(0.05)
        assert not waiting.done()
    await world.certificate(agent_id=agent.id)
    async with asyncio.timeout(5):
        assert len(await waiting) == 1


async def test_work_that_is_locked_while_the_agent_looks_is_seen_within_the_same_poll(world: World) -> None:
    agent = await world.agent()
    _, (job_id,) = await world.certificate(agent_id=agent.id)
    async with world.ctx.db.transaction() as tx:
        await jobs.lock(tx, job_id)
        waiting = asyncio.create_task(agent.poll(wait=30))
        await asyncio.sleep(0.1)
        assert not waiting.done()
    async with asyncio.timeout(5):
        assert len(await waiting) == 1


async def test_a_retry_waits_longer_each_time_and_wakes_its_poll_by_itself(world: World) -> None:
    agent = await world.agent()
    item = await deployment(world, agent)
    waits = []
    for attempt in range(1, 5):
        await agent.fail(item)
        row = (await world.rows("SELECT attempt, not_before - created_at AS wait FROM jobs WHERE state = 'Pending'"))[0]
        assert row["attempt"] == attempt + 1
        waits.append(row["wait"].total_seconds())
        assert await agent.poll() == []
        await make_due(world)
        item = await agent.item()
    assert 1.6 <= waits[0] <= 2.4
    assert all(0.8 * 2**n <= wait / 2 <= 1.2 * 2**n for n, wait in enumerate(waits))
    await agent.fail(item)
    await world.execute("UPDATE jobs SET not_before = now() + interval '150 milliseconds' WHERE state = 'Pending'")
    async with asyncio.timeout(5):
        await agent.serve(await agent.item(wait=30))
    assert await world.value("SELECT failures FROM bindings") == 0


async def test_a_failed_issuance_is_tried_again_and_says_why(world: World) -> None:
    agent = await world.agent()
    certificate_id, (job_id,) = await world.certificate(agent_id=agent.id)
    await agent.fail(await agent.item(), "disk full")
    status = (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
    assert (status["reason"], status["holders"][0]["failures"]) == ("disk full", 1)
    assert (await world.get(f"/api/v1/runs/{job_id}"))["state"] == "retrying"
    renewal = await world.post(f"/api/v1/certificates/{certificate_id}/renew")
    assert renewal["run_id"] == job_id, "the retry belongs to the first run, and asking again starts it now"
    await agent.issue(await agent.item())
    assert (await world.get(f"/api/v1/runs/{job_id}"))["state"] == "issued"


async def test_a_newer_version_cancels_what_older_ones_wanted(world: World) -> None:
    agent = await world.agent()
    old = await deployment(world, agent)
    renewal = await world.post(f"/api/v1/certificates/{old.certificate_id}/renew")
    await agent.issue(await agent.item(held=(old.job_id,)))
    first = await world.get(f"/api/v1/jobs/{old.job_id}")
    assert first["state"] == "Cancelled"
    assert (await world.get(f"/api/v1/runs/{first['run_id']}"))["state"] == "superseded"
    problem(await agent.report(old.job_id, agent.report_on(old)), 409)
    new = await agent.item()
    assert new.fingerprint != old.fingerprint
    await agent.serve(new)
    assert (await world.get(f"/api/v1/runs/{renewal['run_id']}"))["state"] == "served"


async def test_an_agent_that_went_silent_costs_an_attempt_not_the_deployment(world: World) -> None:
    agent = await world.agent()
    item = await deployment(world, agent)
    assert await bindings.reconcile(world.ctx) == 0
    await make_due(world)
    assert await bindings.reconcile(world.ctx) == 1
    job = await world.get(f"/api/v1/jobs/{item.job_id}")
    assert (job["state"], job["failure"]["step"]) == ("Failed", "report")
    await make_due(world)
    again = await agent.item()
    assert (again.job_id != item.job_id, again.version_id) == (True, item.version_id)


async def test_what_is_held_keeps_its_lease(world: World) -> None:
    agent = await world.agent()
    item = await deployment(world, agent)
    await make_due(world)
    await agent.poll(held=(item.job_id,))
    assert await bindings.reconcile(world.ctx) == 0


async def test_a_job_that_is_just_ended_does_not_hold_up_the_poll_that_names_it(world: World) -> None:
    agent = await world.agent()
    await world.certificate(target_ids=[await world.target(agent, name) for name in ("site-a", "site-b")])
    await agent.issue(await agent.item())
    items = await agent.poll()
    await make_due(world)
    async with world.ctx.db.transaction() as ending:
        await ending.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", items[0].job_id)
        async with asyncio.timeout(5):
            await agent.poll(held=tuple(item.job_id for item in items))
    assert await bindings.reconcile(world.ctx) == 1, "the lease of the other one was lengthened"


@pytest.mark.parametrize(
    "gap",
    [
        "DELETE FROM jobs WHERE kind = 'deployment'",
        "UPDATE jobs SET state = 'Cancelled' WHERE kind = 'deployment'",
        "UPDATE bindings SET served_version_id = NULL",
    ],
)
async def test_the_reconciler_closes_gaps_between_wanted_and_served(world: World, gap: str) -> None:
    agent = await world.agent()
    item = await deployment(world, agent)
    if "bindings" in gap:
        await agent.serve(item)
    await world.execute(gap)
    assert await bindings.reconcile(world.ctx) == 1
    assert await bindings.reconcile(world.ctx) == 0
    again = await agent.item()
    assert again.version_id == item.version_id
    run_id = (await world.get(f"/api/v1/jobs/{again.job_id}"))["run_id"]
    assert run_id == await world.value("SELECT run_id FROM jobs WHERE kind = 'issuance'")


async def test_the_reconciler_closes_the_gap_of_a_holder_without_a_version(world: World) -> None:
    agent = await world.agent()
    await world.certificate(agent_id=agent.id)
    await world.execute("UPDATE jobs SET state = 'Cancelled'")
    assert await bindings.reconcile(world.ctx) == 1
    await agent.issue(await agent.item())
    assert await bindings.reconcile(world.ctx) == 0


async def test_an_agent_with_more_work_than_it_can_hold_still_gets_all_of_it(world: World) -> None:
    agent = await world.agent()
    for number in range(300):
        await world.certificate(agent_id=agent.id, common_name=f"n{number}.example.com")
    held: list[str] = []
    while items := await agent.poll(held=tuple(held)):
        held += [item.job_id for item in items]
    assert len(held) == len(set(held)) == jobs.MOST_HELD
    assert len(await agent.poll(held=tuple(held[64:]))) == 64


async def test_jobs_of_one_agent_are_not_another_ones(world: World) -> None:
    one, other = await world.agent("one"), await world.agent("other")
    await world.certificate(agent_id=one.id)
    assert await other.poll() == []
    item = await one.item()
    problem(await other.submit(item, csr_for(item)), 404)
    problem(await other.report(item.job_id, other.report_on(item)), 404)


async def test_several_holders_share_one_run_also_when_one_of_them_is_at_it_already(world: World) -> None:
    one, two = await world.agent("one"), await world.agent("two")
    targets = [await world.target(one), await world.target(two)]
    certificate_id, created = await world.certificate(target_ids=targets)
    assert len(created) == 2
    first, second = sorted((one, two), key=lambda agent: agent.id)
    await first.work()
    assert (await world.get(f"/api/v1/runs/{created[0]}"))["state"] == "running"
    await second.fail(await second.item())
    assert (await world.get(f"/api/v1/runs/{created[0]}"))["state"] == "retrying"
    renewal = await world.post(f"/api/v1/certificates/{certificate_id}/renew")
    runs = {(await world.get(f"/api/v1/jobs/{job_id}"))["run_id"] for job_id in renewal["job_ids"]}
    assert runs == {renewal["run_id"]} == {created[0]}
    await first.work()
    await second.work()
    run = await world.get(f"/api/v1/runs/{created[0]}")
    assert (run["state"], {job["agent_id"] for job in run["jobs"]}) == ("served", {one.id, two.id})
    status = (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
    assert (status["service"], status["served_on"]) == ("served", 2)


async def test_following_a_run_waits_for_the_next_step(world: World) -> None:
    agent = await world.agent()
    _, (run_id,) = await world.certificate(agent_id=agent.id)
    seen = (await world.get(f"/api/v1/runs/{run_id}"))["seen"]
    following = asyncio.create_task(world.get(f"/api/v1/runs/{run_id}", wait=30, seen=seen))
    await until(lambda: jobs.run_topic(run_id) in world.ctx.db.wakeups._waiters)
    await agent.poll()
    async with asyncio.timeout(5):
        assert (await following)["seen"] > seen


async def test_a_report_with_control_characters_in_it_is_stored_readable(world: World) -> None:
    agent = await world.agent()
    item = await deployment(world, agent)
    await agent.fail(item, "nginx said \0 and \x1b[31mno")
    status = (await world.get(f"/api/v1/certificates/{item.certificate_id}"))["status"]
    assert "nginx said" in status["reason"]
    assert "\0" not in status["reason"]


async def test_a_job_says_what_its_agent_undid_and_saw(world: World) -> None:
    agent = await world.agent()
    item = await deployment(world, agent)
    seen = "0" * 64
    failure = wire.Failure("verify", "another certificate is served")
    report = agent.report_on(item, outcome="failed", failure=failure, undo="done", served_fingerprint=seen)
    done(await agent.report(item.job_id, report))
    job = await world.get(f"/api/v1/jobs/{item.job_id}")
    assert (job["state"], job["undo"], job["served_fingerprint"]) == ("Failed", "done", seen)
    assert job["failure"] == {"step": "verify", "cause": "another certificate is served", "transient": True}


async def test_what_is_stored_and_not_seen_is_neither_served_nor_tried_again(world: World) -> None:
    agent = await world.agent()
    target = await world.target(agent)
    certificate_id, (run_id,) = await world.certificate(target_ids=[target])
    await agent.issue(await agent.item())
    item = await agent.item()
    claimed = agent.report_on(item, outcome="stored")
    refused = await agent.report(item.job_id, claimed)
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["field"] == "payload.served_fingerprint"
    done(await agent.report(item.job_id, agent.report_on(item, outcome="stored", served_fingerprint="")))
    assert (await world.get(f"/api/v1/runs/{run_id}"))["state"] == "stored"
    assert (await world.get(f"/api/v1/runs/{run_id}"))["steps"][-1]["step"] == "stored"
    status = (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
    assert (status["service"], status["served_on"], status["wanted_on"]) == ("not served", 0, 1)
    assert "give the target a probe" in status["reason"]
    await bindings.reconcile(world.ctx)
    assert await agent.poll() == []
    await world.call("PATCH", f"/api/v1/targets/{target}", json={"config": {"probe": {"port": 9543}}})
    await agent.serve(await agent.item())
    assert (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]["service"] == "served"


async def test_a_target_takes_one_certificate(world: World) -> None:
    agent = await world.agent()
    target = await world.target(agent)
    await world.certificate(target_ids=[target])
    before = await dump(world.dsn)
    wish = {"common_name": "two.example.com", "target_ids": [target]}
    problem(await world.call("POST", "/api/v1/certificates", json=wish), 409, "target_ids")
    assert await dump(world.dsn) == before


async def test_the_lost_receipt_of_a_report_is_a_stale_lease(world: World) -> None:
    agent = await world.agent()
    item = await deployment(world, agent)
    done(await agent.report(item.job_id, agent.report_on(item)))
    assert problem(await agent.report(item.job_id, agent.report_on(item)), 409)["type"].endswith("stale-lease")
