"""Keys made by the coordinator, on a real agent and a real nginx: used where the host allows that, else not."""

from __future__ import annotations

import asyncio

import pytest

from tests.coordinator.world import dump
from tests.journeys.stage import Journey, Stage

pytestmark = pytest.mark.slow
SITE = "demo.example.test"


@pytest.mark.parametrize("allowed", [True, False])
def test_a_key_of_the_coordinator_is_used_where_the_host_allows_it(
    stage: Stage, empty_database_url: str, allowed: bool
) -> None:
    coordinator = stage.coordinator(CERTCTL_DATABASE_URL=empty_database_url, CERTCTL_KEYGEN_MODE="server")
    server, journey = stage.nginx("web", SITE), Journey(coordinator)
    policy = f"accept_coordinator_keys = {str(allowed).lower()}\n{server.policy()}"
    agent = stage.agent("one", coordinator, policy)
    target = {"name": SITE, "type": "nginx", "agent_id": agent.agent_id, "config": server.target_config(SITE)}
    certificate_id = journey.want(SITE, journey.api.post("/api/v1/targets", target)["id"])
    journey.served(server, SITE)
    journey.settled(certificate_id)

    events = journey.api.get("/api/v1/audit", resource_id=certificate_id)["data"]
    made = {event["details"]["spki_sha256"] for event in events if event["action"] == "certificate.key_made"}
    accepted = {event["details"]["spki_sha256"] for event in events if event["action"] == "certificate.csr_accepted"}
    assert len(accepted) == 1
    assert (accepted <= made) is allowed
    told = agent.process.log.read_text()
    assert ("key_from_coordinator_used" in told, "key_from_coordinator_not_used" in told) == (allowed, not allowed)
    assert "dangerous_setting" in coordinator.process.log.read_text()
    assert journey.api.get("/health")["warnings"]

    (key,) = (path for path in (agent.state_dir / "keys" / certificate_id).iterdir() if not path.suffix)
    body = "".join(key.read_text().splitlines()[1:-1])
    everything = str(asyncio.run(dump(empty_database_url))).replace("\\n", "")
    logs = "".join(process.log.read_text(errors="replace") for process in stage.processes)
    assert body not in everything + logs.replace("\n", "")
