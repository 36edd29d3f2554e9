"""Certificates from ACME authorities as the public has them: names are proved where they lead, by agents, or by DNS."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
import pytest

from benchmarks.lab.acmeservers import program, step_ca
from benchmarks.lab.processes import Process, free_ports, wait_until
from benchmarks.lab.servers import Nginx
from benchmarks.lab.wire import wait_for_change
from tests.connectors.issuers.acme.dns.bind import KEYS, Bind
from tests.connectors.issuers.acme.pebble import NEWER, Pebble
from tests.journeys.stage import Journey, Stage

pytestmark = pytest.mark.timeout(180)
SITE = "shop.example.test"
ISSUER, PROFILE = "iss-public", "prof-public"
ZONE = "@ IN NS ns\nns IN A 127.0.0.1\n* IN A 127.0.0.1\n"


class WebServer(Nginx):
    """An nginx that also has port 80, and hands challenges on to its host's agent, as docs/acme-issuer.md says."""

    http_port, agent_port = 0, 0

    def mend(self) -> None:
        super().mend()
        block = (
            f"  server {{\n    listen 127.0.0.1:{self.http_port};\n"
            f"    location /.well-known/acme-challenge/ {{ proxy_pass http://127.0.0.1:{self.agent_port}; }}\n"
            f'    location / {{ return 200 "the shop\\n"; }}\n  }}\n'
        )
        self.config.write_text(self.config.read_text().removesuffix("}\n") + block + "}\n")

    def greets(self) -> bool:
        """Say whether the start page is served."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.http_port}/", trust_env=False, timeout=5).text == "the shop\n"
        except httpx.HTTPError:
            return False


class Visits:
    """Somebody who comes all the time, and is served or not."""

    def __init__(self, served: Callable[[], bool]) -> None:
        self._served, self._over = served, threading.Event()
        self.count = self.failed = 0
        self._thread = threading.Thread(target=self._visit)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()

    def _visit(self) -> None:
        while not self._over.wait(0.05):
            self.count += 1
            self.failed += not self._served()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[list[Pebble]]:
    started: list[Pebble] = []
    yield started
    for each in started:
        each.stop()


def pebble(place: list[Pebble], folder: Path, **options: Any) -> Pebble:
    place.append(Pebble(folder, nonce_reject=90, program=NEWER if NEWER.exists() else None, **options).start())
    return place[-1]


def public(journey: Journey, authority: Pebble, **config: Any) -> None:
    """Add an issuer for Pebble, and a profile that takes it."""
    add_issuer(journey, authority.directory_url, authority.root, **config)


def add_issuer(journey: Journey, directory_url: str, root: str, name: str = "public", **config: Any) -> None:
    body = {
        "id": f"iss-{name}",
        "name": name,
        "type": "acme",
        "config": {
            "directory_url": directory_url,
            "email": "admin@example.test",
            "terms_agreed": True,
            "connection": {"ca_bundle": root},
            **config,
        },
    }
    journey.api.post("/api/v1/issuers", body)
    profile = {"id": f"prof-{name}", "name": name, "default_issuer_id": f"iss-{name}", "max_lifetime_s": 7776000}
    journey.api.post("/api/v1/profiles", profile)


def root_of(authority: Pebble) -> str:
    return authority.manage("roots/0").text


def web(stage: Stage, web_port: int, agent_port: int) -> WebServer:
    server = WebServer("web", stage.folder / "web", free_ports(1)[0], [SITE])
    server.http_port, server.agent_port = web_port, agent_port
    server.mend()
    stage.keep(server.process)
    server.start()
    return server


def test_a_site_is_proved_through_its_web_server_whose_port_80_goes_on_serving(
    stage: Stage, place: list[Pebble]
) -> None:
    web_port, agent_port = free_ports(2)
    authority = pebble(place, stage.folder / "pebble", httpPort=web_port)
    coordinator = stage.coordinator()
    server = web(stage, web_port, agent_port)
    agent = stage.agent("edge", coordinator, server.policy() + f'\n[challenges]\nhttp = "127.0.0.1:{agent_port}"\n')
    journey = Journey(coordinator)
    public(journey, authority)
    with Visits(server.greets) as visits:
        certificate_id = journey.want(SITE, journey.target(agent, server, SITE), profile_id=PROFILE)
        seen, _ = wait_for_change(server.port, SITE, "", root_pem=root_of(authority), deadline_s=60)
        journey.settled(certificate_id)
        journey.renew(certificate_id)
        wait_for_change(server.port, SITE, seen.fingerprint, root_pem=root_of(authority), deadline_s=60)
        journey.settled(certificate_id)
    assert visits.count > 5
    assert visits.failed == 0
    assert len(journey.versions(certificate_id)) == 2
    assert authority.asked("Issued certificate serial") == 2


def test_a_site_is_proved_by_tls_where_nothing_listens_but_the_agent(stage: Stage, place: list[Pebble]) -> None:
    authority = pebble(place, stage.folder / "pebble")
    coordinator, server = stage.coordinator(), stage.nginx("web", SITE)
    agent = stage.agent("edge", coordinator, server.policy() + f'\n[challenges]\ntls = "127.0.0.1:{authority.tls}"\n')
    journey = Journey(coordinator)
    public(journey, authority, challenge_type="tls-alpn-01")
    certificate_id = journey.want(SITE, journey.target(agent, server, SITE), profile_id=PROFILE)
    wait_for_change(server.port, SITE, "", root_pem=root_of(authority), deadline_s=60)
    journey.settled(certificate_id)
    wait_until("the port is closed again", lambda: not is_open(authority.tls), 10)
    (order,) = journey.api.get("/api/v1/issuer-orders", certificate_id=certificate_id)["data"]
    assert order["status"] == "issued"
    (challenge,) = order["challenges"]
    assert (challenge["type"], challenge["agent_id"], challenge["state"]) == ("tls-alpn-01", agent.agent_id, "gone")
    assert challenge["verdict"]["status"] == "valid"


def test_a_wildcard_is_proved_by_dynamic_update_of_a_name_server(stage: Stage, place: list[Pebble]) -> None:
    (dns_port,) = free_ports(1)
    bind = Bind(stage.folder / "bind", "127.0.0.1", dns_port, {"example.test": ZONE, ".": "@ IN NS ns.example.test.\n"})
    stage.keep(bind.process)
    bind.start()
    authority = pebble(place, stage.folder / "pebble", dns_server=f"127.0.0.1:{dns_port}")
    coordinator, server = stage.coordinator(), stage.nginx("web", SITE)
    agent = stage.agent("edge", coordinator, server.policy())
    journey = Journey(coordinator)
    update = {"server": "127.0.0.1", "port": dns_port, "key_name": "hmac-sha256", "key_secret": KEYS["hmac-sha256"]}
    lookup = {"nameservers": ["127.0.0.1"], "port": dns_port, "propagation_deadline_s": 20}
    public(journey, authority, challenge_type="dns-01", dns={"rfc2136": update, "lookup": lookup})
    target = journey.target(agent, server, SITE)
    certificate_id = journey.want("*.example.test", target, sans=["example.test"], profile_id=PROFILE)
    wait_for_change(server.port, SITE, "", root_pem=root_of(authority), deadline_s=60)
    journey.settled(certificate_id)
    wait_until("the records are gone", lambda: bind.records("_acme-challenge.example.test") == [], 10)
    shown = journey.api.get(f"/api/v1/issuers/{ISSUER}")
    assert shown["config"]["dns"]["rfc2136"]["key_secret"] == {"set": True}
    for log in (coordinator.process.log, agent.process.log):
        assert KEYS["hmac-sha256"] not in log.read_text()


def test_people_are_told_why_a_name_was_not_proved(stage: Stage, place: list[Pebble]) -> None:
    """Nobody hands the challenge on: the authority's own words are there, with what it asked for."""
    authority = pebble(place, stage.folder / "pebble")
    coordinator, server = stage.coordinator(), stage.nginx("web", SITE)
    (agent_port,) = free_ports(1)
    agent = stage.agent("edge", coordinator, server.policy() + f'\n[challenges]\nhttp = "127.0.0.1:{agent_port}"\n')
    journey = Journey(coordinator)
    public(journey, authority)
    certificate_id = journey.want(SITE, journey.target(agent, server, SITE), profile_id=PROFILE)

    def failed() -> list[Any]:
        orders = journey.api.get("/api/v1/issuer-orders", certificate_id=certificate_id, status="failed")
        return list(orders["data"])

    wait_until("an order has failed", lambda: failed() != [], 60)
    order = failed()[-1]
    (challenge,) = order["challenges"]
    assert challenge["asked"].startswith(f"http://{SITE}/.well-known/acme-challenge/")
    assert challenge["verdict"]["status"] == "invalid"
    assert challenge["problem"] != ""
    assert SITE in order["problem"]
    assert order["problem"] in journey.api.get(f"/api/v1/certificates/{certificate_id}")["status"]["reason"]
    assert journey.versions(certificate_id) == []


def of_step_ca(stage: Stage) -> None:
    """A short-lived certificate from step-ca, whose database and answers are its own; renewed on demand."""
    agent_port, dns_port, control = free_ports(3)
    argv = ["pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", f"127.0.0.1:{dns_port}"]
    argv += ["-http01", "", "-https01", "", "-tlsalpn01", "", "-management", f"127.0.0.1:{control}"]
    names = stage.keep(Process("challtestsrv", argv, stage.folder / "names.log"))
    names.start()
    with step_ca(stage.folder, Places(agent_port, dns_port)) as authority:
        coordinator, server = stage.coordinator(), stage.nginx("web", SITE)
        allowed = f'\n[challenges]\nhttp = "127.0.0.1:{agent_port}"\n'
        agent = stage.agent("edge", coordinator, server.policy() + allowed)
        ((directory_url, ca),) = authority.places
        journey, root = Journey(coordinator), ca.read_text()
        add_issuer(journey, directory_url, root)
        certificate_id = journey.want(SITE, journey.target(agent, server, SITE), profile_id=PROFILE)
        seen, _ = wait_for_change(server.port, SITE, "", root_pem=root, deadline_s=60)
        journey.settled(certificate_id)
        journey.renew(certificate_id)
        wait_for_change(server.port, SITE, seen.fingerprint, root_pem=root, deadline_s=60)
        journey.settled(certificate_id)
        assert len(journey.versions(certificate_id)) == 2


if program("step-ca") is not None:  # built by make peers-step-ca
    test_step_ca_issues_as_well = of_step_ca


class Places(NamedTuple):
    """Where an authority looks."""

    http_port: int
    dns_port: int


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
