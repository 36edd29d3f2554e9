"""One Pebble for a module, and a case at it for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.connectors.issuers.acme.pebble import NEWER, Pebble
from tests.coordinator.ordering.case import Case
from tests.coordinator.world import World


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    authority = Pebble(tmp_path_factory.mktemp("pebble") / "it", program=NEWER if NEWER.exists() else None).start()
    try:
        yield authority
    finally:
        authority.stop()


@pytest.fixture
async def case(world: World, pebble: Pebble) -> AsyncIterator[Case]:
    case = Case(world, pebble, await world.agent())
    try:
        yield case
    finally:
        await world.ctx.ordering.stop()
