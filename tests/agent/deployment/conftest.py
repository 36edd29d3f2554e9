"""The host and the CA that the deployment tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.deployment.authority import Authority
from tests.agent.deployment.world import World


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def world(tmp_path: Path, authority: Authority) -> Iterator[World]:
    world = World(tmp_path, authority)
    yield world
    world.close()
