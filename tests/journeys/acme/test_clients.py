"""A selection of the matrix in which every pair of client, challenge, names, account and what follows is met once.

Two coordinators are asked in turn. ``make acme-clients`` plays the whole matrix, against Pebble as well, which the
drivers of the clients were proved on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.acme.certctl import CertctlServer, serving
from tests.journeys.acme.matrix import Case, every_client, pairwise, whole
from tests.journeys.acme.play import Played, played, slug

pytestmark = pytest.mark.timeout(400)

SELECTION = pairwise(whole(every_client(), CertctlServer.can, CertctlServer.spares))


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> Iterator[Played]:
    """All cases that this run asks for, begun."""
    here = {item.name.partition("[")[2] for item in request.session.items if item.path == Path(__file__)}
    with played(serving, [case for case in SELECTION if f"{slug(case)}]" in here]) as (_, begun):
        yield begun


@pytest.mark.parametrize("case", SELECTION, ids=slug)
def test_a_client_gets_what_it_asks_for(results: Played, case: Case) -> None:
    """The certificate is for its names, chains to the server's root, and what followed had its effect."""
    results[case].result()
