"""Secrets of targets on the host: opened with the agent's own key, or the deployment is refused."""

from __future__ import annotations

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from core import hpke
from core.secret import Secret
from core.wire import DeploymentItem
from tests.agent.deployment.test_refusals import refused
from tests.agent.deployment.world import World
from tests.connectors.targets import secretive


@pytest.mark.trio
async def test_a_secret_for_another_agent_target_or_field_is_not_opened(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    connector, own, other = secretive.offer(monkeypatch), X25519PrivateKey.generate(), X25519PrivateKey.generate()
    world.write_policy('[services.secretive]\ntype = "secretive"')
    issued = world.authority.issue()
    item = msgspec.structs.replace(issued.item(world.config()), target_type="secretive")

    def sealed(key: X25519PrivateKey, target_id: str, field: str) -> DeploymentItem:
        value = hpke.seal(key.public_key().public_bytes_raw(), Secret("1234"), target_id, field)
        return msgspec.structs.replace(item, sealed={"pin": value})

    for wrong in (sealed(other, item.target_id, "pin"), sealed(own, "tgt-b", "pin"), sealed(own, item.target_id, "x")):
        outcome = await world.deployer(sealing_key=own).deploy(wrong, issued.secret)
        refused(outcome, "config.pin cannot be opened with this agent's key; enter it again")
    outcome = await world.deployer().deploy(sealed(own, item.target_id, "pin"), issued.secret)
    refused(outcome, "no sealing key")
    assert connector.seen == []
    await world.deployer(sealing_key=own).deploy(sealed(own, item.target_id, "pin"), issued.secret)
    assert [config.pin for config in connector.seen] == [Secret("1234")]
