"""How the API bears a million certificates, 1.2 million versions and 5 million audit events.

Lists and searches are asked for by one client, one after another, and the slowest hundredth counts. Then wrk gets and
adds certificates as fast as one process answers; that is told as a share of what the bare framework does over TLS in
the same run. Coordinator, database and client share the machine. ``--scale 0.01`` is a small try.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from anyio.from_thread import start_blocking_portal

from benchmarks.api.load import Client, getting, posting, rate
from benchmarks.api.seed import seed
from benchmarks.api.stock import APPS, CERTIFICATES, RARE, TEAMS, Stock
from benchmarks.fleet.measure import rss_mb
from benchmarks.lab.fleet import Coordinator
from benchmarks.lab.processes import Process, free_ports, stopped_at_the_end
from benchmarks.lab.results import save, table
from benchmarks.lab.servers import Site, write_placeholder
from benchmarks.lab.wire import look
from coordinator.database.embedded import EmbeddedPostgres

GOAL_P99_MS, GOAL_GET, GOAL_POST = 50.0, 0.40, 0.13
REQUESTS, SECONDS = 300, 15.0
_LIST = "/api/v1/certificates"
PathOf = Callable[[int], str]


def main() -> int:
    """Measure."""
    parser = argparse.ArgumentParser(prog="make bench-api", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="1 is a million certificates")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="requests for each time")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="seconds for each rate; 300 shows whether memory grows"
    )
    parser.add_argument("--database-url", default="", help="an empty PostgreSQL database, instead of one of its own")
    parser.add_argument(
        "--shared-buffers", default="256MB", help="of the database of its own, as the coordinator has it"
    )
    parser.add_argument("--folder", type=Path, help="where the database is made and kept, to measure it again")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that everything is cleaned up
    folder = options.folder or Path(tempfile.mkdtemp(prefix="certctl-bench-"))
    processes = list[Process]()
    try:
        with database(folder, options.database_url, options.shared_buffers) as dsn, stopped_at_the_end(processes):
            return measure(Stage.open(folder, dsn, processes, options.scale), options)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def database(folder: Path, url: str, shared_buffers: str) -> Iterator[str]:
    """Lend a PostgreSQL as the coordinator would start it, with every commit on the disk, or the one that was given."""
    if url:
        yield url
        return
    settings = {"max_wal_size": "8GB", "shared_buffers": shared_buffers}
    embedded = EmbeddedPostgres(folder / "database", settings=settings)
    with start_blocking_portal("asyncio") as portal:
        dsn = portal.call(embedded.start)
        try:
            yield dsn
        finally:
            portal.call(embedded.stop)


@dataclass
class Stage:
    """A coordinator on a full database, the bare framework beside it, and what was found."""

    coordinator: Coordinator
    client: Client
    key: str
    stock: Stock
    hello_url: str
    seeded_s: float
    folder: Path
    memory_mb: dict[str, float] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, dsn: str, processes: list[Process], scale: float) -> Stage:
        """Fill the database unless it is full, and start what is measured."""
        environment = {"CERTCTL_DATABASE_URL": dsn, "CERTCTL_LOG_LEVEL": "error"}
        coordinator = Coordinator(folder / "coordinator", environment)
        processes.append(coordinator.process)
        key = coordinator.start().api().http.headers["Authorization"].removeprefix("Bearer ")
        stock, seeded_s = Stock(round(CERTIFICATES * scale), datetime.now(UTC)), 0.0
        if coordinator.api().get(_LIST, per_page=1)["total"] == 0:
            coordinator.process.stop()
            sys.stderr.write(f"{stock.certificates:,} certificates:\n")
            with start_blocking_portal("asyncio") as portal:
                seeded_s = portal.call(seed, dsn, stock)
            coordinator.start()
        url = _hello(folder, processes)
        return cls(coordinator, Client(coordinator.url, coordinator.ca_path, key), key, stock, url, seeded_s, folder)

    def remember(self, when: str) -> None:
        """Note how much memory the coordinator has."""
        self.memory_mb[when] = round(rss_mb(self.coordinator.process.pid), 1)

    def rate(self, what: str, seconds: float, script: str) -> float:
        """Return requests a second, and note memory a tenth of the time after their begin, and at their end."""
        early = threading.Timer(seconds / 10, self.remember, [f"early in the {what}"])
        early.start()
        found = rate(self.coordinator.url, seconds, script, self.folder)
        early.join()
        self.remember(f"after the {what}")
        return found


def _hello(folder: Path, processes: list[Process]) -> str:
    site, (port,) = Site("hello", folder / "hello"), free_ports(1)
    site.folder.mkdir(exist_ok=True)
    write_placeholder(site)
    process = Process.python("hello", "benchmarks.api.hello", folder / "hello.log", {})
    process.argv += [str(port), str(site.cert_path), str(site.key_path)]
    processes.append(process)
    process.start().await_ready(lambda: look(port, "hello") is not None)
    return f"https://127.0.0.1:{port}/"


def measure(stage: Stage, options: argparse.Namespace) -> int:
    """Measure times, then rates; tell them."""
    stage.remember("started")
    for path_of in questions(stage).values():
        stage.client.measure(path_of, 5)  # what was not read since the start comes from the disk
    times = {name: stage.client.measure(path_of, options.requests) for name, path_of in questions(stage).items()}
    stage.remember("after the lists")
    seconds = options.seconds
    rates = {
        "bare": rate(stage.hello_url, min(seconds, SECONDS)),
        "get": stage.rate("gets", seconds, getting(stage.key, stage.stock.certificates)),
        "post": stage.rate("posts", seconds, posting(stage.key, f"r{time.time_ns():x}")),
    }
    tell(stage, times, rates)
    return 0


def questions(stage: Stage) -> dict[str, PathOf]:
    """Return what is asked for, by name: the path of the n-th request."""
    dice, stock = random.Random(3), stage.stock

    def filtered(number: int) -> str:
        return f"{_LIST}?environment={('prod', 'lab')[number % 2]}&team_id=team-{number % TEAMS}&sort=expires_at"

    return {
        "first page": lambda _: _LIST,
        "page in the middle": lambda number: f"{_LIST}?sort=name&cursor={_cursor(number)}",
        "environment, by expiry": lambda number: f"{_LIST}?environment={('prod', 'dev')[number % 2]}&sort=expires_at",
        "two filters, by expiry": filtered,
        "life": lambda number: f"{_LIST}?life={('due', 'expired', 'valid', 'pending')[number % 4]}",
        "service": lambda number: f"{_LIST}?service={quote(('not served', 'served')[number % 2])}",
        "tag": lambda number: f"{_LIST}?tag={('tier:1', f'ticket:T-{number * 997 % stock.certificates}')[number % 2]}",
        "search, rare word": lambda _: f"{_LIST}?q={RARE}",
        "search, common word": lambda number: f"{_LIST}?q={('example', 'com', 'eu')[number % 3]}",
        "search, two words": lambda number: f"{_LIST}?q=billing%20team{number % TEAMS}.example",
        "one certificate": lambda _: f"{_LIST}/{stock.id(dice.randrange(stock.certificates))}",
        "its timeline": lambda _: f"{_LIST}/{stock.id(dice.randrange(stock.certificates))}/timeline",
        "its audit events": lambda _: (
            f"/api/v1/audit?resource_type=certificate&resource_id={stock.id(dice.randrange(stock.certificates))}"
        ),
        "summary": lambda _: "/api/v1/stats/summary",
        "expiration timeline": lambda _: "/api/v1/stats/expiration-timeline?days=90",
        "overview": lambda _: "/api/v1/overview",
        "horizon": lambda _: "/api/v1/horizon",
        "map": lambda _: "/api/v1/fleet/map?sort=name",
        "search everywhere": lambda number: f"/api/v1/search?q={APPS[number % len(APPS)]}",
        "audit, first page": lambda _: "/api/v1/audit",
        "audit, one action": lambda _: "/api/v1/audit?action=certificate.due",
    }


def _cursor(number: int) -> str:
    """Return a cursor to a place somewhere in the list by name, as the coordinator would give it."""
    place = ["name", False, f"{APPS[number % len(APPS)]}-{number * 7919 % 1_000_000}", "mc-0"]
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def tell(stage: Stage, times: dict[str, dict[str, float]], rates: dict[str, float]) -> None:
    """Write table and JSON."""
    shares = {name: rates[name] / rates["bare"] for name in ("get", "post")}
    met = {
        "p99": max(row["p99"] for row in times.values()) <= GOAL_P99_MS,
        "get": shares["get"] >= GOAL_GET,
        "post": shares["post"] >= GOAL_POST,
    }
    result = {
        "certificates": stage.stock.certificates,
        "seeded_s": round(stage.seeded_s, 1),
        "times_ms": times,
        "requests_per_s": rates,
        "shares": shares,
        "memory_mb": stage.memory_mb,
        "goals_met": met,
    }
    path = save("api", result)
    words = {name: "met" if good else "NOT met" for name, good in met.items()}
    sys.stdout.write(f"{table(times, 'ms')}\n\nbare Quart over TLS {rates['bare']:8.0f} requests/s\n")
    for name, title, goal in (("get", "GET by id", GOAL_GET), ("post", "POST", GOAL_POST)):
        sys.stdout.write(f"{title:20}{rates[name]:8.0f}  {shares[name]:.2f}×, goal {goal}: {words[name]}\n")
    sys.stdout.write(f"p99 of every list ≤ {GOAL_P99_MS:g} ms: {words['p99']}; memory MB {stage.memory_mb}\n{path}\n")


if __name__ == "__main__":
    sys.exit(main())
