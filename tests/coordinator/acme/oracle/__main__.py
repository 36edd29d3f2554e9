"""A longer run by hand: ``make acme-oracle ARGS='--minutes 10 --seed 7'``. Each batch has the next seed."""

from __future__ import annotations

from tests.coordinator.acme.oracle.comparison import Tally
from tests.coordinator.acme.oracle.machine import Machine
from tests.coordinator.acme.oracle.stage import open_stage
from tests.coordinator.histories import play_by_hand

if __name__ == "__main__":
    play_by_hand("make acme-oracle", __doc__, Machine, open_stage, Tally(), steps=40)
