"""The coordinator is replaced by a newer version on the same database, while renewals are asked for all the time.

The newer one is this source tree with one migration more, run as a program of its own beside the old one, behind the
same address. It starts while the old one still has a request in hand.
"""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
from pathlib import Path

import pytest

from benchmarks.lab.fleet import API, Coordinator
from benchmarks.lab.processes import REPOSITORY, wait_until
from tests.journeys.faults.demand import Demand
from tests.journeys.faults.relay import Behind, Relay, relay_to
from tests.journeys.stage import Journey, Stage

pytestmark = pytest.mark.timeout(240)
SITES = tuple(f"shop-{number}.example.test" for number in range(3))
HEALED_S = 60.0
MIGRATION = "CREATE TABLE of_a_newer_version (id integer PRIMARY KEY);\nALTER TABLE jobs ADD COLUMN newer text;\n"


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """A source tree of a later version."""
    tree = tmp_path / "newer"
    for package in ("core", "connectors", "coordinator"):
        shutil.copytree(REPOSITORY / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    migrations = tree / "coordinator" / "database" / "migrations"
    number = len(list(migrations.glob("*.sql"))) + 1
    (migrations / f"{number:04}_of_a_newer_version.sql").write_text(MIGRATION)
    return tree


class HalfARequest:
    """A renewal whose caller is slow: its head has been sent, and its body comes later."""

    BODY = b"{}"

    def __init__(self, coordinator: Coordinator, key: str, certificate_id: str) -> None:
        context = ssl.create_default_context(cafile=coordinator.ca_path)
        raw = socket.create_connection(("127.0.0.1", port_of(coordinator)), timeout=60)
        self._tls = context.wrap_socket(raw, server_hostname="127.0.0.1")
        head = (
            f"POST /api/v1/certificates/{certificate_id}/renew HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {len(self.BODY)}\r\n"
            "Expect: 100-continue\r\n\r\n"
        )
        self._tls.sendall(head.encode())
        assert self._status() == 100, "the coordinator has it in hand, and waits for the rest"

    def finish(self) -> int:
        """Send the rest; return the status of the answer."""
        with self._tls:
            self._tls.sendall(self.BODY)
            return self._status()

    def _status(self) -> int:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = self._tls.recv(1)
            assert piece, "it hung up"
            head += piece
        return int(head.split()[1])


def port_of(coordinator: Coordinator) -> int:
    """Return where it listens."""
    return int(coordinator.url.rpartition(":")[2])


def test_a_newer_version_takes_over(empty_database_url: str, stage: Stage, newer: Path) -> None:
    """Renewals go on; the old one ends in order and answers what it had in hand, on the newer one's schema.

    Every renewal that was accepted makes one version, which is served; the agent is the old one, and was not restarted.
    """
    old = stage.coordinator(CERTCTL_DATABASE_URL=empty_database_url)
    with relay_to(port_of(old)) as relay:
        _take_over(stage, relay, old, newer)


def _take_over(stage: Stage, relay: Relay, old: Coordinator, newer: Path) -> None:
    journey, server, demand = Journey(old), stage.nginx("web", *SITES), Demand()
    agent = stage.agent("edge", Behind(relay, old), server.policy())
    pid = agent.process.pid
    certificates = {site: journey.want(site, journey.target(agent, server, site)) for site in SITES}
    for site, certificate_id in certificates.items():
        journey.served(server, site)
        journey.settled(certificate_id)
    key = (old.data_dir / "admin.key").read_text().strip()
    behind = Behind(relay, old)
    apis = [API(behind.url, key, old.ca_path) for _ in SITES]

    def some_are_accepted() -> None:
        before = demand.answers
        wait_until("renewals are accepted", lambda: demand.answers >= before + 5, HEALED_S)

    with demand.asking(apis, list(certificates.values())):
        some_are_accepted()
        half = HalfARequest(old, key, certificates[SITES[0]])
        old.process.signal(signal.SIGTERM)
        # The same folder, other ports: what replaces a coordinator finds its keys and its first admin there.
        newest = stage.coordinator(
            CERTCTL_DATABASE_URL=old.env["CERTCTL_DATABASE_URL"], PYTHONPATH=str(newer), PYTHONSAFEPATH="1"
        )
        assert old.process.running(), "it still has a request in hand"
        relay.lead_to(port_of(newest))
        some_are_accepted()
        for site in SITES:
            journey.served(server, site, deadline_s=5)
        assert half.finish() == 202
        assert old.process.wait(30) == 0
        some_are_accepted()
    for api in apis:
        api.close()
    demand.account(Journey(newest), server, certificates, HEALED_S)
    assert "of_a_newer_version" in newest.process.log.read_text()
    assert (agent.process.running(), agent.process.pid) == (True, pid)
    assert {refusal.status for refusal in demand.refusals} <= {503}
