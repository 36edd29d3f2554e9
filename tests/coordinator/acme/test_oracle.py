"""The ACME server as certbot's own library sees it, against a model (``tests/coordinator/acme/oracle``).

Always the same histories; more, and the shortest one that fails, by ``make acme-oracle``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.coordinator.acme.oracle.comparison import Tally
from tests.coordinator.acme.oracle.machine import Machine
from tests.coordinator.acme.oracle.stage import open_stage
from tests.coordinator.histories import play
from tests.postgres import PostgresServer

SEED, HISTORIES, STEPS = 4, 10, 25
MET = {
    "answer dns-01",
    "answer http-01",
    "answer http-01 unprepared",
    "change contact",
    "change key",
    "change key conflict",
    "close account",
    "deactivate authorization",
    "finalize",
    "finalize badCSR",
    "finalize orderNotReady",
    "reach for another's account unauthorized",
    "reach for another's authorization malformed",
    "reach for another's cert malformed",
    "reach for another's finalize malformed",
    "reach for another's order malformed",
    "register bound",
    "register unbound externalAccountRequired",
    "replay",
    "revoke by another unauthorized",
    "revoke by its key",
    "revoke by owner",
    "revoke by owner alreadyRevoked",
}


MAY_MISS = 5
"""Histories change with the library that makes them up."""


@pytest.mark.slow
@pytest.mark.timeout(600)  # a dozen seconds of its own on a quiet machine
def test_the_server_does_what_certbots_library_expects(postgres_server: PostgresServer, tmp_path: Path) -> None:
    tally = Tally()
    with open_stage(postgres_server, tmp_path) as stage:
        play(Machine, stage, tally, seed_=SEED, examples=HISTORIES, steps=STEPS, shrink=False)
    missed = MET - {*tally.answers}
    assert len(missed) <= MAY_MISS, f"a model that sees little proves little: {missed}, {tally.table()}"
