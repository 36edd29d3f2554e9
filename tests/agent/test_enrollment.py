"""First contact: patience, refusals in the coordinator's words, and repetitions that do no harm."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import structlog

from agent.coordinator import Coordinator
from agent.enrollment import ensure_enrolled
from agent.identity import Identity, load_identity
from agent.settings import Settings
from agent.trust import trust
from core.errors import Misconfigured
from core.wire import Enrollment, Metadata
from tests.agent.double import ONE_TIME, Double, Reply, problem

pytestmark = pytest.mark.trio
MakeSettings = Callable[..., Settings]
METADATA = Metadata(hostname="host-1.example.test", os="an OS")


class Newcomer:
    """An agent before its first contact."""

    def __init__(self, settings: Settings, client: Coordinator, identity: Identity) -> None:
        self.settings = settings
        self.client = client
        self.identity = identity
        self.noted: list[str] = []

    async def enroll(self, settings: Settings | None = None) -> str:
        """Enroll as the daemon does; return the id that is remembered on disk."""
        await ensure_enrolled(settings or self.settings, self.identity, self.client, METADATA, self.noted.append)
        return load_identity(self.settings.state_dir).agent_id


@pytest.fixture
async def newcomer(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Newcomer]:
    monkeypatch.setattr("agent.backoff.FIRST_S", 0.01)
    settings = make_settings()
    identity = load_identity(settings.state_dir)
    async with Coordinator(settings.server_url, identity, METADATA, await trust(settings)) as client:
        yield Newcomer(settings, client, identity)


async def test_the_public_keys_and_the_name_are_registered(newcomer: Newcomer, double: Double) -> None:
    assert await newcomer.enroll() == newcomer.identity.agent_id == "ag-1"
    (asked,) = double.of("enroll")
    message = asked.read(Enrollment)
    assert (message.token, message.name, message.metadata) == (ONE_TIME, "host-1", METADATA)
    assert message.identity_key == newcomer.identity.signing_public
    assert message.sealing_key == newcomer.identity.sealing_public


async def test_it_is_done_once(newcomer: Newcomer, double: Double, make_settings: MakeSettings) -> None:
    await newcomer.enroll()
    await newcomer.enroll(make_settings(CERTCTL_AGENT_BOOTSTRAP_TOKEN=None))
    assert len(double.of("enroll")) == 1


async def test_a_coordinator_that_is_away_is_waited_for(newcomer: Newcomer, double: Double) -> None:
    double.instead["enroll"] = [problem(503, "transient", "starting"), Reply(502, b"<html>"), Reply(200, b"{}")]
    assert await newcomer.enroll() == "ag-1"
    assert len(double.of("enroll")) == 4
    assert newcomer.noted[0] == "starting"
    assert len(newcomer.noted) == 3


async def test_a_lost_answer_does_no_harm(newcomer: Newcomer, double: Double) -> None:
    assert await newcomer.enroll() == "ag-1"
    (newcomer.identity.folder / "agent-id").unlink()
    newcomer.identity = load_identity(newcomer.settings.state_dir)
    assert await newcomer.enroll() == "ag-1"
    assert len(double.agents) == 1


@pytest.mark.parametrize(
    "status, kind", [(400, "invalid-input"), (401, "unauthenticated"), (409, "conflict"), (410, "gone")]
)
async def test_a_refusal_ends_the_start_in_the_coordinators_words(
    newcomer: Newcomer, double: Double, status: int, kind: str
) -> None:
    double.instead["enroll"] = [problem(status, kind, "another CERTCTL_AGENT_NAME is needed")]
    with pytest.raises(Misconfigured, match="refuses this agent: another CERTCTL_AGENT_NAME is needed"):
        await newcomer.enroll()
    assert not (newcomer.identity.folder / "agent-id").exists()


async def test_without_a_token_the_way_to_one_is_told(newcomer: Newcomer, make_settings: MakeSettings) -> None:
    with pytest.raises(Misconfigured, match="certctl enrollment-tokens create"):
        await newcomer.enroll(make_settings(CERTCTL_AGENT_BOOTSTRAP_TOKEN=None))


async def test_the_token_is_not_logged(newcomer: Newcomer, double: Double) -> None:
    double.instead["enroll"] = [problem(503, "transient")]
    with structlog.testing.capture_logs() as entries:
        await newcomer.enroll()
    assert {entry["event"] for entry in entries} == {"call_failed", "enrolled"}
    assert ONE_TIME not in repr(entries) + repr(newcomer.settings)
