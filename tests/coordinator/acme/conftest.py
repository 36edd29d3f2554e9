"""Coordinators whose ACME server is switched on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.coordinator.acme.client import ON, Client
from tests.coordinator.acme.net import Net, running
from tests.coordinator.world import World, open_world, variables


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """Servers to look at, once for all tests: each speaks of names of its own."""
    with running(tmp_path_factory.mktemp("net")) as found:
        yield found


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A coordinator that serves ACME to whoever comes."""
    async with open_world(variables(database_url, tmp_path, **ON)) as opened:
        yield opened


@pytest.fixture
async def replicas(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[World, World]]:
    """Two coordinators on one database."""
    async with (
        open_world(variables(database_url, tmp_path / "one", **ON)) as one,
        open_world(variables(database_url, tmp_path / "two", **ON)) as two,
    ):
        yield one, two


@pytest.fixture
async def client(world: World) -> Client:
    """A client with an account."""
    client = Client(world)
    assert (await client.register()).status_code == 201
    return client
