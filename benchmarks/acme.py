"""How many certificates a second ACME clients get, and how long each takes: order, authorization, finalize, download.

Each client has an account and keeps one connection. certctl is measured on PostgreSQL with every commit on the disk,
trusting its accounts, with one coordinator and with two of them, and proving names by http-01; Pebble, all in memory,
believing every challenge and by http-01; step-ca by http-01. All with the same client in the same run. Clients, servers
and database share the machine. How many statements a request costs is counted in a run of its own, by the database.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.fleet.measure import cpu_s
from benchmarks.lab.acmeclient import Answers, Client
from benchmarks.lab.acmeservers import Server, certctl, pebble, program, step_ca
from benchmarks.lab.results import save, summary, table

GOAL_RATE, GOAL_P99_MS = 100.0, 200.0
TRUST, HTTP_01, TWO = "certctl, trust", "certctl, http-01", "certctl, trust, two"
_WARM_FLOWS, _COUNTED_FLOWS = 10, 25


class Case(NamedTuple):
    """A server to measure, whether names are proved by http-01, and the program that it needs."""

    name: str
    server: Callable[[Path, Answers | None], AbstractContextManager[Server]]
    proves: bool
    program: str = ""


CASES = (
    Case(TRUST, certctl, proves=False),
    Case(TWO, partial(certctl, coordinators=2), proves=False),
    Case(HTTP_01, certctl, proves=True),
    Case("Pebble, no challenge", pebble, proves=False, program="pebble"),
    Case("Pebble, http-01", pebble, proves=True, program="pebble"),
    Case("step-ca, http-01", step_ca, proves=True, program="step-ca"),
)
_OTHERS = {TRUST: "Pebble, no challenge", TWO: "Pebble, no challenge", HTTP_01: "Pebble, http-01"}


@dataclass
class Measured:
    """What some clients saw in so many seconds, and the processor time that all sides used, in seconds."""

    times_ms: list[float] = field(default_factory=list)
    requests: int = 0
    seconds: float = 0.0
    cpu_s: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Return the certificates a second."""
        return len(self.times_ms) / self.seconds


def measure(server: Server, clients: int, seconds: float, answers: Answers | None = None) -> Measured:
    """Let clients get certificates, each one after another."""
    made = [Client(*server.places[number % len(server.places)], number, answers) for number in range(clients)]
    found, lock = Measured(), threading.Lock()

    def warm(client: Client) -> None:
        for _ in range(_WARM_FLOWS):
            client.flow()

    def work(client: Client) -> None:
        asked = client.requests
        while (started := time.perf_counter()) < began + seconds:
            client.flow()
            with lock:
                found.times_ms.append((time.perf_counter() - started) * 1000)
        with lock:
            found.requests += client.requests - asked

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(warm, made))  # all at once: every connection is there, and what it asks is prepared
        before, began = _used_s(server), time.perf_counter()
        list(pool.map(work, made))  # raises what any of them has met
    found.seconds = time.perf_counter() - began
    found.cpu_s = {name: used - before[name] for name, used in _used_s(server).items()}
    return found


def _used_s(server: Server) -> dict[str, float]:
    return {"clients": time.process_time(), **{name: cpu_s(pids) for name, pids in server.processes().items()}}


def statements(folder: Path, answers: Answers | None) -> dict[str, float]:
    """Return how many statements each request of a flow costs, and a whole flow with all that goes on beside it."""
    with certctl(folder, answers, counting=True) as server:
        client = Client(*server.places[0], 0, answers)
        for _ in range(_WARM_FLOWS):
            client.flow()
        started = server.statements()
        for _ in range(_COUNTED_FLOWS):
            client.flow()
        everything = (server.statements() - started) / _COUNTED_FLOWS
        seen = defaultdict[str, list[int]](list)

        @contextlib.contextmanager
        def watch(what: str) -> Iterator[None]:
            before = server.statements()
            yield
            seen[what].append(server.statements() - before)

        client.watch = watch
        for _ in range(_COUNTED_FLOWS):
            client.flow()
    # Loops tick in between a few times a second: the middle is what the request itself costs.
    counted = {what: float(statistics.median_low(each)) for what, each in seen.items()}
    return {**counted, "a flow with all beside it": everything}


def main() -> int:
    """Measure; exit code 1 when two coordinators, each on a core of its own, did not meet a goal."""
    parser = argparse.ArgumentParser(prog="make bench-acme", description=__doc__)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--pebble-clients", type=int, default=4, help="at 10 it has hung")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="certctl-bench-acme-"))
    found, counts = dict[str, Measured](), dict[str, dict[str, float]]()
    try:
        with Answers().running() as answers:
            for number, case in enumerate(CASES):
                if case.program and program(case.program) is None:
                    sys.stdout.write(f"{case.name}: skipped, {case.program} is not here\n")
                    continue
                (own := folder / str(number)).mkdir()
                proof = answers if case.proves else None
                clients = options.pebble_clients if case.program == "pebble" else options.clients
                with case.server(own, proof) as server:
                    try:
                        found[case.name] = measure(server, clients, options.seconds, proof)
                    except (OSError, AssertionError) as error:
                        if not case.program:
                            raise
                        sys.stdout.write(f"{case.name}: left out, it failed: {error!r:.200}\n")
            for number, (name, proof) in enumerate({TRUST: None, HTTP_01: answers}.items()):
                counts[name] = statements(folder / f"counted{number}", proof)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return tell(found, counts)


def tell(found: dict[str, Measured], counts: dict[str, dict[str, float]]) -> int:
    """Write tables and JSON."""
    rows = {name: summary(each.times_ms) for name, each in found.items()}
    ratios = {
        f"{name} / {other}": found[name].rate / found[other].rate
        for name in _OTHERS
        for other in found
        if name != other and other in {_OTHERS[name], "step-ca, http-01"}
    }
    met = {
        name: {"rate": found[name].rate >= GOAL_RATE, "p99": rows[name]["p99"] <= GOAL_P99_MS} for name in (TRUST, TWO)
    }
    sys.stdout.write(table(rows, "ms a certificate") + "\n\n")
    cost = {name: {who: s * 1000 / len(each.times_ms) for who, s in each.cpu_s.items()} for name, each in found.items()}
    for name, each in found.items():
        parts = ", ".join(f"{who} {ms:.1f}" for who, ms in cost[name].items())
        asked = each.requests / len(each.times_ms)
        sys.stdout.write(f"{name:24}{each.rate:7.0f} certificates/s, {asked:.1f} requests each; ms of CPU: {parts}\n")
    sys.stdout.write("".join(f"{name}: {ratio:.2f}\n" for name, ratio in ratios.items()) + "\n")
    for name, counted in counts.items():
        parts = ", ".join(f"{what} {number:.0f}" for what, number in counted.items())
        sys.stdout.write(f"{name}: statements of the database: {parts}\n")
    for name, goals in met.items():
        words = {what: "met" if good else "NOT met" for what, good in goals.items()}
        sys.stdout.write(f"{name}: {GOAL_RATE:.0f}/s {words['rate']}, p99 {GOAL_P99_MS:.0f} ms {words['p99']}\n")
    told = {name: {"rate": each.rate, "requests": each.requests / len(each.times_ms)} for name, each in found.items()}
    result = {"ms": rows, "flows": told, "cpu_ms": cost, "ratios": ratios, "statements": counts, "goals_met": met}
    sys.stdout.write(f"{save('acme', result)}\n")
    return 0 if all(met[TWO].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
