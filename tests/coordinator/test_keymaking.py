"""CERTCTL_KEYGEN_MODE=server: keys made by the coordinator are sealed to the agent, given once, and stored nowhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core import hpke, keys
from core.errors import Refused
from core.keys import spki_sha256
from core.secret import Secret
from tests.coordinator.world import World, csr_for, done, dump, open_world, variables

pytestmark = pytest.mark.anyio


@pytest.fixture
async def demo(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(variables(database_url, tmp_path, CERTCTL_KEYGEN_MODE="server")) as world:
        yield world


async def test_by_default_no_key_is_made_here(world: World) -> None:
    agent = await world.agent()
    await world.certificate(agent_id=agent.id)
    assert (await agent.item()).sealed_key == b""
    assert (await world.get("/health", ""))["warnings"] == []


async def test_a_key_is_for_its_agent_and_job_alone_and_stands_nowhere(demo: World) -> None:
    agent = await demo.agent()
    other = await demo.agent("web-2")
    certificate_id, (job_id,) = await demo.certificate(agent_id=agent.id)
    item = await agent.item()
    pem = hpke.open_sealed(agent.sealing, item.sealed_key, certificate_id, job_id, context=hpke.GIVEN_KEY)
    key = keys.from_pem(Secret(pem.reveal().encode()))
    for attempt in (
        (other.sealing, certificate_id, job_id, hpke.GIVEN_KEY),
        (agent.sealing, certificate_id, "job-other", hpke.GIVEN_KEY),
        (agent.sealing, certificate_id, job_id, hpke.TARGET_SECRET),
    ):
        with pytest.raises(Refused):
            hpke.open_sealed(attempt[0], item.sealed_key, attempt[1], attempt[2], context=attempt[3])
    answer = done(await agent.submit(item, csr_for(item, key)))
    assert answer["state"] == "issued"
    (made,) = await demo.rows("SELECT details FROM audit_events WHERE action = 'certificate.key_made'")
    assert made["details"] == {"job_id": job_id, "spki_sha256": spki_sha256(key.public_key())}
    everything = str(await dump(demo.dsn))
    body = "".join(pem.reveal().splitlines()[1:-1])
    assert body not in everything.replace("\\n", "")
    assert item.sealed_key.hex() not in everything
    assert "PRIVATE KEY" not in everything


async def test_a_key_is_handed_out_once_a_lost_answer_brings_another(demo: World) -> None:
    agent = await demo.agent()
    await demo.certificate(agent_id=agent.id)
    first = await agent.item()
    again = await agent.item()
    assert first.job_id == again.job_id
    opened = {
        hpke.open_sealed(agent.sealing, item.sealed_key, item.certificate_id, item.job_id, context=hpke.GIVEN_KEY)
        for item in (first, again)
    }
    assert len({pem.reveal() for pem in opened}) == 2


async def test_an_agent_that_makes_its_own_key_gets_its_certificate_all_the_same(demo: World) -> None:
    agent = await demo.agent()
    await demo.certificate(agent_id=agent.id)
    item = await agent.item()
    own = keys.generate(keys.KeyAlgorithm.ECDSA_P256)
    done(await agent.submit(item, csr_for(item, own)))
    assert await demo.value("SELECT spki_sha256 FROM certificate_versions") == spki_sha256(own.public_key())


async def test_the_warning_is_loud(demo: World) -> None:
    (warning,) = (await demo.get("/health", ""))["warnings"]
    assert "private keys" in warning
    assert "CERTCTL_KEYGEN_MODE" in warning
