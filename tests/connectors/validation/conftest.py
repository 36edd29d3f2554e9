"""The real challenge server, once for all tests: each speaks of names of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.lab.processes import stopped_at_the_end
from tests.connectors.validation.world import ChallengeServer


@pytest.fixture(scope="session")
def challenges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChallengeServer]:
    """A running pebble-challtestsrv."""
    server = ChallengeServer(tmp_path_factory.mktemp("challenges"))
    with stopped_at_the_end([server.process]):
        server.process.start().await_ready(server.ready)
        yield server
