"""The crash matrix: a program is killed at every named point, on every road, and starts again; nobody helps.

In the end the newest certificate is served to a strict client, files are a pair at every instant in between, there is
one version for each request, each change is told once, and nothing is left lying about. Where the road ends in an undo,
the old certificate is served before the cause is mended.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.journeys.crash.matrix import Matrix
from tests.journeys.crash.points import Cell, cells, points
from tests.journeys.crash.reach import UNREACHED, why_unreached
from tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def matrix(
    request: pytest.FixtureRequest, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Matrix]:
    """The cells that were chosen, being played."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function)]
    parameters = [item.callspec.params.get("cell") for item in tests if hasattr(item, "callspec")]
    chosen = [cell for cell in parameters if isinstance(cell, Cell)]
    folder = tmp_path_factory.mktemp("matrix")
    playing = Matrix(chosen, points(), folder, lambda: postgres_server.fresh_database(migrated=False))
    try:
        yield playing
    finally:
        playing.end()


def chosen() -> list[Cell]:
    """Return the cells in which something dies, or with ``CRASH_MATRIX=whole`` those as well in which nothing does."""
    return [cell for cell in cells() if os.environ.get("CRASH_MATRIX") == "whole" or not why_unreached(cell)]


@pytest.mark.parametrize("cell", chosen(), ids=str)
def test_killed_there_it_comes_back(matrix: Matrix, cell: Cell) -> None:
    assert matrix.died(cell) == (not why_unreached(cell)), why_unreached(cell) or "the program never came to its point"


def test_every_reason_is_needed() -> None:
    unused = [unreached for unreached in UNREACHED if not any(unreached.holds(cell) for cell in cells())]
    assert unused == []
