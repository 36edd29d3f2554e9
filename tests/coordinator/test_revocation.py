"""Revoking in the inventory, and sending again: what it means for renewals, for keys and for those who look."""

from __future__ import annotations

from typing import Any

import pytest

from core import keys, wire
from core.keys import KeyAlgorithm
from tests.coordinator.world import FakeAgent, World, csr_for, problem

pytestmark = pytest.mark.anyio


@pytest.fixture
async def served(world: World) -> tuple[World, FakeAgent, str]:
    """A certificate that a target serves."""
    agent = await world.agent()
    certificate_id, _ = await world.certificate(target_ids=[await world.target(agent)])
    await agent.work()
    return world, agent, certificate_id


async def stands(world: World, certificate_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
    return found


async def test_a_revoked_certificate_that_is_wanted_is_renewed_at_once(served: tuple[World, FakeAgent, str]) -> None:
    world, agent, certificate_id = served
    path = f"/api/v1/certificates/{certificate_id}"
    answer = await world.post(f"{path}/revoke", {"reason": "keyCompromise"}, key="operator")
    assert len(answer["version_ids"]) == len(answer["job_ids"]) == 1
    assert (await stands(world, certificate_id))["life"] == "revoked"
    assert [row["id"] for row in (await world.get("/api/v1/certificates", life="revoked"))["data"]] == [certificate_id]
    (version,) = (await world.get(f"{path}/versions"))["data"]
    assert (version["revocation_reason"], bool(version["revoked_at"])) == ("keyCompromise", True)
    again = problem(await world.call("POST", f"{path}/revoke", json={}), 409)
    assert "revoked already" in again["detail"]
    assert "keyCompromise" in again["detail"]
    await agent.work()
    assert (await stands(world, certificate_id))["life"] == "valid"
    assert (await stands(world, certificate_id))["service"] == "served"
    event = (await world.get("/api/v1/audit", action="certificate.revoked"))["data"][0]
    assert event["details"]["reason"] == "keyCompromise"
    assert event["details"]["version_ids"] == answer["version_ids"]


async def test_a_compromised_key_gets_no_certificate_again(world: World) -> None:
    agent = await world.agent()
    certificate_id, _ = await world.certificate(agent_id=agent.id)
    key = keys.generate(KeyAlgorithm.ECDSA_P256)
    item = await agent.item()
    assert (await agent.submit(item, csr_for(item, key))).is_success
    for reason, accepted in (("superseded", True), ("keyCompromise", False)):
        await world.post(f"/api/v1/certificates/{certificate_id}/revoke", {"reason": reason})
        item = await agent.item()
        response = await agent.submit(item, csr_for(item, key))
        assert response.is_success is accepted, reason
        assert ("compromised" in response.text) is not accepted


@pytest.mark.parametrize(
    "body,renewed",
    [
        ({}, True),
        ({"reason": "superseded"}, True),
        ({"reason": "cessationOfOperation"}, False),
        ({"reason": "certificateHold"}, False),
        ({"reason": "cessationOfOperation", "renew": True}, True),
        ({"reason": "keyCompromise", "renew": False}, False),
    ],
)
async def test_the_reason_or_the_caller_says_whether_it_is_renewed(
    served: tuple[World, FakeAgent, str], body: dict[str, Any], renewed: bool
) -> None:
    world, agent, certificate_id = served
    await world.post(f"/api/v1/certificates/{certificate_id}/renew")
    answer = await world.post(f"/api/v1/certificates/{certificate_id}/revoke", body)
    assert bool(answer["job_ids"]) is renewed
    assert bool([item for item in await agent.poll() if isinstance(item, wire.IssuanceItem)]) is renewed
    status = await stands(world, certificate_id)
    assert (status["renew_at"] is not None) is renewed
    assert ("not renewed" in status["reason"]) is not renewed


async def test_what_was_not_issued_cannot_be_revoked_and_old_versions_are_too(
    served: tuple[World, FakeAgent, str],
) -> None:
    world, agent, certificate_id = served
    await world.post(f"/api/v1/certificates/{certificate_id}/renew")
    await agent.work()
    answer = await world.post(f"/api/v1/certificates/{certificate_id}/revoke")
    assert len(answer["version_ids"]) == 2
    empty, _ = await world.certificate(common_name="empty.test")
    refused = await world.call("POST", f"/api/v1/certificates/{empty}/revoke", json={})
    assert "nothing to revoke" in problem(refused, 409)["detail"]
    wrong = await world.call("POST", f"/api/v1/certificates/{empty}/revoke", json={"reason": "boredom"})
    problem(wrong, 400, "reason")


async def test_an_archived_certificate_is_revoked_and_not_renewed(served: tuple[World, FakeAgent, str]) -> None:
    world, agent, certificate_id = served
    await world.call("DELETE", f"/api/v1/certificates/{certificate_id}?force=true")
    answer = await world.post(f"/api/v1/certificates/{certificate_id}/revoke", {"renew": True})
    assert (len(answer["version_ids"]), answer["job_ids"]) == (1, [])
    assert await agent.poll() == []


async def test_what_is_served_is_sent_again_once(served: tuple[World, FakeAgent, str]) -> None:
    world, agent, certificate_id = served
    path = f"/api/v1/certificates/{certificate_id}/deploy"
    first = await world.post(path)
    assert (await world.post(path)) == first
    item = await agent.item()
    assert isinstance(item, wire.DeploymentItem)
    assert [item.job_id] == first["job_ids"]
    assert (await stands(world, certificate_id))["service"] == "served"
    await agent.fail(item)
    (retry,) = (await world.post(path))["job_ids"]
    assert retry not in first["job_ids"]
    await agent.serve(await agent.item())
    assert (await stands(world, certificate_id))["reason"] == ""
    assert await agent.poll() == []


async def test_nothing_is_sent_where_there_is_nothing_to_send(served: tuple[World, FakeAgent, str]) -> None:
    world, agent, certificate_id = served
    path = f"/api/v1/certificates/{certificate_id}/deploy"
    problem(await world.call("POST", path, json={"target_id": "tgt-none"}), 409)
    target_id = (await world.get(f"/api/v1/certificates/{certificate_id}"))["target_ids"][0]
    assert (await world.post(path, {"target_id": target_id}))["job_ids"]
    unissued, _ = await world.certificate(target_ids=[await world.target(agent, "other")])
    problem(await world.call("POST", f"/api/v1/certificates/{unissued}/deploy", json={}), 409)
