"""A selection of the matrix in which every pair of client, challenge, names, account and what follows is met once."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.acme.matrix import Case, every_client, pairwise, whole
from tests.journeys.acme.pebble import newest, serving
from tests.journeys.acme.play import Played, played, slug

pytestmark = pytest.mark.timeout(400)

SERVER = newest()
SELECTION = pairwise(whole(every_client(), SERVER.can, SERVER.spares))


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> Iterator[Played]:
    """All cases that this run asks for, begun."""
    here = [item.name for item in request.session.items if item.path == Path(__file__)]
    asked = [case for case in SELECTION if any(f"[{slug(case)}]" in name for name in here)]
    with played(functools.partial(serving, SERVER), asked) as (_, begun):
        yield begun


@pytest.mark.parametrize("case", SELECTION, ids=slug)
def test_a_client_gets_what_it_asks_for(results: Played, case: Case) -> None:
    """The certificate is for its names, chains to the server's root, and what followed had its effect."""
    results[case].result()
