"""Where faults strike: one coordinator, and certificates that are in trouble at the same time, each in its own.

A trouble is struck, lasts for some attempts, and is mended. What was seen meanwhile from outside is kept in a
``Record``, so that waiting out the pauses of many faults takes as long as those of one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.lab.fleet import Agent, Coordinator
from benchmarks.lab.processes import wait_until
from benchmarks.lab.servers import Nginx
from benchmarks.lab.wire import Seen, look, verified
from console.main import app
from tests.journeys.stage import Journey, Stage, pair_is_consistent, playing
from tests.postgres import PostgresServer

ATTEMPTS = 2
"""Failed attempts that are waited for: the pauses after them show that they grow."""
HEALED_S = 90.0

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts small file systems")


class Trouble:
    """One fault in the life of one certificate; subclasses say how it comes and goes."""

    name = ""
    cause = ""
    """A pattern of what a person reads, on the certificate and on the job."""
    step = ""
    kind = "deployment"
    first = False
    """Whether it strikes before anything was ever installed."""
    old_is_served = True
    """Whether the certificate of before can still be seen: not when the fault took away who shows it."""
    layout = "current"
    probe_s = 10.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = f"{self.name}.example.test"
        self.flag = folder / f"{self.name}-is-broken"

    def prepare(self, stage: Stage) -> None:
        """Start what serves the certificate."""
        self.server: Nginx = stage.nginx(self.name, self.site, f"other-{self.site}")

    def policy(self) -> str:
        """Return the lines of agent.toml about this service."""
        return self.server.policy().split("\n", 1)[1]

    def config(self) -> dict[str, Any]:
        """Return what the target is told beyond the paths."""
        probe = {"port": self.server.port, "sni": self.site, "timeout_s": self.probe_s}
        return {"layout": self.layout, "probe": probe}

    def is_held(self) -> bool:
        """Say whether what is installed while it lasts is what it should be: a certificate and its key."""
        return pair_is_consistent(self.server, self.site)

    def strike(self) -> None:
        """Break it."""
        self.flag.touch()

    def mend(self) -> None:
        """Repair it, as the person would who reads the cause."""
        self.flag.unlink()


@dataclass
class Record:
    """What was seen of one trouble."""

    trouble: Trouble
    journey: Journey
    certificate_id: str = ""
    before: Seen | None = None
    during: Seen | None = None
    problem: str = ""
    pair_held: bool = False
    jobs: list[dict[str, Any]] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    page: str = ""
    job_page: str = ""
    mended_at: float = 0.0
    healed_after_s: float = -1.0
    healed_by: int = 0
    after: Seen | None = None
    pair_after: bool = False

    def jobs_now(self) -> list[dict[str, Any]]:
        """Return the attempts at what the trouble prevents, oldest first."""
        path = {"certificate_id": self.certificate_id, "kind": self.trouble.kind}
        return sorted(self.journey.api.get("/api/v1/jobs", **path)["data"], key=lambda job: str(job["created_at"]))

    def failed(self) -> list[dict[str, Any]]:
        """Return those that failed."""
        return [job for job in self.jobs_now() if job["state"] == "Failed"]

    def look_during(self) -> None:
        """Note how things stand while the trouble lasts."""
        trouble, server = self.trouble, self.trouble.server
        self.during = _strict(server, trouble.site, self.journey.root_pem)
        self.pair_held = trouble.is_held()
        path = f"/api/v1/certificates/{self.certificate_id}"
        self.status = self.journey.api.get(path)["status"]
        self.jobs = self.jobs_now()
        self.page = certctl(self.journey.coordinator, "certificates", "get", self.certificate_id)
        self.job_page = certctl(self.journey.coordinator, "jobs", "get", self.failed()[-1]["id"])

    def look_after(self) -> None:
        """Wait for the new certificate, as a strict client sees it."""
        trouble = self.trouble
        deadline_s = max(1.0, self.mended_at + HEALED_S - time.monotonic())
        try:
            self.after = self.journey.served(
                trouble.server, trouble.site, instead_of=self.before, deadline_s=deadline_s
            )
            self.journey.settled(self.certificate_id, deadline_s)
            self.healed_after_s = time.monotonic() - self.mended_at
            self.healed_by = max(int(job["attempt"]) for job in self.jobs_now() if job["state"] == "Completed")
            self.pair_after = pair_is_consistent(trouble.server, trouble.site)
        except TimeoutError as error:
            self.problem = str(error)


def _strict(server: Nginx, site: str, root_pem: str) -> Seen | None:
    try:
        return verified(server.port, site, root_pem)
    except OSError:
        return look(server.port, site)


def certctl(coordinator: Coordinator, *words: str) -> str:
    """Return what the command prints, its lines joined: where they break depends on the terminal."""
    environment = {
        "CERTCTL_SERVER_URL": coordinator.url,
        "CERTCTL_SERVER_CA_BUNDLE_PATH": str(coordinator.ca_path),
        "CERTCTL_API_KEY": (coordinator.data_dir / "admin.key").read_text().strip(),
    }
    return " ".join(CliRunner().invoke(app, list(words), env=environment).output.split())


def play(troubles: Sequence[Trouble], journey: Journey, agents: Sequence[Agent]) -> dict[str, Record]:
    """Let all troubles strike, last and be mended; ``agents`` are those that the troubles' targets are on, in order."""
    records = [Record(trouble, journey) for trouble in troubles]
    for record, agent in zip(records, agents, strict=True):
        if not record.trouble.first:
            _want(record, agent)
    for record in records:
        if not record.trouble.first:
            record.before = journey.served(record.trouble.server, record.trouble.site)
            journey.settled(record.certificate_id)
    for record, agent in zip(records, agents, strict=True):
        record.trouble.strike()
        if record.trouble.first:
            _want(record, agent)
        else:
            journey.renew(record.certificate_id)
    for record in records:
        _last(record)
    for record in records:
        record.look_during()
        record.trouble.mend()
        record.mended_at = time.monotonic()
    for record in records:
        record.look_after()
    return {record.trouble.name: record for record in records}


def _want(record: Record, agent: Agent) -> None:
    trouble, journey = record.trouble, record.journey
    target = journey.target(agent, trouble.server, trouble.site, **trouble.config())
    record.certificate_id = journey.want(trouble.site, target)


def _last(record: Record) -> None:
    """Let the trouble last for some attempts, and look."""
    try:
        wait_until(f"{record.trouble.name}: {ATTEMPTS} failed attempts", lambda: len(record.failed()) >= ATTEMPTS, 60)
    except TimeoutError as error:
        record.problem = str(error)


@contextmanager
def prepared(folder: Path, postgres_server: PostgresServer) -> Iterator[tuple[Stage, Journey]]:
    """Lend a stage with a coordinator."""
    with postgres_server.fresh_database(migrated=False) as dsn, playing(folder) as stage:
        coordinator = stage.coordinator(CERTCTL_DATABASE_URL=dsn)
        yield stage, Journey(coordinator)


def pauses(jobs: Sequence[dict[str, Any]]) -> list[float]:
    """Return the seconds that each attempt after the first was told to wait."""
    return [
        (datetime.fromisoformat(job["not_before"]) - datetime.fromisoformat(job["created_at"])).total_seconds()
        for job in jobs
        if job["trigger"] == "retry"
    ]
