"""One installation on which cells are played, and the one thing that is done for it: a dead program starts again."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import ssl
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import httpx

from benchmarks.lab.fleet import API, Agent, Coordinator
from benchmarks.lab.processes import Process, free_ports, stopped_at_the_end
from coordinator.database import driver
from tests.connectors.issuers.acme.pebble import Pebble
from tests.journeys.crash.points import Program
from tests.journeys.crash.sites import Sites
from tests.journeys.stage import Stage, issuing_root

KILLED = -signal.SIGKILL
PATIENCE_S = 40.0
_PAUSE_S = 0.03
PERSPECTIVES = "grp-perspectives"
"""The group whose agents look at challenges as well; one is enough here."""
ANSWERS_IN = "127.0.1.0/24"
"""Where challenges of ACME clients are looked for; not at the host's own address."""
_NUMBERS = itertools.count(1)


class Lane:
    """A coordinator on a database of its own, an nginx, an agent.

    At most one of the programs is armed at a time. When it has died by SIGKILL it is started again, once and unarmed,
    as a service manager would; any other end of any program fails the cell.
    """

    def __init__(self, stage: Stage, dsn: str) -> None:
        self.deaths = 0
        self._stage = stage
        self._armed: Process | None = None
        self._resting: Process | None = None
        self._loop = asyncio.Runner()
        self._database = self._loop.run(driver.connect(dsn, {}))
        self.http_port, self.answers_port = free_ports(2)
        acme = {
            "CERTCTL_ACME_SERVER_ENABLED": "true",
            "CERTCTL_ACME_SERVER_GC_INTERVAL": "1s",
            "CERTCTL_ACME_DNS_SCRIPTS_DIR": str(stage.folder / "dns"),
            "CERTCTL_ACME_SERVER_HTTP01_PORT": str(self.answers_port),
            "CERTCTL_ACME_SERVER_ALLOWED_NETWORKS": ANSWERS_IN,
            "CERTCTL_ACME_SERVER_PERSPECTIVES": PERSPECTIVES,
            "CERTCTL_ACME_SERVER_PERSPECTIVES_MIN": "1",
        }
        self.coordinator = Coordinator(stage.folder / "coordinator", {"CERTCTL_DATABASE_URL": dsn, **acme})
        stage.keep(self.coordinator.process)
        self.sites = Sites(stage.folder / "web")
        stage.keep(self.sites.process)
        self.authority: Pebble | None = None
        self.agent: Agent
        self.api: API
        self.root_pem = ""
        self.encryption_key = ""

    @property
    def folder(self) -> Path:
        """Return the folder of everything on it."""
        return self._stage.folder

    def pebble(self) -> Pebble:
        """Return an ACME authority for which every name leads to the agent, started when it is first needed."""
        if self.authority is None:
            blocked = ["blocked.test"]
            self.authority = Pebble(self.folder / "pebble", httpPort=self.http_port, domainBlocklist=blocked).start()
            self._stage.keep(self.authority.process)
            self._stage.keep(self.authority.answers)
        return self.authority

    def close(self) -> None:
        """Leave the database and the coordinator's API."""
        self.coordinator.close()
        self._loop.run(self._database.close())
        self._loop.close()

    def begin(self, program: Program | None = None, point: str = "") -> None:
        """Start everything for the first time, one program armed if so wanted, and wait until the agent is known."""
        self.sites.start()
        self._begin(self.coordinator.process, point if program == "coordinator" else "")
        self.wait("the coordinator is ready", self.is_ready)
        self.api = self.coordinator.api()
        token = self.patiently(lambda: str(self.api.post("/api/v1/enrollment-tokens", {})["token"]))
        extra = {"CERTCTL_AGENT_BOOTSTRAP_TOKEN": token, "CERTCTL_DRIFT_INTERVAL": "0s"}
        policy = self.sites.policy() + f'\n[challenges]\nhttp = "127.0.0.1:{self.http_port}"\n'
        policy += (
            f'[perspective]\nenabled = true\nallowed_networks = ["{ANSWERS_IN}"]\nhttp_port = {self.answers_port}\n'
        )
        self.agent = Agent("edge", self._stage.folder / "agent", self.coordinator, policy, extra)
        self._stage.keep(self.agent.process)
        self._begin(self.agent.process, point if program == "agent" else "")
        self.wait("the agent is enrolled", lambda: bool(self.agent.agent_id))
        self.root_pem = self.patiently(lambda: issuing_root(self.coordinator))

    def _begin(self, process: Process, point: str) -> None:
        if point:
            self.arm(process, point)
        else:
            process.start()

    def arm(self, process: Process, point: str) -> None:
        """Let a program start, or start anew, with a crash point that ends it."""
        if self._armed is not process:
            self.disarm()
        process.kill()
        process.set_variable("CERTCTL_CRASH_POINT", point)
        self._armed, self.deaths = process, 0
        self._resting = None if self._resting is process else self._resting
        process.start()

    def rest(self, process: Process) -> None:
        """Cut a program off until it is armed or woken."""
        process.kill()
        self._resting = process

    def wake(self, process: Process) -> None:
        """Start a program that was cut off, as it is."""
        self._resting = None
        process.start()

    def disarm(self) -> None:
        """Start the armed program once more without its point, when it has not come to it."""
        if self._armed is not None:
            self._armed.kill()
            self._armed.set_variable("CERTCTL_CRASH_POINT", None)
            if self._armed is not self._resting:
                self._armed.start()
            self._armed = None

    def revive(self) -> None:
        """Start the armed program again when it has died; complain of every other end."""
        for process in self._stage.processes:
            code = process.returncode()
            if code is None or process is self._resting:
                continue
            if process is not self._armed or code != KILLED:
                message = f"{process.name} ended with {code}:\n{process.tail()}"
                raise AssertionError(message)
            self.deaths += 1
            process.set_variable("CERTCTL_CRASH_POINT", None)
            self._armed = None
            process.start()

    def wait(self, what: str, done: Callable[[], bool], deadline_s: float = PATIENCE_S) -> None:
        """Wait until ``done``, without any help but ``revive``."""
        deadline = time.monotonic() + deadline_s
        while True:
            self.revive()
            with contextlib.suppress(OSError, httpx.TransportError):
                if done():
                    return
            if time.monotonic() > deadline:
                message = f"{what}: not within {deadline_s:.0f} s"
                raise AssertionError(message)
            time.sleep(_PAUSE_S)

    def patiently(self, call: Callable[[], str], stored: Callable[[], str] = str) -> str:
        """Ask the coordinator as a careful client does: when no answer comes, look what was stored before repeating."""
        answer: list[str] = []

        def asked() -> bool:
            try:
                answer.append(call())
            except httpx.TransportError:
                self.wait("the coordinator is back", self.is_ready)
                if (found := stored()) == "":
                    return False
                answer.append(found)
            return True

        self.wait("an answer of the coordinator", asked)
        return answer[0]

    def is_ready(self) -> bool:
        """Say whether the coordinator serves."""
        if not self.coordinator.ca_path.exists():
            return False
        context = ssl.create_default_context(cafile=self.coordinator.ca_path)
        return httpx.get(f"{self.coordinator.url}/ready", verify=context, timeout=5, trust_env=False).is_success

    def rows(self, sql: str, *args: object) -> list[dict[str, driver.Value]]:
        """Return what a statement finds in the database."""
        return [dict(row.items()) for row in self._loop.run(self._database.fetch(sql, *args))]

    def signatures(self, jobs: Collection[str]) -> list[dict[str, str]]:
        """Return what every start of the coordinator told of its signatures for these jobs."""
        with self.coordinator.process.log.open(encoding="utf-8") as lines:
            told = [json.loads(line) for line in lines if '"certificate_signed"' in line]
        return [line for line in told if line["job_id"] in jobs]

    def value(self, sql: str, *args: object) -> driver.Value:
        """Return the one value that a statement finds."""
        ((value,),) = (row.values() for row in self.rows(sql, *args))
        return value


@contextlib.contextmanager
def lane(folder: Path, dsn: str) -> Iterator[Lane]:
    """Lend a lane in a folder of its own; it has to be begun. An error takes with it what the programs said last."""
    stage = Stage(folder / f"lane-{next(_NUMBERS)}")
    try:
        with stopped_at_the_end(stage.processes), contextlib.closing(Lane(stage, dsn)) as made:
            yield made
    except BaseException as error:
        for process in stage.processes:
            error.add_note(f"--- {process.name}\n{process.tail(25)}")
        raise
