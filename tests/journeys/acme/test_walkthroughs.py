"""docs/acme-walkthroughs.md, done as it says: servers that get certificates by themselves, and what they serve."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from benchmarks.lab.processes import Process
from benchmarks.lab.wire import verified
from tests.journeys.acme.certctl import BOUND, OPEN, CertctlServer, serving
from tests.journeys.acme.client import Setting
from tests.journeys.acme.ground import ground
from tests.journeys.acme.walkthrough import DIRECTORY, blocks, filled, limits
from tests.programs import TRAEFIK

pytestmark = pytest.mark.timeout(180)
SITE, ADDRESS = "www.shop.example.com", "127.2.0.1"
Words = Mapping[str, object]
PROFILES = pytest.mark.parametrize("profile_id", [BOUND, OPEN])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CertctlServer]:
    with ground(tmp_path_factory.mktemp("walkthroughs")) as below, serving(below) as server:
        server.point(SITE, ADDRESS)
        yield server


def setting_for(server: CertctlServer, profile_id: str) -> tuple[Setting, dict[str, object]]:
    """Return a setting with a new key, and what the page's own words stand for."""
    setting = replace(server.lend_bound(profile_id, **limits()), address=ADDRESS)
    assert setting.eab is not None
    values = {
        DIRECTORY: setting.directory_url,
        "/etc/certctl/ca.crt": setting.ca_bundle,
        "EAB_ID": setting.eab.kid,
        "EAB_HMAC_KEY": setting.eab.key,
    }
    return setting, values


def await_served(process: Process, server: CertctlServer, setting: Setting) -> None:
    """Wait until clients that trust certctl's root see the site, by its name and with its chain."""
    anchors = server.anchors_pem()

    def seen() -> bool:
        with contextlib.suppress(OSError):
            return bool(verified(setting.tls_port, SITE, anchors, host=setting.address))
        return False

    process.start()
    try:
        process.await_ready(seen, 75)
    finally:
        process.stop()


@PROFILES
def test_caddy(server: CertctlServer, profile_id: str, tmp_path: Path) -> None:
    setting, values = setting_for(server, profile_id)
    (text,) = blocks("Caddy")
    ports = f"admin off\n  http_port {setting.http_port}\n  https_port {setting.tls_port}"
    text = filled(text, {**values, "{\n  acme_ca ": f"{{\n  {ports}\n  default_bind {setting.address}\n  acme_ca "})
    (tmp_path / "Caddyfile").write_text(text)
    argv = ["caddy", "run", "--adapter", "caddyfile", "--config", str(tmp_path / "Caddyfile")]
    env = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_DATA_HOME": str(tmp_path / "data")}
    await_served(Process("caddy", argv, tmp_path / "caddy.log", env), server, setting)


@PROFILES
@pytest.mark.parametrize("challenge", ["httpChallenge: {entryPoint: web}", "tlsChallenge: {}"], ids=["http", "tls"])
def test_traefik(server: CertctlServer, profile_id: str, challenge: str, tmp_path: Path) -> None:
    setting, values = setting_for(server, profile_id)
    process = traefik(tmp_path, setting, {**values, "httpChallenge: {entryPoint: web}": challenge})
    await_served(process, server, setting)


def traefik(folder: Path, setting: Setting, values: Words, routed: Words = MappingProxyType({})) -> Process:
    """Write both files as the page has them."""
    static, routes = blocks("Traefik")
    places = {
        '":80"': f"{setting.address}:{setting.http_port}",
        '":443"': f"{setting.address}:{setting.tls_port}",
        "/etc/traefik/routes.yaml": folder / "routes.yaml",
        "/var/lib/traefik/acme.json": folder / "acme.json",
    }
    (folder / "traefik.yaml").write_text(filled(static, {**values, **places}))
    (folder / "routes.yaml").write_text(filled(routes, routed))
    return Process("traefik", [TRAEFIK, f"--configFile={folder / 'traefik.yaml'}"], folder / "traefik.log")


def test_the_key_of_the_page_is_for_its_names_alone(server: CertctlServer, tmp_path: Path) -> None:
    """So what was served above was asked for with that key."""
    setting, values = setting_for(server, BOUND)
    process = traefik(tmp_path, setting, values, {SITE: "www.example.com"})
    process.start()
    try:
        refusal = "www.example.com is not among the names that the external account key"
        process.await_ready(lambda: refusal in process.log.read_text(), 60)
    finally:
        process.stop()
