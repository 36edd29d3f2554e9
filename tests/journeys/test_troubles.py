"""Bad days: databases, networks, ports and processes that go away at the worst moment, and who notices what."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path

import pytest

from benchmarks.lab.fleet import Agent, APIError, Coordinator
from benchmarks.lab.postgres import PASSWORD, OwnPostgres
from benchmarks.lab.processes import free_ports, wait_until
from benchmarks.lab.servers import Nginx
from benchmarks.lab.wire import Seen, look
from tests.journeys.stage import Journey, Stage, pair_is_consistent, still

pytestmark = pytest.mark.timeout(180)
SITE = "shop.example.test"
KILLED = -signal.SIGKILL


class Road:
    """One coordinator, one agent, one nginx and one certificate that is served."""

    def __init__(self, stage: Stage, database_url: str) -> None:
        self.coordinator: Coordinator = stage.coordinator(CERTCTL_DATABASE_URL=database_url)
        self.server: Nginx = stage.nginx("web", SITE)
        self.agent: Agent = stage.agent("edge", self.coordinator, self.server.policy())
        self.journey = Journey(self.coordinator)
        self.certificate_id = self.journey.want(SITE, self.journey.target(self.agent, self.server, SITE))
        self.seen: Seen = self.journey.served(self.server, SITE)
        self.requests = 1
        self.journey.settled(self.certificate_id)

    def renew(self) -> None:
        """Ask for a renewal."""
        self.journey.renew(self.certificate_id)
        self.requests += 1

    def arrives(self) -> None:
        """See the newest certificate served, one version for each request, and a pair that belongs together."""
        self.seen = self.journey.served(self.server, SITE, instead_of=self.seen)
        self.journey.settled(self.certificate_id)
        versions = self.journey.versions(self.certificate_id)
        assert [version["generation"] for version in versions] == list(range(self.requests, 0, -1))
        assert versions[0]["fingerprint"] == self.seen.fingerprint
        assert len({version["serial"] for version in versions}) == self.requests
        assert pair_is_consistent(self.server, SITE)
        assert list(self.agent.state_dir.glob("journal/*")) == []


@pytest.fixture
def road(stage: Stage, empty_database_url: str) -> Road:
    """Everything runs and is served, before the trouble begins."""
    return Road(stage, empty_database_url)


def _refused_start(stage: Stage, **env: str) -> str:
    """Start a coordinator that shall not start; return what it says."""
    coordinator = Coordinator(stage.folder / "refused", env)
    stage.keep(coordinator.process)
    coordinator.process.start()
    assert coordinator.process.wait(40) == 2
    said = coordinator.process.log.read_text()
    assert "Traceback" not in said
    return said


def test_a_database_that_is_away_at_the_start(stage: Stage) -> None:
    """The coordinator says which variable names the server that does not answer, and never its password."""
    (port,) = free_ports(1)
    url = f"postgresql://certctl:{PASSWORD}@127.0.0.1:{port}/certctl"
    said = _refused_start(stage, CERTCTL_DATABASE_URL=url)
    assert "CERTCTL_DATABASE_URL" in said
    assert f"127.0.0.1:{port}" in said
    assert PASSWORD not in said


@pytest.mark.parametrize(
    "variable,named",
    [
        ("CERTCTL_SERVER_PORT", "CERTCTL_SERVER_PORT"),
        ("CERTCTL_PKI_PORT", "CERTCTL_PKI_PORT"),
        ("CERTCTL_METRICS_LISTEN", "CERTCTL_METRICS_LISTEN"),
    ],
)
def test_a_port_that_is_taken(stage: Stage, variable: str, named: str) -> None:
    """Said at once, before a database is made."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        value = f"127.0.0.1:{port}" if "LISTEN" in variable else str(port)
        said = _refused_start(stage, **{variable: value})
    assert named in said
    assert f"127.0.0.1:{port}" in said
    assert not (stage.folder / "refused" / "data").exists()


def test_a_data_folder_that_cannot_be_written(stage: Stage) -> None:
    """Named with its variable; /proc takes no files, not even root's."""
    said = _refused_start(stage, CERTCTL_DATA_DIR="/proc/certctl")
    assert "CERTCTL_DATA_DIR: /proc/certctl cannot be written to" in said


def test_a_database_that_goes_away_for_a_while(stage: Stage, tmp_path: Path) -> None:
    """Callers hear 503 with a cause, the process stays healthy, and all goes on by itself when the database is back.

    A renewal that was accepted just before is done; the coordinator and the agent are the same processes as before.
    """
    database = OwnPostgres(tmp_path / "database")
    stage.keep(database.process)
    road = Road(stage, database.start().url)
    pids = road.coordinator.process.pid, road.agent.process.pid
    road.agent.process.signal(signal.SIGSTOP)
    road.renew()
    database.process.stop()
    with pytest.raises(APIError) as told:
        road.journey.api.get("/api/v1/certificates")
    assert told.value.status == 503
    assert told.value.problem["type"] == "urn:certctl:problem:transient"
    assert PASSWORD not in str(told.value.problem)
    assert road.journey.api.get("/health") == {"status": "healthy", "warnings": []}
    with pytest.raises(APIError) as not_ready:
        road.journey.api.get("/ready")
    assert not_ready.value.status == 503
    road.agent.process.signal(signal.SIGCONT)
    log = road.agent.process.log
    wait_until("the agent notices", lambda: "_failed" in log.read_text())
    still(road.server, SITE, road.seen)

    database.start()
    road.arrives()
    assert (road.coordinator.process.pid, road.agent.process.pid) == pids
    assert PASSWORD not in road.coordinator.process.log.read_text()


def test_an_agent_whose_coordinator_is_away(stage: Stage, road: Road) -> None:
    """A deployment ends while the coordinator is down; its report arrives when it is back, by itself."""
    entered, go_on = stage.folder / "entered", stage.folder / "go-on"
    road.agent.process.stop()
    config = Path(road.agent.env["CERTCTL_AGENT_CONFIG"])
    reload = f"exec {road.server.process.argv[0]} -s reload -c {road.server.config}"
    script = f"touch {entered}; until test -e {go_on}; do sleep 0.02; done; {reload}"
    config.write_text(
        f"{road.server.policy()}reload_action = 'slow'\n[actions.slow]\nargv = ['/bin/sh', '-c', '{script}']\n"
    )
    road.agent.start()
    road.renew()
    wait_until("the reload begins", entered.exists)
    assert road.coordinator.process.stop() == 0
    go_on.touch()
    wait_until("the new certificate is served", lambda: _differs(road))
    log = road.agent.process.log
    wait_until("the agent has nobody to tell", lambda: '"call": "report"' in log.read_text())

    pid = road.agent.process.pid
    road.coordinator.start()
    road.arrives()
    assert road.agent.process.pid == pid
    run = road.journey.api.get("/api/v1/jobs", certificate_id=road.certificate_id)["data"]
    assert [job["state"] for job in run] == ["Completed"] * 4
    road.renew()
    road.arrives()


def _differs(road: Road) -> bool:
    seen = look(road.server.port, SITE)
    return seen is not None and seen.fingerprint != road.seen.fingerprint


def test_a_coordinator_killed_in_the_middle_of_an_issuance(road: Road) -> None:
    """A power cut after the intent, after the signature, and after the version was stored.

    Each time it starts again with what its database holds, and the one request ends in exactly one version, served.
    """
    for point in ("issuance.intent", "issuance.signed", "issuance.stored"):
        assert road.coordinator.process.stop() == 0
        road.coordinator.process.set_variable("CERTCTL_CRASH_POINT", point)
        road.coordinator.start()
        road.renew()
        assert road.coordinator.process.wait(30) == KILLED, point
        still(road.server, SITE, road.seen)
        road.coordinator.process.set_variable("CERTCTL_CRASH_POINT", None)
        road.coordinator.start()
        road.arrives()
        wait_until("the agent has its answer", lambda: not list(road.agent.state_dir.glob("keys/*/*.request")))


AGENT_POINTS = (
    "work.received",
    "keystore.key_written",
    "keystore.request_written",
    "keystore.chain_written",
    "deploy.journaled",
    "deploy.published",
    "deploy.reloaded",
    "deploy.settled",
    "work.reporting",
)


def test_an_agent_killed_in_the_middle_of_its_work(road: Road) -> None:
    """A power cut at every step between the work item and the report; a handshake works at any time in between.

    Each time the same agent comes back, and the one request ends in exactly one version, served, its pair consistent.
    """
    for point in AGENT_POINTS:
        assert road.agent.process.stop() == 0
        road.agent.process.set_variable("CERTCTL_CRASH_POINT", point)
        road.agent.start()
        road.renew()
        assert road.agent.process.wait(60) == KILLED, point
        assert look(road.server.port, SITE) is not None
        road.agent.process.set_variable("CERTCTL_CRASH_POINT", None)
        road.agent.start()
        road.arrives()
    assert re.search("deployment_repaired|undone", road.agent.process.log.read_text())
