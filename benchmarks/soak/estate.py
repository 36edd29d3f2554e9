"""What the soak shakes: one PostgreSQL, three coordinators behind HAProxy, racks of simulated agents."""

from __future__ import annotations

import asyncio
import re
import secrets
import ssl
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from benchmarks.checker.world import World, read
from benchmarks.fleet.lab import Fleet
from benchmarks.lab.balancer import balancer
from benchmarks.lab.fleet import API, UNREACHED_LIMITS
from benchmarks.lab.postgres import OwnPostgres
from benchmarks.lab.processes import Process, wait_until
from benchmarks.soak.clock import Clock
from benchmarks.soak.network import BALANCER, DATABASE, Node, make_bridge, run

COORDINATORS, RACKS, PORT = 3, 4, 8443
SMALL_DISK = "2m"
READY_S = 60.0
REFUSED_START = 2
DATABASE_AWAY = re.compile(
    "cannot start: CERTCTL_DATABASE_URL: .*(does not answer|is not reachable|refuses the connection|schema cannot)"
)
_LIVE = "SELECT count(*) FROM jobs WHERE state NOT IN ('Completed', 'Failed', 'Cancelled')"


class Estate:
    """Everything, started. ``small`` are the agents whose whole folder is a small disk of its own."""

    def __init__(
        self, folder: Path, *, agents: int, processes: int, lifetime_s: int, processes_kept: list[Process]
    ) -> None:
        self._keep = processes_kept
        self._folder = folder
        make_bridge()
        self.nodes = [Node(f"coordinator-{number}", 10 + number) for number in range(1, COORDINATORS + 1)]
        self.racks = [Node(f"rack-{number}", 20 + number) for number in range(1, RACKS + 1)]
        self.postgres = OwnPostgres(folder / "postgres", DATABASE)
        self._keep.append(self.postgres.process)
        self.postgres.start()
        self._start_balancer()
        key = secrets.token_urlsafe(48)
        self.clocks: list[Clock] = []
        self._halted_at: datetime | None = None
        self.coordinators = [self._coordinator(node, key) for node in self.nodes]
        self._keep += self.coordinators
        for number, coordinator in enumerate(self.coordinators):
            coordinator.start()
            # One that starts has bound its port: the balancer would send it requests, and then give it up.
            coordinator.await_ready(partial(self._serves, number), READY_S)
        wait_until("the platform is ready", self.ready, READY_S)
        self.api = API(f"https://{BALANCER}:{PORT}", self._data(0, "admin.key").read_text().strip(), self.ca)
        self.fleet, self.small = self._fleet(agents, processes)
        self.certificates = list(self.fleet.add_certificates(self.fleet.names[::2]).values())
        self.certificates += self.fleet.add_certificates(self.fleet.names[1::2], lifetime_s=lifetime_s).values()

    @property
    def ca(self) -> Path:
        """Return the root of the coordinators' HTTPS."""
        return self._data(0, "tls/ca.crt")

    def _data(self, number: int, name: str) -> Path:
        return self._folder / self.nodes[number].name / "data" / name

    def ready(self) -> bool:
        """Say whether somebody answers behind the load balancer."""
        return self._answers(BALANCER)

    def _serves(self, number: int) -> bool:
        return self._data(number, "tls/ca.crt").exists() and self._answers(self.nodes[number].address)

    def _answers(self, address: str) -> bool:
        try:
            context = ssl.create_default_context(cafile=self.ca)
            context.check_hostname = False  # a coordinator's certificate is for the balancer's name
            return httpx.get(f"https://{address}:{PORT}/ready", verify=context, timeout=5, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def _coordinator(self, node: Node, key: str) -> Process:
        folder = self._folder / node.name
        folder.mkdir()
        clock = Clock(folder)
        self.clocks.append(clock)
        env = {
            **clock.variables,
            "CERTCTL_SERVER_HOST": node.address,
            "CERTCTL_SERVER_PORT": str(PORT),
            "CERTCTL_SERVER_URL": f"https://{BALANCER}:{PORT}",
            "CERTCTL_METRICS_LISTEN": "off",
            "CERTCTL_DATA_DIR": str(folder / "data"),
            "CERTCTL_DATABASE_URL": self.postgres.url,
            "CERTCTL_CONFIG_ENCRYPTION_KEY": key,
            "CERTCTL_LOG_FORMAT": "json",
            **UNREACHED_LIMITS,
        }
        process = Process.python(node.name, "coordinator.main", folder / "coordinator.log", env)
        process.argv = [*node.prefix(), *process.argv]
        return process

    def _start_balancer(self) -> None:
        servers = {node.name: f"{node.address}:{PORT}" for node in self.nodes}
        process = balancer(self._folder, f"{BALANCER}:{PORT}", servers)
        self._keep.append(process)
        process.start()

    def _fleet(self, agents: int, processes: int) -> tuple[Fleet, list[str]]:
        folder = self._folder / "fleet"
        fleet = Fleet(folder, f"https://{BALANCER}:{PORT}", self.ca, self.api, processes=processes)
        for number, process in enumerate(fleet.processes):
            process.argv = [*self.racks[number % RACKS].prefix(), *process.argv]
        self._keep += fleet.processes
        names = [f"host-{number}" for number in range(agents)]
        small = names[::20]
        for name in small:
            (folder / name).mkdir()
            run("mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "disk", str(folder / name))
        fleet.grow(names)
        fleet.start()
        fleet.await_enrolled(180)
        return fleet, small

    def revive(self) -> list[str]:
        """Start what ended by itself again, as a service manager would; return how each ended.

        A coordinator that is started while its database is away ends with a word about that, as it should.
        """
        ended = []
        for process in (*self.coordinators, *self.fleet.processes):
            if not process.running():
                if not (process.returncode() == REFUSED_START and DATABASE_AWAY.search(process.tail(1))):
                    ended.append(f"{process.name} ended with {process.returncode()}: {process.tail(3)}")
                process.start()
        return ended

    def live_jobs(self) -> int:
        """Return how many jobs have not ended."""
        return int(asyncio.run(_fetch(self.postgres.url, _LIVE)))

    def halt(self) -> bool:
        """End the coordinators in a quiet moment, as a power cut would; say whether it was one."""
        if self.live_jobs():
            return False
        for coordinator in self.coordinators:
            coordinator.kill()
        if self.live_jobs() == 0:
            self._halted_at = datetime.now(UTC)
            return True
        for coordinator in self.coordinators:
            coordinator.start()
        wait_until("the platform is back", self.ready, READY_S)
        return False

    def world(self) -> World:
        """Read everything for the checker."""
        states = [self._folder / "fleet" / name / "state" for name in self.fleet.names]
        world = read(self.postgres.url, states, [coordinator.log for coordinator in self.coordinators])
        return replace(world, at=self._halted_at or world.at)


async def _fetch(url: str, query: str) -> Any:  # noqa: ANN401 - whatever the query returns
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()
