"""The real side: two coordinators on one PostgreSQL, asked in turn by certbot's library, and who shows challenges.

The library's requests go through its own session and enter the applications directly. Challenges are shown by the
library's own web server and by Let's Encrypt's test server for DNS, which names everything 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
import requests
from acme import challenges
from acme.standalone import HTTP01RequestHandler, HTTP01Server
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from benchmarks.lab.processes import Process, free_ports
from tests.coordinator.world import World, open_world, variables
from tests.postgres import PostgresServer

T = TypeVar("T")
BOUND, OPEN, PROVED = "prof-default", "prof-open", "prof-proved"
"""Directories: of accounts that are bound, of any account, and of any account with challenges."""
URN = "urn:ietf:params:acme:error:"
_LIFE_S = 30 * 86_400


class Stage:
    """Both coordinators, and the means to ask them."""

    def __init__(self, runner: asyncio.Runner, worlds: list[World], shown: Shown) -> None:
        self.runner = runner
        self.worlds = worlds
        self.shown = shown
        self.session = requests.Session()
        self.session.mount("https://", Entrance(self))
        self._turns = itertools.cycle(worlds)
        self.posted = "", b""

    @property
    def url(self) -> str:
        """Return where both are."""
        return self.worlds[0].ctx.settings.url

    def run(self, work: Awaitable[T]) -> T:
        """Do something in the coordinators' loop, which stands still otherwise."""
        return self.runner.run(_awaited(work))

    def send(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
        """Let a request enter the coordinator whose turn it is."""
        world = next(self._turns)
        return self.run(
            world.http.request(method, url.removeprefix(self.url), content=body, headers=dict(headers), timeout=None)
        )

    def work(self) -> None:
        """Give the coordinators a moment for what they do beside requests."""
        self.run(asyncio.sleep(0.005))

    def bind(self, **wish: Any) -> tuple[str, str]:
        """Make a key of an external account; return its identifier and the MAC key."""
        made = self.run(self.worlds[0].post("/api/v1/acme-eab-keys", {"name": "of the oracle", **wish}))
        return made["id"], made["hmac_key"]

    def inventory(self) -> dict[str, bool]:
        """Return whether each certificate was revoked, by its serial number."""
        sql = "SELECT serial, revoked_at IS NOT NULL AS revoked FROM certificate_versions"
        return {row["serial"]: row["revoked"] for row in self.run(self.worlds[0].rows(sql))}

    def root(self) -> bytes:
        """Return the root that relying parties trust, in DER."""
        return self.run(self.worlds[1].pki.get("/.well-known/pki/ca/iss-local")).content


async def _awaited(work: Awaitable[T]) -> T:
    async with asyncio.timeout(30):
        return await work


class Entrance(BaseAdapter):
    """What the library's session sends by; remembers the last signed request."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """Send one request."""
        body = request.body.encode() if isinstance(request.body, str) else bytes(request.body or b"")  # type: ignore[arg-type]  # no stream
        assert request.method is not None
        assert request.url is not None
        if request.method == "POST":
            self.stage.posted = request.url, body
        found = self.stage.send(request.method, request.url, body, {str(k): str(v) for k, v in request.headers.items()})
        answer = requests.Response()
        answer.status_code = found.status_code
        answer.headers = CaseInsensitiveDict(found.headers.items())
        answer._content = found.content
        answer.url = request.url
        answer.request = request
        return answer

    def close(self) -> None:
        """Leave the applications open."""


class Shown:
    """Where challenges are shown."""

    def __init__(self, dns_port: int, manage_port: int, http_port: int) -> None:
        self.dns_port, self.http_port = dns_port, http_port
        self._manage = f"http://127.0.0.1:{manage_port}"
        self.pages: set[HTTP01RequestHandler.HTTP01Resource] = set()

    def show(self, challenge: challenges.Challenge, name: str, response: Any, validation: str) -> None:
        """Show the answer to a challenge, as the library makes it."""
        if isinstance(challenge, challenges.HTTP01):
            self.pages.add(HTTP01RequestHandler.HTTP01Resource(challenge, response, validation))
        else:
            assert isinstance(challenge, challenges.DNS01)
            self.record(challenge.validation_domain_name(name), validation)

    def record(self, name: str, text: str) -> None:
        """Write a TXT record."""
        httpx.post(f"{self._manage}/set-txt", json={"host": f"{name}.", "value": text}).raise_for_status()


@contextlib.contextmanager
def showing(folder: Path) -> Iterator[Shown]:
    """Run what challenges are shown by."""
    dns, manage = free_ports(2)
    argv = ["pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", f"127.0.0.1:{dns}"]
    argv += ["-http01", "", "-https01", "", "-tlsalpn01", "", "-management", f"127.0.0.1:{manage}"]
    process = Process("challtestsrv", argv, folder / "challtestsrv.log")
    pages: set[HTTP01RequestHandler.HTTP01Resource] = set()
    web = HTTP01Server(("127.0.0.1", 0), pages)
    shown = Shown(dns, manage, web.server_address[1])
    shown.pages = pages
    thread = threading.Thread(target=web.serve_forever, args=(0.05,))
    thread.start()
    try:
        process.start().await_ready(lambda: _answers(shown))
        yield shown
    finally:
        web.shutdown()
        web.server_close()
        thread.join()
        process.stop()


def _answers(shown: Shown) -> bool:
    with contextlib.suppress(httpx.TransportError):
        shown.record("ready.test", "yes")
        return True
    return False


@contextlib.contextmanager
def open_stage(server: PostgresServer, folder: Path) -> Iterator[Stage]:
    """Open both coordinators with their three directories on a new database."""
    with showing(folder) as shown, server.fresh_database() as dsn, asyncio.Runner() as runner:
        both = _two_coordinators(dsn, folder, shown)
        stage = Stage(runner, runner.run(both.__aenter__()), shown)
        try:
            common = {"max_lifetime_s": _LIFE_S, "acme_open_accounts": True}
            post = stage.worlds[0].post
            stage.run(post("/api/v1/profiles", {"id": OPEN, "name": "open", **common}))
            proved = {"id": PROVED, "name": "proved", "acme_auth_mode": "challenge", **common}
            stage.run(post("/api/v1/profiles", proved))
            yield stage
        finally:
            stage.session.close()
            runner.run(both.__aexit__(None, None, None))


@contextlib.asynccontextmanager
async def _two_coordinators(dsn: str, folder: Path, shown: Shown) -> AsyncIterator[list[World]]:
    unlimited = (
        "ORDERS_PER_HOUR",
        "SAME_NAMES_PER_HOUR",
        "CONCURRENT_ORDERS",
        "KEY_CHANGE_PER_HOUR",
        "CHALLENGE_RESPONDS_PER_HOUR",
    )
    on = {
        "CERTCTL_ACME_SERVER_ENABLED": "true",
        "CERTCTL_ACME_SERVER_DNS01_RESOLVER": f"127.0.0.1:{shown.dns_port}",
        "CERTCTL_ACME_SERVER_HTTP01_PORT": str(shown.http_port),
        "CERTCTL_ACME_SERVER_ALLOWED_NETWORKS": "127.0.0.0/8",
        **{f"CERTCTL_ACME_SERVER_RATE_LIMIT_{each}": "0" for each in unlimited},
    }
    async with (
        open_world(variables(dsn, folder / "one", **on)) as one,
        open_world(variables(dsn, folder / "two", **on)) as two,
    ):
        yield [one, two]


def until(done: Any, stage: Stage, deadline_s: float = 20.0) -> Any:
    """Return what ``done`` gives as soon as it gives something, while the coordinators work."""
    ends = time.monotonic() + deadline_s
    while (found := done()) is None:
        assert time.monotonic() < ends, "it takes too long"
        stage.work()
    return found
