"""Plays the machine with a seed: the same histories every time."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.coordinator.acme.oracle.comparison import Tally
from tests.coordinator.acme.oracle.machine import Machine
from tests.coordinator.acme.oracle.stage import Stage


def play(stage: Stage, tally: Tally, *, seed_: int, examples: int, steps: int, shrink: bool = True) -> None:
    """Play ``examples`` histories of ``steps`` steps; raise with the shortest failing history that is found."""

    class Played(Machine):
        pass

    Played.stage, Played.tally = stage, tally
    profile = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        print_blob=False,
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(seed(seed_)(Played), settings=profile)
