"""What every journey may use: a stage of its own, and databases on the run's one PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.stage import Stage, playing
from tests.postgres import empty_database_url, postgres_server

__all__ = ["empty_database_url", "postgres_server"]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """An empty stage."""
    with playing(tmp_path) as stage:
        yield stage
