"""Controls: where it must not work it does not, and the driver says why in the client's own words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from tests.journeys.acme.client import Challenge, Client, ClientFailed
from tests.journeys.acme.clients.certbot import Certbot, NewCertbot
from tests.journeys.acme.clients.dehydrated import Dehydrated
from tests.journeys.acme.clients.lego import Lego
from tests.journeys.acme.clients.uacme import Uacme
from tests.journeys.acme.ground import ground
from tests.journeys.acme.pebble import NewPebble, PebbleServer, serving
from tests.journeys.acme.server import Server

_UNTRUSTED = r"(?i)certificate.verify.failed|unknown authority|curl returned with 60"


@contextmanager
def running(kind: type[PebbleServer], folder: Path) -> Iterator[Server]:
    with ground(folder) as below, serving(kind, below) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Debian's Pebble."""
    with running(PebbleServer, tmp_path_factory.mktemp("pebble")) as server:
        yield server


@pytest.mark.parametrize("kind", [Certbot, Dehydrated, Lego, Uacme], ids=lambda kind: kind.name)
def test_nobody_registers_without_the_external_account_that_is_asked_for(
    server: Server, kind: type[Client], tmp_path: Path
) -> None:
    """So a certificate from there shows that the binding was sent."""
    setting = server.lend(bound=True)
    server.point("controls.example.test", setting.address)
    with kind(tmp_path, replace(setting, eab=None)) as client, pytest.raises(ClientFailed, match=r"(?i)external"):
        client.issue(["controls.example.test"], Challenge.HTTP_01)


@pytest.mark.parametrize("kind", [Certbot, Dehydrated, Lego], ids=lambda kind: kind.name)
def test_nobody_talks_to_a_server_under_another_root(server: Server, kind: type[Client], tmp_path: Path) -> None:
    """So a certificate from there shows that its HTTPS was checked."""
    other = tmp_path / "other-root.pem"
    trustme.CA().cert_pem.write_to_path(other)
    setting = replace(server.lend(bound=False), ca_bundle=other)
    with kind(tmp_path, setting) as client, pytest.raises(ClientFailed, match=_UNTRUSTED):
        client.issue(["controls.example.test"], Challenge.HTTP_01)


def test_a_name_that_leads_elsewhere_is_not_certified(server: Server, tmp_path: Path) -> None:
    """So a certificate shows that the challenge was looked at, at the client's own address."""
    server.point("elsewhere.example.test", server.lend(bound=False).address)
    with Lego(tmp_path, server.lend(bound=False)) as client, pytest.raises(ClientFailed, match="refused"):
        client.issue(["elsewhere.example.test"], Challenge.HTTP_01)


@pytest.mark.parametrize("kind", [NewPebble] if NewPebble.installed() else [])
def test_renewal_information_that_names_a_later_time_renews_nothing(kind: type[PebbleServer], tmp_path: Path) -> None:
    """So a renewal after it was hastened shows that it was read."""
    with running(kind, tmp_path) as server:
        setting = server.lend(bound=False)
        server.point("later.example.test", setting.address)
        folder = tmp_path / "client"
        folder.mkdir()
        with NewCertbot(folder, setting) as client:
            client.issue(["later.example.test"], Challenge.HTTP_01)
            before = client.certificate()
            client.renew_if_told()
            assert client.certificate() == before
