"""A run is told whole: from the request to what was seen on the wire, each step with its time and what proves it."""

from __future__ import annotations

import base64

import msgspec
import pytest

from coordinator.bindings import service as bindings
from core import tracing
from core.wire import REPORT_CONTEXT, JobReport
from tests.coordinator.world import World, csr_for, done
from tests.otlp import receiving

pytestmark = pytest.mark.anyio


async def test_every_step_is_told_with_what_proves_it(world: World) -> None:
    agent = await world.agent()
    target = await world.target(agent)
    certificate_id, (run_id,) = await world.certificate(target_ids=[target])
    answer = await agent.issue(await agent.item())
    await agent.fail(await agent.item(), "nginx -t said no")
    await world.execute("UPDATE jobs SET not_before = now() WHERE not_before > now()")
    item = await agent.item()
    await agent.serve(item)
    run = await world.get(f"/api/v1/runs/{run_id}", "viewer")
    told = ["requested", "key", "csr", "signed", "delivered", "failed", "delivered", "served"]
    assert [step["step"] for step in run["steps"]] == told
    assert [step["at"] for step in run["steps"]] == sorted(step["at"] for step in run["steps"])
    proofs = {step["step"]: step["evidence"] for step in run["steps"]}
    version = await world.get(f"/api/v1/certificates/{certificate_id}/versions/{answer.version_id}")
    assert proofs["requested"] == {"trigger": "created"}
    assert proofs["csr"] == {"spki_sha256": version["spki_sha256"]}
    assert {name: version[name] for name in ("fingerprint", "serial", "issuer_id")}.items() <= proofs["signed"].items()
    assert (proofs["failed"]["step"], proofs["failed"]["cause"]) == ("validate", "nginx -t said no")
    assert (run["steps"][-1]["target_id"], run["steps"][-1]["agent_id"]) == (target, agent.id)
    assert proofs["served"]["served_fingerprint"] == version["fingerprint"]
    report, signature = (base64.b64decode(proofs["served"][name]) for name in ("report", "signature"))
    agent.signing.public_key().verify(signature, REPORT_CONTEXT + report)
    assert msgspec.json.decode(report, type=JobReport).served_fingerprint == item.fingerprint


async def test_a_step_that_was_timed_says_how_long_it_took(world: World) -> None:
    agent = await world.agent()
    _, (run_id,) = await world.certificate(agent_id=agent.id)
    item = await agent.item()
    await agent.issue(item)
    run = await world.get(f"/api/v1/runs/{run_id}")
    signed = next(step for step in run["steps"] if step["step"] == "signed")
    assert signed["ms"] > 0
    assert signed["job_id"] == item.job_id


async def test_an_approval_is_a_step(world: World) -> None:
    await world.call("PATCH", "/api/v1/profiles/prof-default", json={"requires_approval": True})
    agent = await world.agent()
    _, (run_id,) = await world.certificate(agent_id=agent.id)
    item = await agent.item()
    done(await agent.submit(item, csr_for(item)))
    assert (await world.get("/api/v1/overview"))["approvals_pending"] == 1
    (approval,) = (await world.get("/api/v1/approvals", state="pending"))["data"]
    done(await world.call("POST", f"/api/v1/approvals/{approval['id']}/approve", "approver", json={"note": "fine"}))
    run = await world.get(f"/api/v1/runs/{run_id}")
    told = {step["step"]: step["evidence"] for step in run["steps"]}
    assert list(told) == ["requested", "key", "csr", "approval asked", "approved", "signed"]
    assert told["approved"] == {"approval_id": approval["id"], "votes": "1"}
    assert (await world.get("/api/v1/overview"))["approvals_pending"] == 0


async def test_what_follows_without_a_request_stays_in_the_trace_of_its_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An approval and the repair of a lost lease: neither is a request of whoever began it."""
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setattr(tracing, "_tracer", None)
        end = tracing.configure("test", {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
        await world.call("PATCH", "/api/v1/profiles/prof-default", json={"requires_approval": True})
        agent = await world.agent()
        await world.certificate(target_ids=[await world.target(agent)])
        item = await agent.item()
        done(await agent.submit(item, csr_for(item)))
        (approval,) = (await world.get("/api/v1/approvals", state="pending"))["data"]
        done(await world.call("POST", f"/api/v1/approvals/{approval['id']}/approve", "approver", json={"note": ""}))
        assert (await agent.item()).traceparent
        await world.execute("UPDATE jobs SET lease_until = now() - interval '1 second' WHERE state = 'Running'")
        await bindings.reconcile(world.ctx)
        end()
    rows = await world.rows("SELECT trigger, substr(traceparent, 4, 32) AS trace FROM jobs ORDER BY created_at, id")
    assert [row["trigger"] for row in rows] == ["created", "issued", "retry"]
    assert {row["trace"] for row in rows} == {item.traceparent[3:35]}
    assert {span.trace for span in receiver.spans if span.name in {"continued", "sign"}} == {item.traceparent[3:35]}
