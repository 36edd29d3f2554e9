"""The coordinator's rooms are tested through its own HTTP interface, on asyncio and a database of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.coordinator.world import World, open_world, variables
from tests.postgres import database_url, empty_database_url, postgres_server

__all__ = ["database_url", "empty_database_url", "postgres_server"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A coordinator with nothing but its ready-made rows."""
    async with open_world(variables(database_url, tmp_path)) as opened:
        yield opened


@pytest.fixture
async def replicas(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[World, World]]:
    """Two coordinators on one database."""
    async with (
        open_world(variables(database_url, tmp_path / "one")) as one,
        open_world(variables(database_url, tmp_path / "two")) as two,
    ):
        yield one, two
