"""A selection of the matrix in which every pair of client, challenge, names, account and what follows is met once.

Debian's Pebble is asked for what it can, and the newer one for the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.journeys.acme.matrix import Case, every_client, pairwise, whole
from tests.journeys.acme.pebble import NewPebble, PebbleServer, serving
from tests.journeys.acme.play import Played, played, slug

pytestmark = pytest.mark.timeout(400)

OLD = whole(every_client(), PebbleServer.can, PebbleServer.spares)
NEW = [case for case in whole(every_client(), NewPebble.can, NewPebble.spares) if case not in OLD]
SELECTIONS = {PebbleServer: pairwise(OLD), NewPebble: pairwise(NEW) if NewPebble.installed() else []}
PLAYED = [
    pytest.param(server, case, id=f"{server.__name__.lower()}-{slug(case)}")
    for server, cases in SELECTIONS.items()
    for case in cases
]


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> Iterator[dict[type[PebbleServer], Played]]:
    """All cases that this run asks for, begun."""
    here = {item.name.partition("[")[2] for item in request.session.items if item.path == Path(__file__)}
    with ExitStack() as stack:
        begun = {}
        for server, cases in SELECTIONS.items():
            asked = [case for case in cases if f"{server.__name__.lower()}-{slug(case)}]" in here]
            if asked:
                _, begun[server] = stack.enter_context(played(functools.partial(serving, server), asked))
        yield begun


@pytest.mark.parametrize("server, case", PLAYED)
def test_a_client_gets_what_it_asks_for(
    results: dict[type[PebbleServer], Played], server: type[PebbleServer], case: Case
) -> None:
    """The certificate is for its names, chains to the server's root, and what followed had its effect."""
    results[server][case].result()
