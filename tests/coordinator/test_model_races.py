"""Two transactions that meet, held still at the one moment that matters."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.bindings import service as bindings
from coordinator.bindings.store import unserved_bindings
from coordinator.jobs import service as jobs
from core import keys, wire
from core.keys import KeyAlgorithm
from tests.coordinator.database.conftest import until
from tests.coordinator.model.stage import dying
from tests.coordinator.world import FakeAgent, World, csr_for, done, problem

pytestmark = pytest.mark.anyio


async def renewal_beside_deployments(
    world: World,
) -> tuple[FakeAgent, list[wire.DeploymentItem], wire.IssuanceItem]:
    """Bring a certificate to where two first deployments and its renewal are in the agent's hands."""
    agent = await world.agent()
    certificate_id, _ = await world.certificate(target_ids=[await world.target(agent, name) for name in ("a", "b")])
    await agent.issue(await agent.item())
    items = [item for item in await agent.poll() if isinstance(item, wire.DeploymentItem)]
    await world.post(f"/api/v1/certificates/{certificate_id}/renew")
    return agent, items, await agent.item(held=tuple(item.job_id for item in items))


async def blocked(world: World) -> None:
    """Return when a statement waits for another transaction's lock."""
    waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = $1)"

    async def is_waiting() -> bool:
        return bool(await world.value(waiting, "transactionid"))

    await until(is_waiting)


async def deployments(world: World, target_id: str) -> list[tuple[str, bool]]:
    """Return a target's deployments by state, and whether they are of the version that is wanted; oldest first."""
    rows = await world.rows(
        """
        SELECT state, jobs.version_id = desired_version_id AS wanted FROM jobs JOIN bindings USING (target_id)
        WHERE target_id = $1 ORDER BY jobs.created_at, jobs.id
        """,
        target_id,
    )
    return [(row["state"], row["wanted"]) for row in rows]


async def test_a_retry_queued_while_a_newer_version_waits_for_its_lock_is_cancelled(world: World) -> None:
    agent, (one, two), renewal = await renewal_beside_deployments(world)
    failure = wire.Failure("validate", "nginx -t said no")
    async with world.ctx.db.transaction() as tx:
        job = await jobs.lock_for_worker(tx, two.job_id, agent.id)
        issuing = asyncio.create_task(agent.issue(renewal))
        await blocked(world)
        await jobs.fail(tx, job, failure)
        await bindings._try_again(tx, job, failure)
    await issuing
    assert await deployments(world, two.target_id) == [("Failed", False), ("Cancelled", False), ("Pending", True)]
    assert await deployments(world, one.target_id) == [("Cancelled", False), ("Pending", True)]


async def test_a_gap_closed_while_a_newer_version_waits_for_its_lock_is_cancelled(world: World) -> None:
    agent, (one, two), renewal = await renewal_beside_deployments(world)
    await world.execute("UPDATE jobs SET state = 'Cancelled' WHERE id = $1", two.job_id)
    async with world.ctx.db.transaction() as tx:
        (binding,) = await unserved_bindings(tx, 10)
        issuing = asyncio.create_task(agent.issue(renewal))
        await blocked(world)
        await jobs.queue_deployment(tx, binding, "reconciled", await jobs.new_run(tx, binding))
    await issuing
    assert await deployments(world, two.target_id) == [("Cancelled", False), ("Cancelled", False), ("Pending", True)]
    assert await deployments(world, one.target_id) == [("Cancelled", False), ("Pending", True)]


async def test_a_renewal_asked_for_while_a_loop_queues_one_is_that_one(world: World) -> None:
    agent = await world.agent()
    certificate_id, _ = await world.certificate(agent_id=agent.id)
    await agent.issue(await agent.item())
    async with world.ctx.db.transaction() as tx:
        due = await jobs.queue_issuance(tx, certificate_id, agent.id, "due")
        asking = asyncio.create_task(world.post(f"/api/v1/certificates/{certificate_id}/renew"))
        await blocked(world)
    asked = await asking
    assert (asked["job_ids"], asked["run_id"]) == ([due], due)
    requested = "SELECT details FROM audit_events WHERE action = 'certificate.renewal_requested'"
    assert await world.value(requested) == {"job_ids": [due]}


async def test_nobody_answers_for_a_job_that_was_not_given_out(world: World) -> None:
    agent = await world.agent()
    _, (job_id,) = await world.certificate(agent_id=agent.id)
    failure = wire.JobReport(agent.id, job_id, 0, "failed", failure=wire.Failure("csr", "never asked"))
    assert problem(await agent.report(job_id, failure), 409)["type"].endswith("stale-lease")
    item = await agent.item()
    await agent.issue(item)


async def test_a_key_that_waits_for_its_signature_is_another_certificates_already(world: World) -> None:
    agent = await world.agent()
    key = keys.generate(KeyAlgorithm.ECDSA_P256)
    await world.certificate(agent_id=agent.id)
    item = await agent.item()
    with dying("issuance.intent"):
        problem(await agent.submit(item, csr_for(item, key)), 500)
    await world.certificate(agent_id=agent.id, common_name="two.example.com")
    second = await agent.item(held=(item.job_id,))
    problem(await agent.submit(second, csr_for(second, key)), 422, "csr")
    done(await agent.submit(item, csr_for(item, key)))
    await agent.issue(second)
