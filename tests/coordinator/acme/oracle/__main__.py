"""A longer run by hand: ``make acme-oracle ARGS='--minutes 10 --seed 7'``. Each batch has the next seed."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

import structlog

from tests.coordinator.acme.oracle.comparison import Tally
from tests.coordinator.acme.oracle.run import play
from tests.coordinator.acme.oracle.stage import open_stage
from tests.postgres import running_server


def main() -> None:
    """Play batch after batch until the time is up, then say what was visited."""
    parser = argparse.ArgumentParser(prog="make acme-oracle ARGS=…", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=25, help="histories in one batch")
    parser.add_argument("--steps", type=int, default=40, help="steps in one history, at most")
    parser.add_argument("--as-found", action="store_true", help="show a failure as it was found, not the shortest")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    ends, seed, tally = time.monotonic() + options.minutes * 60, options.seed, Tally()
    with tempfile.TemporaryDirectory() as folder, running_server() as server, open_stage(server, Path(folder)) as stage:
        while seed == options.seed or time.monotonic() < ends:
            sys.stdout.write(f"seed {seed}\n")
            sys.stdout.flush()
            shrink = not options.as_found
            play(stage, tally, seed_=seed, examples=options.examples, steps=options.steps, shrink=shrink)
            seed += 1
    sys.stdout.write(f"{tally.table()}\n")


if __name__ == "__main__":
    main()
