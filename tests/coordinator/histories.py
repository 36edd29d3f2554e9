"""Plays state machines with a seed, the same histories every time; one batch in tests, many by hand."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

import structlog
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.postgres import PostgresServer, running_server


class Tally(Protocol):
    """What was visited."""

    def table(self) -> str:
        """Return it for people."""


S = TypeVar("S")


def play(
    machine: type[RuleBasedStateMachine],
    stage: object,
    tally: Tally,
    *,
    seed_: int,
    examples: int,
    steps: int,
    shrink: bool = True,
) -> None:
    """Play ``examples`` histories of ``steps`` steps; raise with the shortest failing history that is found."""
    played = type("Played", (machine,), {"stage": stage, "tally": tally})
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
    run_state_machine_as_test(seed(seed_)(played), settings=profile)


def play_by_hand(
    command: str,
    about: str | None,
    machine: type[RuleBasedStateMachine],
    open_stage: Callable[[PostgresServer, Path], AbstractContextManager[S]],
    tally: Tally,
    *,
    steps: int,
) -> None:
    """Play batch after batch, as the command line says, until the time is up; then say what was visited."""
    parser = argparse.ArgumentParser(prog=f"{command} ARGS=…", description=about)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=25, help="histories in one batch")
    parser.add_argument("--steps", type=int, default=steps, help="steps in one history, at most")
    parser.add_argument("--as-found", action="store_true", help="show a failure as it was found, not the shortest")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    ends, number = time.monotonic() + options.minutes * 60, options.seed
    with tempfile.TemporaryDirectory() as folder, running_server() as server, open_stage(server, Path(folder)) as stage:
        while number == options.seed or time.monotonic() < ends:
            sys.stdout.write(f"seed {number}\n")
            sys.stdout.flush()
            shrink = not options.as_found
            play(machine, stage, tally, seed_=number, examples=options.examples, steps=options.steps, shrink=shrink)
            number += 1
    sys.stdout.write(f"{tally.table()}\n")
