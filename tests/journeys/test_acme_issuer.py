"""Certificates from a public authority's kind of ACME server: names are proved where they lead, by agents and by DNS."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.lab.processes import free_ports
from benchmarks.lab.servers import Nginx
from benchmarks.lab.wire import wait_for_change
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


class Visits:
    """Somebody who asks for the start page all the time."""

    def __init__(self, url: str) -> None:
        self._url, self._over = url, threading.Event()
        self.count = self.failed = 0
        self._thread = threading.Thread(target=self._visit)

    def __enter__(self) -> Visits:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()

    def _visit(self) -> None:
        while not self._over.wait(0.05):
            self.count += 1
            try:
                self.failed += httpx.get(self._url, trust_env=False, timeout=5).text != "the shop\n"
            except httpx.HTTPError:
                self.failed += 1


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
    """Add an issuer for the authority, and a profile that takes it."""
    body = {
        "id": ISSUER,
        "name": "public",
        "type": "acme",
        "config": {
            "directory_url": authority.directory_url,
            "email": "admin@example.test",
            "terms_agreed": True,
            "connection": {"ca_bundle": authority.root},
            **config,
        },
    }
    journey.api.post("/api/v1/issuers", body)
    journey.api.post(
        "/api/v1/profiles", {"id": PROFILE, "name": "public", "default_issuer_id": ISSUER, "max_lifetime_s": 7776000}
    )


def root_of(authority: Pebble) -> str:
    return authority.manage("roots/0").text


def web(stage: Stage, authority: Pebble, agent_port: int) -> WebServer:
    server = WebServer("web", stage.folder / "web", free_ports(1)[0], [SITE])
    server.http_port, server.agent_port = authority.web_port, agent_port
    server.mend()
    stage.keep(server.process)
    server.start()
    return server


def test_a_site_is_proved_through_its_web_server_whose_port_80_goes_on_serving(
    stage: Stage, place: list[Pebble]
) -> None:
    web_port, agent_port = free_ports(2)
    authority = pebble(place, stage.folder / "pebble", httpPort=web_port)
    authority.web_port = web_port
    coordinator = stage.coordinator()
    server = web(stage, authority, agent_port)
    agent = stage.agent("edge", coordinator, server.policy() + f'\n[challenges]\nhttp = "127.0.0.1:{agent_port}"\n')
    journey = Journey(coordinator)
    public(journey, authority)
    with Visits(f"http://127.0.0.1:{web_port}/") as visits:
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
