"""A certificate that an agent holds for itself: no target, the key and the chain lie in its key folder."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from benchmarks.lab.fleet import Agent
from benchmarks.lab.processes import wait_until
from tests.journeys.stage import Journey, Stage


def pairs(agent: Agent, certificate_id: str) -> list[bool]:
    """Return for each chain in the agent's key folder whether the key beside it is its own."""
    return [
        x509.load_pem_x509_certificates(chain.read_bytes())[0].public_key()
        == serialization.load_pem_private_key(chain.with_suffix("").read_bytes(), None).public_key()
        for chain in (agent.state_dir / "keys" / certificate_id).glob("*.pem")
    ]


def test_an_agent_holds_a_certificate_for_itself(stage: Stage) -> None:
    """Created for an agent, renewed, and each time the chain lies beside its key."""
    coordinator = stage.coordinator()
    agent = stage.agent("edge", coordinator, "")
    journey = Journey(coordinator)
    certificate_id = journey.want("edge.example.test", agent_id=agent.agent_id)
    wait_until("the first chain", lambda: pairs(agent, certificate_id) == [True])
    assert journey.api.follow(journey.renew(certificate_id))["state"] == "issued"
    wait_until("the second chain", lambda: pairs(agent, certificate_id) == [True, True])


@pytest.mark.parametrize("point", ["issuance.answered", "keystore.chain_written"])
def test_an_answer_that_was_never_heard_is_fetched_at_the_next_start(stage: Stage, point: str) -> None:
    """The coordinator has issued, the agent dies before it keeps the chain: the next start brings it."""
    coordinator = stage.coordinator()
    agent = stage.agent("edge", coordinator, "", CERTCTL_CRASH_POINT=point)
    journey = Journey(coordinator)
    certificate_id = journey.want("edge.example.test", agent_id=agent.agent_id)
    wait_until("the agent dies", lambda: not agent.process.running())
    again = Agent("edge", agent.folder, coordinator, "")
    stage.keep(again.process)
    again.start()
    folder = agent.state_dir / "keys" / certificate_id
    wait_until("the chain", lambda: pairs(agent, certificate_id) == [True] and not list(folder.glob("*.request")))
    assert len(journey.versions(certificate_id)) == 1
