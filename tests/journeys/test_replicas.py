"""Three coordinators on one PostgreSQL behind a load balancer: they act as one, and are replaced one by one."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from benchmarks.lab.balancer import balancer
from benchmarks.lab.fleet import API, Agent, Coordinator
from benchmarks.lab.processes import free_ports, wait_until
from benchmarks.lab.servers import Nginx
from tests.journeys.stage import SERVED_S, Journey, Stage, playing
from tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(240)
REPLICAS = 3
NET_S = 20.0
"""How often a coordinator looks for work whose wake-up was lost; what arrives much sooner came by a wake-up."""
SITES = [f"s{number}.example.test" for number in range(6)]


class Platform:
    """Coordinators, the balancer in front of them, and what agents take for their one coordinator."""

    def __init__(self, stage: Stage, database_url: str) -> None:
        (port,) = free_ports(1)
        self.url = f"https://127.0.0.1:{port}"
        env = {
            "CERTCTL_DATABASE_URL": database_url,
            "CERTCTL_CONFIG_ENCRYPTION_KEY": secrets.token_urlsafe(48),
            "CERTCTL_SERVER_URL": self.url,
        }
        self.replicas = [stage.coordinator(f"coordinator-{number}", **env) for number in range(REPLICAS)]
        servers = {replica.folder.name: replica.url.removeprefix("https://") for replica in self.replicas}
        self.balancer = stage.keep(balancer(stage.folder, f"127.0.0.1:{port}", servers))
        self.balancer.start()
        self.key = (self.replicas[0].data_dir / "admin.key").read_text().strip()
        self.balancer.await_ready(self.is_ready)

    @property
    def ca_path(self) -> Path:
        """Return the root of all of them."""
        return self.replicas[0].ca_path

    def is_ready(self) -> bool:
        """Say whether somebody answers behind the balancer."""
        try:
            with self.api() as api:
                return bool(api.get("/ready"))
        except httpx.HTTPError:
            return False

    def enrollment_token(self) -> str:
        """Make a one-time token."""
        return str(self.replicas[1].api(self.key).post("/api/v1/enrollment-tokens", {})["token"])

    def api(self) -> API:
        """Return a client that asks through the balancer, each time on a new connection, as scripts do."""
        api = API(self.url, self.key, self.ca_path)
        api.http.headers["Connection"] = "close"
        return api


class Web(NamedTuple):
    """An nginx with a certificate for each site, all served; certificate ids by site."""

    platform: Platform
    journey: Journey
    server: Nginx
    wanted: dict[str, str]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[Web]:
    with postgres_server.fresh_database(migrated=False) as dsn, playing(tmp_path_factory.mktemp("replicas")) as stage:
        platform = Platform(stage, dsn)
        server = stage.nginx("web", *SITES)
        agent: Agent = stage.agent("edge", platform, server.policy())
        journey = Journey(platform.replicas[0])
        wanted = {site: journey.want(site, journey.target(agent, server, site)) for site in SITES}
        for certificate_id in wanted.values():
            journey.settled(certificate_id)
        yield Web(platform, journey, server, wanted)


def test_what_one_replica_queues_an_agent_of_another_does_at_once(web: Web) -> None:
    """Wherever the agent waits, two of three renewals are asked for elsewhere."""
    journey, server = web.journey, web.server
    site, certificate_id = next(iter(web.wanted.items()))
    took = []
    for replica in web.platform.replicas:
        api = replica.api(web.platform.key)
        before, asked = journey.served(server, site), time.monotonic()
        api.post(f"/api/v1/certificates/{certificate_id}/renew")
        journey.served(server, site, instead_of=before)
        took.append(time.monotonic() - asked)
        journey.settled(certificate_id)
    assert max(took) < NET_S / 4, took


class Visitor(threading.Thread):
    """Asks for renewals without a pause until it is told to stop; keeps what was accepted and what went wrong."""

    def __init__(self, platform: Platform, certificate_ids: list[str]) -> None:
        super().__init__()
        self.accepted: dict[str, set[str]] = {certificate_id: set() for certificate_id in certificate_ids}
        self.problems: list[str] = []
        self.over = threading.Event()
        self._platform = platform

    def run(self) -> None:
        """Ask."""
        with self._platform.api() as api:
            while not self.over.is_set():
                for certificate_id, runs in self.accepted.items():
                    try:
                        runs.add(api.post(f"/api/v1/certificates/{certificate_id}/renew")["run_id"])
                    except Exception as error:  # noqa: BLE001 - whatever it is, the test tells it
                        self.problems.append(f"{type(error).__name__}: {error}")
                    self.over.wait(0.05)


class Editor(threading.Thread):
    """Makes, changes and replaces teams and owners without a pause, and keeps what it was told that they are."""

    def __init__(self, platform: Platform) -> None:
        super().__init__()
        self.answered: dict[str, dict[str, object]] = {}
        self.problems: list[str] = []
        self.over = threading.Event()
        self._platform = platform

    def run(self) -> None:
        """Edit: each thing is made under an Idempotency-Key and changed under its tag."""
        with self._platform.api() as api:
            number = 0
            while not self.over.is_set():
                number += 1
                try:
                    self._round(api.http, number)
                except Exception as error:  # noqa: BLE001 - whatever it is, the test tells it
                    self.problems.append(f"{type(error).__name__}: {error}")

    def _round(self, http: httpx.Client, number: int) -> None:
        for kind, more in (("teams", {}), ("owners", {"email": "ada@example.com"})):
            body = {"name": f"{kind} {number}", **more}
            made = self._answer(
                http.post(f"/api/v1/{kind}", json=body, headers={"Idempotency-Key": f"{kind}-{number}"})
            )
            path = f"/api/v1/{kind}/{made['id']}"
            self._answer(http.patch(path, json={"name": f"{body['name']} patched"}, headers={"If-Match": '"1"'}), path)
            self._answer(
                http.put(path, json={**body, "name": f"{body['name']} put"}, headers={"If-Match": '"2"'}), path
            )
        self.over.wait(0.05)

    def _answer(self, response: httpx.Response, path: str = "") -> dict[str, object]:
        assert response.is_success, f"{response.request.method} {response.request.url}: {response.text}"
        found: dict[str, object] = response.json()
        if path:
            self.answered[path] = found
        return found


def _replace(replica: Coordinator, platform: Platform) -> None:
    """Stop one politely and start it again, and wait until the balancer has it back."""
    assert replica.process.stop() == 0
    replica.start()
    server, log = f"certctl/{replica.folder.name}", platform.balancer.log
    wait_until(
        f"{server} is back behind the balancer",
        lambda: (told := log.read_text()).rfind(f"{server} is UP") >= told.rfind(f"{server} is DOWN"),
    )


def test_a_rolling_restart_refuses_nobody_and_loses_nothing(web: Web) -> None:
    """Each replica is replaced while renewals are asked for; every run that was promised ends with a served version."""
    before = {certificate_id: len(web.journey.versions(certificate_id)) for certificate_id in web.wanted.values()}
    visitor, editor = Visitor(web.platform, list(before)), Editor(web.platform)
    visitor.start()
    editor.start()
    try:
        for replica in web.platform.replicas:
            _replace(replica, web.platform)
    finally:
        for each in (visitor, editor):
            each.over.set()
            each.join()
    assert visitor.problems + editor.problems == []
    assert len(editor.answered) > 10
    for path, told in editor.answered.items():
        assert web.journey.api.get(path) == told, "what was answered is there"
    for site, certificate_id in web.wanted.items():
        web.journey.settled(certificate_id, 2 * SERVED_S)
        versions, runs = web.journey.versions(certificate_id), visitor.accepted[certificate_id]
        assert len(runs) > 1
        # Each run has its version, and none has two.
        generations = [version["generation"] for version in versions]
        assert generations == list(range(before[certificate_id] + len(runs), 0, -1))
        assert web.journey.served(web.server, site).fingerprint == versions[0]["fingerprint"]
