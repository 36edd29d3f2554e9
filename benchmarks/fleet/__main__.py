"""What thousands of agents cost one coordinator process, and how it bears them.

The fleet grows from size to size. Each time: how fast agents enroll; what they cost while they wait for work; how long
it takes from the commit of a job to its arrival at a random agent; how long until every agent is back after the
coordinator was killed, and how many requests a second that brings. Agents, coordinator and database share the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from anyio.from_thread import BlockingPortal, start_blocking_portal

from benchmarks.fleet.lab import Fleet
from benchmarks.fleet.measure import RequestRate, idle_cost
from benchmarks.lab.fleet import API, Coordinator
from benchmarks.lab.processes import Process, stopped_at_the_end, wait_until
from benchmarks.lab.results import percentile, save
from coordinator.database import driver
from coordinator.database.embedded import EmbeddedPostgres
from core.wire import HEARTBEAT_S

SIZES = (1000, 2000, 5000, 10_000)
IDLE_S, SETTLE_S, JOBS, PAUSE_S = 30.0, HEARTBEAT_S, 200, 0.05
GOALS = {"cpu": "10 %", "rss": "800 MB", "p99": "50 ms", "back": "60 s"}
TOKEN = "one-token-for-the-whole-fleet"  # noqa: S105 - of a fleet that is gone when this ends
_COMMITTED = """
    SELECT jobs.id, extract(epoch FROM pg_xact_commit_timestamp(audit_events.xmin))::float8 AS at FROM audit_events
    JOIN jobs ON jobs.certificate_id = audit_events.resource_id
    WHERE audit_events.action = 'certificate.created' AND jobs.id = ANY($1)
"""
_COLUMNS = ("agents", "enrolled/s", "cpu %", "postgres %", "rss MB", "p50 ms", "p99 ms", "back s", "peak req/s")
_FIELDS = (
    "agents",
    "enrolled_per_s",
    "coordinator_cpu",
    "postgres_cpu",
    "rss_mb",
    "p50_ms",
    "p99_ms",
    "back_s",
    "peak",
)
Figures = dict[str, float]


def main() -> int:
    """Measure."""
    parser = argparse.ArgumentParser(prog="make bench-fleet", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of agents, growing")
    parser.add_argument("--idle", type=float, default=IDLE_S, help="seconds to watch idle agents for")
    parser.add_argument("--settle", type=float, default=SETTLE_S, help="seconds to wait before that")
    parser.add_argument("--jobs", type=int, default=JOBS, help="jobs to random agents")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that everything is cleaned up
    folder, processes = Path(tempfile.mkdtemp(prefix="certctl-bench-")), list[Process]()
    try:
        with stopped_at_the_end(processes), Stage.open(folder, processes) as stage:
            rows = [measure(stage, size, options) for size in sorted(options.sizes)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _tell(rows)
    return 0


class Stage:
    """A PostgreSQL that outlives the coordinator, the coordinator, its fleet."""

    def __init__(self, folder: Path, portal: BlockingPortal, dsn: str, processes: list[Process]) -> None:
        self.cluster = (folder / "database" / "postgres").resolve()
        self._portal = portal
        self._dsn = dsn
        variables = {"CERTCTL_DATABASE_URL": dsn, "CERTCTL_AGENT_BOOTSTRAP_TOKEN": TOKEN, "CERTCTL_LOG_LEVEL": "error"}
        self.coordinator = Coordinator(folder / "coordinator", {**variables, **_encryption()})
        processes.append(self.coordinator.process)
        self.api: API = self.coordinator.start().api()
        self.fleet = Fleet(folder / "fleet", self.coordinator.url, self.coordinator.ca_path, self.api)
        processes += self.fleet.processes
        self.fleet.start()

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path, processes: list[Process]) -> Iterator[Stage]:
        """Start everything; ``processes`` are for the caller to stop."""
        # Commits carry their time, which is when a job's road begins.
        embedded = EmbeddedPostgres(folder / "database", settings={"track_commit_timestamp": "on"})
        with start_blocking_portal("asyncio") as portal:
            dsn = portal.call(embedded.start)
            stage = None
            try:
                stage = cls(folder, portal, dsn, processes)
                yield stage
            finally:
                if stage is not None:
                    stage.fleet.stop()
                    stage.coordinator.close()
                    stage.coordinator.process.stop()
                portal.call(embedded.stop)

    def commits(self, job_ids: list[str]) -> dict[str, float]:
        """Return when jobs were committed, Unix seconds."""

        async def ask() -> dict[str, float]:
            connection = await driver.connect(self._dsn, {})
            try:
                return {row["id"]: row["at"] for row in await connection.fetch(_COMMITTED, job_ids)}
            finally:
                await connection.close()

        return self._portal.call(ask)


def _encryption() -> dict[str, str]:
    return {"CERTCTL_CONFIG_ENCRYPTION_KEY": random.randbytes(24).hex()}


def measure(stage: Stage, size: int, options: argparse.Namespace) -> Figures:
    """Let the fleet grow to this size and measure it."""
    figures: Figures = {"agents": size, "enrolled_per_s": _enroll(stage, size)}
    time.sleep(options.settle)  # until signs of life come as evenly as they do later
    figures |= asdict(idle_cost(stage.coordinator.process.pid, stage.cluster, options.idle))
    figures |= _deliver(stage, options.jobs)
    figures |= _kill(stage)
    sys.stdout.write(_line(figures) + "\n")
    sys.stdout.flush()
    return figures


def _enroll(stage: Stage, size: int) -> float:
    new = [f"host-{number}" for number in range(len(stage.fleet.names), size)]
    started = time.monotonic()
    stage.fleet.grow(new, TOKEN)
    connected: set[str] = set()
    wait_until(f"{size} agents", lambda: _connected(stage, connected) >= len(new), 600, pause_s=0.2)
    return len(new) / (time.monotonic() - started)


def _connected(stage: Stage, names: set[str]) -> int:
    """Add those that found the coordinator since the last look; return how many there are."""
    names |= {event["agent"] for event in stage.fleet.events() if event["event"] == "connected"}
    return len(names)


def _deliver(stage: Stage, count: int) -> Figures:
    """Give random agents a certificate each; return milliseconds from the commit to the agent's hands."""
    ids = list(stage.fleet.agent_ids().values())
    list(stage.fleet.events())
    jobs = []
    for number in range(count):
        wish = {"common_name": f"j{time.time_ns()}-{number}.fleet.test", "agent_id": random.choice(ids)}
        jobs += stage.api.post("/api/v1/certificates", wish)["job_ids"]
        time.sleep(PAUSE_S)
    received: dict[str, float] = {}

    def all_received() -> bool:
        for event in stage.fleet.events():
            if event["event"] == "received" and event["job"] not in received:
                received[event["job"]] = event["at"] / 1e9
        return received.keys() >= set(jobs)

    wait_until("every job at its agent", all_received, 60, pause_s=0.1)
    times = [(received[job] - at) * 1000 for job, at in stage.commits(jobs).items()]
    assert len(times) == count
    return {"p50_ms": percentile(times, 0.5), "p99_ms": percentile(times, 0.99), "max_ms": max(times)}


def _kill(stage: Stage) -> Figures:
    """Kill the coordinator and start it again; return how long it took until every agent had an answer."""
    list(stage.fleet.events())
    started = time.monotonic()
    stage.coordinator.process.kill()
    stage.coordinator.process.start()
    rate = RequestRate(stage.coordinator.metrics_url).start()
    connected: set[str] = set()
    everybody = len(stage.fleet.names)
    try:
        wait_until("every agent back", lambda: _connected(stage, connected) >= everybody, 240, pause_s=0.1)
    finally:
        rate.stop()
    return {"back_s": time.monotonic() - started, "peak": rate.peak, "requests": rate.total}


def _line(figures: Figures) -> str:
    return "".join(f"{figures[name]:12.1f}" for name in _FIELDS)


def _tell(rows: list[Figures]) -> None:
    lines = ["", "".join(f"{column:>12}" for column in _COLUMNS), *map(_line, rows)]
    goals = ", ".join(f"{name} {goal}" for name, goal in GOALS.items())
    path = save("fleet", {"goals_at_10000": GOALS, "sizes": rows})
    sys.stdout.write("\n".join([*lines, f"goals at 10,000: {goals}", str(path), ""]))


if __name__ == "__main__":
    sys.exit(main())
