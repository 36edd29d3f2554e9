"""A coordinator's double, and an agent's own folder, settings, identity and client beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from agent import settings
from agent.coordinator import Coordinator
from agent.identity import Identity, load_identity
from agent.settings import Settings
from agent.trust import trust
from core.wire import Metadata
from tests.agent.double import ONE_TIME, Double


@pytest.fixture
async def double(nursery: trio.Nursery) -> Double:
    double = Double()
    await nursery.start(double.serve)
    return double


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def variables(double: Double, state_dir: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of an agent of the double."""
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(double.root_pem)
    return {
        "CERTCTL_SERVER_URL": double.url,
        "CERTCTL_SERVER_CA_BUNDLE_PATH": str(bundle),
        "CERTCTL_AGENT_NAME": "host-1",
        "CERTCTL_AGENT_BOOTSTRAP_TOKEN": ONE_TIME,
        "CERTCTL_STATE_DIR": str(state_dir),
        "CERTCTL_AGENT_LISTEN": "",
    }


@pytest.fixture
def make_settings(variables: dict[str, str]) -> Callable[..., Settings]:
    """Settings of an agent of the double, with changes; None takes a variable away."""

    def make(**changes: str | None) -> Settings:
        changed = {**variables, **changes}
        return settings.load({name: text for name, text in changed.items() if text is not None})

    return make


@pytest.fixture
def identity(state_dir: Path, double: Double) -> Identity:
    """The identity of an agent that the double knows."""
    identity = load_identity(state_dir)
    identity.enrolled_as("ag-1")
    double.agents["ag-1"] = identity.signing_public
    return identity


@pytest.fixture
async def client(make_settings: Callable[..., Settings], identity: Identity) -> AsyncIterator[Coordinator]:
    loaded = make_settings()
    async with Coordinator(loaded.server_url, identity, Metadata(), await trust(loaded)) as client:
        yield client
