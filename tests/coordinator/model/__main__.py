"""A longer run by hand: ``make model ARGS='--minutes 10 --seed 7'``. Each batch has the next seed."""

from __future__ import annotations

from tests.coordinator.histories import play_by_hand
from tests.coordinator.model.comparison import Tally
from tests.coordinator.model.machine import Machine
from tests.coordinator.model.stage import open_stage

if __name__ == "__main__":
    play_by_hand("make model", __doc__, Machine, open_stage, Tally(), steps=60)
