"""The queue against its model (``tests/coordinator/model``): always the same histories; more by ``make model``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.coordinator.histories import play
from tests.coordinator.model.comparison import Tally
from tests.coordinator.model.machine import Machine
from tests.coordinator.model.stage import open_stage
from tests.postgres import PostgresServer

SEED, HISTORIES, STEPS = 1, 40, 40


@pytest.mark.slow
@pytest.mark.timeout(600)  # ten seconds of its own on a quiet machine
def test_the_queue_does_what_its_model_says(postgres_server: PostgresServer, tmp_path: Path) -> None:
    tally = Tally()
    with open_stage(postgres_server, tmp_path) as stage:
        play(Machine, stage, tally, seed_=SEED, examples=HISTORIES, steps=STEPS)
    assert tally.steps > HISTORIES * STEPS, "a model that sees little proves little"
    assert len(tally.states) > HISTORIES, tally.table()
