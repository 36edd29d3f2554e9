"""A target is tried before it has a certificate, by an agent that died in the first try."""

from __future__ import annotations

from benchmarks.lab.fleet import Agent
from benchmarks.lab.processes import wait_until
from tests.journeys.stage import Journey, Stage

SITE = "shop.example.test"


def test_a_target_is_tried_also_after_its_agent_died_in_it(stage: Stage) -> None:
    """Killed with the files staged; the next process is offered the trial again, ends it and leaves nothing staged."""
    coordinator, server = stage.coordinator(), stage.nginx("web", SITE)
    agent = stage.agent("edge", coordinator, server.policy(), CERTCTL_CRASH_POINT="deploy.staged")
    journey = Journey(coordinator)
    target_id = journey.target(agent, server, SITE)
    trial = journey.api.post(f"/api/v1/targets/{target_id}/test")
    wait_until("the agent dies", lambda: not agent.process.running())
    again = Agent("edge", agent.folder, coordinator, server.policy())
    stage.keep(again.process)
    again.start()
    wait_until("the trial ends", lambda: journey.api.get(f"/api/v1/targets/{target_id}")["last_test"]["ok"] is not None)
    ended = journey.api.get(f"/api/v1/targets/{target_id}")["last_test"]
    assert ended["id"] == trial["id"]
    assert "validated" in [step["name"] for step in ended["steps"]]
    assert not list(server.folder.rglob(".staged"))
