"""Web servers that hand challenges on to the agent of their host, configured as docs/acme-issuer.md shows it.

One coordinator, agent and authority are shared; the web servers have the authority's ports one after another.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from benchmarks.lab.fleet import Agent
from benchmarks.lab.processes import REPOSITORY, Process, free_ports, wait_until
from benchmarks.lab.servers import Nginx, find_nginx
from benchmarks.lab.wire import look
from tests.connectors.issuers.acme.pebble import Pebble
from tests.journeys.stage import Journey, playing
from tests.journeys.test_acme_issuer import SITE, Visits, add_issuer

pytestmark = pytest.mark.timeout(120)
PAGE = (REPOSITORY / "docs" / "acme-issuer.md").read_text(encoding="utf-8")
ENOUGH = 10
"""Visits, most of them while a certificate is obtained."""
CHALLENGES = "/.well-known/acme-challenge/"
APACHE_MODULES = "".join(
    f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"
    for name in ("mpm_event", "authz_core", "alias", "proxy", "proxy_http")
)


class Program(NamedTuple):
    """A web server: what the page calls its language, and what has to stand around that."""

    language: str
    argv: Sequence[str]
    around: str

    def process(self, folder: Path, ports: Mapping[str, int]) -> Process:
        """Write its configuration."""
        folder.mkdir(exist_ok=True)
        config = folder / "config"
        place = {"folder": str(folder), "port": str(ports["80"]), "config": str(config)}
        config.write_text(self.around.format(**place, shown=shown(self.language, ports)))
        return Process(self.language, [word.format(**place) for word in self.argv], folder / "server.log")


NGINX = Program(
    "nginx",
    [str(find_nginx()), "-e", "{folder}/error.log", "-g", "daemon off;", "-c", "{config}"],
    "pid {folder}/pid;\nevents {{}}\nhttp {{\n  access_log off;\n  proxy_temp_path {folder}/proxy;\n{shown}}}\n",
)
APACHE = Program(
    "apache",
    ["/usr/sbin/apache2", "-D", "FOREGROUND", "-f", "{config}"],
    APACHE_MODULES + "User www-data\nGroup www-data\nServerName localhost\nDefaultRuntimeDir {folder}\n"
    "PidFile {folder}/pid\nErrorLog {folder}/error.log\nListen 127.0.0.1:{port}\n{shown}",
)
HAPROXY = Program(
    "haproxy",
    ["/usr/sbin/haproxy", "-db", "-f", "{config}"],
    "defaults\n  timeout client 30s\n  timeout connect 1s\n  timeout server 30s\n\n{shown}",
)
CADDY = Program(
    "caddyfile",
    [str(shutil.which("caddy")), "run", "--config", "{config}", "--adapter", "caddyfile"],
    "{{\n  admin off\n  auto_https off\n  default_bind 127.0.0.1\n  http_port {port}\n}}\n{shown}",
)


def shown(language: str, ports: Mapping[str, int]) -> str:
    """Return all that the page shows in a language, with other ports, on this host alone, and for another name."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert blocks, f"the page shows nothing in {language}"
    text = "\n".join(blocks).replace("example.com", "example.test")
    return re.sub(
        r"(?:127\.0\.0\.1:|\*:|(?<=bind ):|(?<=listen ))(\d+)", lambda found: f"127.0.0.1:{ports[found[1]]}", text
    )


@dataclass(frozen=True)
class Street:
    """A host with an agent, a server for TLS and the ports that it has for those of the page."""

    folder: Path
    journey: Journey
    agent: Agent
    shop: Nginx
    ports: Mapping[str, int]

    @contextmanager
    def served_by(self, program: Program) -> Iterator[None]:
        """Let a web server have the authority's ports."""
        process = program.process(self.folder / program.language, self.ports)
        try:
            process.start()
            process.await_ready(self.redirects)
            yield
        finally:
            process.stop()

    def redirects(self) -> bool:
        """Say whether a visitor is sent to HTTPS."""
        try:
            answer = self.get("/hats")
        except httpx.HTTPError:
            return False
        return (answer.status_code, answer.headers.get("Location")) == (301, f"https://{SITE}/hats")

    def get(self, path: str) -> httpx.Response:
        """Ask on port 80."""
        url = f"http://127.0.0.1:{self.ports['80']}{path}"
        return httpx.get(url, headers={"Host": SITE}, trust_env=False, timeout=5)

    def obtain(self, challenge_type: str) -> None:
        """Have a certificate issued, and see that the agent has shown what it took."""
        profile = f"prof-{challenge_type}"
        certificate_id = self.journey.want(SITE, agent_id=self.agent.agent_id, profile_id=profile)
        wait_until("the certificate is there", lambda: self.journey.versions(certificate_id) != [], 40)
        (order,) = self.journey.api.get("/api/v1/issuer-orders", certificate_id=certificate_id)["data"]
        (challenge,) = order["challenges"]
        told = challenge["type"], challenge["agent_id"], challenge["verdict"]["status"]
        assert told == (challenge_type, self.agent.agent_id, "valid")


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    """Start what is shared; the agent's own configuration is the page's, too."""
    folder = tmp_path_factory.mktemp("street")
    folder.chmod(0o755)
    web, *agents = free_ports(3)
    authority = Pebble(folder / "pebble", httpPort=web)
    with playing(folder) as stage:
        stage.processes += [authority.process, authority.answers]
        authority.start()
        shop, coordinator = stage.nginx("shop", SITE), stage.coordinator()
        ports = {"80": web, "443": authority.tls, "8402": agents[0], "8403": agents[1], "8443": shop.port}
        agent = stage.agent("edge", coordinator, shown("toml", ports))
        journey = Journey(coordinator)
        for kind in ("http-01", "tls-alpn-01"):
            add_issuer(journey, authority.directory_url, authority.root, kind, challenge_type=kind)
        yield Street(folder, journey, agent, shop, ports)


@pytest.mark.parametrize("program", [NGINX, APACHE, HAPROXY, CADDY], ids=lambda program: program.language)
def test_challenges_come_through_port_80_which_goes_on_serving(street: Street, program: Program) -> None:
    """Also right after somebody has asked for one while the agent did not listen."""
    with street.served_by(program), Visits(street.redirects) as visits:
        assert street.get(f"{CHALLENGES}nobody-knows").status_code in {502, 503}
        street.obtain("http-01")
        wait_until("visitors have come and gone", lambda: visits.count > ENOUGH)
    assert visits.failed == 0


def test_challenges_come_through_port_443_which_goes_on_serving(street: Street) -> None:
    """HAProxy looks at the first message alone: visitors speak TLS with the shop itself."""
    placeholder = look(street.shop.port, SITE)
    assert placeholder is not None
    with street.served_by(HAPROXY), Visits(lambda: look(street.ports["443"], SITE) == placeholder) as visits:
        street.obtain("tls-alpn-01")
        wait_until("visitors have come and gone", lambda: visits.count > ENOUGH)
    assert visits.failed == 0
