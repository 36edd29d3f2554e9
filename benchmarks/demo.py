"""The demo: a coordinator, two agents and three TLS servers on this machine; all claims are checked over the network.

    python -m benchmarks.demo          runs on until Ctrl-C
    python -m benchmarks.demo --once   stops by itself; exit code 0 only when everything was seen on the wire

Nothing is left behind: processes end with the demo, its folder is removed.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import ssl
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from benchmarks.lab import acmehost
from benchmarks.lab.acmeclient import EAB
from benchmarks.lab.fleet import API, Agent, Coordinator
from benchmarks.lab.processes import REPOSITORY, Process, free_ports, stopped_at_the_end
from benchmarks.lab.servers import Nginx, Server, SmallServer, find_nginx
from benchmarks.lab.wire import Seen, look, wait_for_change

MINUTE, HOUR, DAY = 60, 3600, 86400
LIFETIMES = {
    "shop.example.test": 47 * DAY,
    "www.example.test": 47 * DAY,
    "api.example.test": 47 * DAY,
    "mail.example.test": 90 * DAY,
    "intranet.example.test": 365 * DAY,
    "bücher.example.test": 47 * DAY,
    "payments.example.test": 6 * DAY,
    "build.example.test": 6 * DAY,
    "metrics.example.test": DAY,
    "login.example.test": DAY,
    "batch.example.test": HOUR,
    "heartbeat.example.test": 2 * MINUTE,
}
SHORT = "heartbeat.example.test"
BROKEN = "shop.example.test"
GUEST = "guest.example.test"
"""The name on a host that has an ACME client and no agent."""
ALGORITHMS = {"mail.example.test": "rsa-2048", "intranet.example.test": "ecdsa-p384"}


class NotShownError(Exception):
    """Something the demo claims was not seen."""


@dataclass
class Wanted:
    """One certificate of the demo and what was seen of it last."""

    name: str
    lifetime_s: int
    server: Server
    certificate_id: str = ""
    seconds: float = 0.0
    seen: Seen | None = None
    how: str = "issued"

    @property
    def sni(self) -> str:
        """Return the name as clients ask for it."""
        return self.name.encode("idna").decode()


@dataclass
class Demo:
    """The stage: a folder, processes in the order they were started, and the story so far."""

    folder: Path
    processes: list[Process] = field(default_factory=list)
    wanted: dict[str, Wanted] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Tell the next thing, with the seconds since the start."""
        sys.stdout.write(f"{time.monotonic() - self.started:6.1f} s  {text}\n")
        sys.stdout.flush()

    def run(self) -> Coordinator:
        """Play the whole story."""
        coordinator = self._coordinator()
        servers = self._servers()
        api = coordinator.api()
        self._agents(coordinator, servers)
        root = _root(coordinator)
        self._issue(api, root)
        self._renew_on_demand(api, root)
        self._issue_by_acme(coordinator, api, root)
        self._break_and_mend(api, root)
        self._renew_by_time(root)
        return coordinator

    def _coordinator(self) -> Coordinator:
        coordinator = Coordinator(self.folder / "coordinator", {"CERTCTL_ACME_SERVER_ENABLED": "true"})
        self.processes.append(coordinator.process)
        coordinator.start()
        self.say(f"coordinator ready at {coordinator.url}, with a database and a certificate authority of its own")
        return coordinator

    def _servers(self) -> list[Server]:
        names = list(LIFETIMES)
        servers = [self._server(f"web-{number + 1}", names[number::2]) for number in range(2)]
        nginx = isinstance(servers[0], Nginx)
        what = "nginx" if nginx else "small TLS server of the demo's own (nginx is not installed)"
        self.say(f"2 × {what}, {len(names)} names, each with an expired placeholder certificate")
        return servers

    def _server(self, name: str, names: Sequence[str]) -> Server:
        kind: type[Nginx | SmallServer] = Nginx if find_nginx() else SmallServer
        (port,) = free_ports(1)
        server = kind(name, self.folder / name, port, [each.encode("idna").decode() for each in names])
        self.processes.append(server.process)
        self.wanted |= {each: Wanted(each, LIFETIMES.get(each, 0), server) for each in names}
        return server.start()

    def _agents(self, coordinator: Coordinator, servers: list[Server]) -> None:
        api = coordinator.api()
        for server in servers:
            agent = Agent(server.name, self.folder / f"agent-{server.name}", coordinator, server.policy())
            self.processes.append(agent.process)
            agent.start()
            for wanted in self.wanted.values():
                if wanted.server is server:
                    target = {"name": wanted.sni, "type": server.target_type, "agent_id": agent.agent_id}
                    config = server.target_config(wanted.sni)
                    api.post("/api/v1/targets", {**target, "id": _target(wanted), "config": config})
        self.say("2 agents enrolled by one-time tokens; their private keys will never leave their folders")

    def _issue(self, api: API, root: str) -> None:
        with ThreadPoolExecutor(len(self.wanted)) as pool:
            list(pool.map(lambda wanted: self._issue_one(api, wanted, root), self.wanted.values()))
        slowest = max(wanted.seconds for wanted in self.wanted.values())
        count = len(self.wanted)
        self.say(f"{count} certificates requested at once: all served, chains verified; the last after {slowest:.2f} s")

    def _issue_one(self, api: API, wanted: Wanted, root: str) -> None:
        old = look(wanted.server.port, wanted.sni)
        asked = time.monotonic()
        body = {
            "common_name": wanted.name,
            "lifetime_s": wanted.lifetime_s,
            "key_algorithm": ALGORITHMS.get(wanted.name, "ecdsa-p256"),
            "target_ids": [_target(wanted)],
        }
        wanted.certificate_id = api.post("/api/v1/certificates", body)["certificate"]["id"]
        self._await_new(wanted, old.fingerprint if old else "", root, asked)

    def _await_new(self, wanted: Wanted, old: str, root: str, since: float, deadline_s: float = 30.0) -> None:
        """Wait until a client that checks chain, name and dates sees another certificate than ``old``."""
        port = wanted.server.port
        wanted.seen, moment = wait_for_change(port, wanted.sni, old, root_pem=root, deadline_s=deadline_s, pause_s=0.02)
        wanted.seconds = moment - since

    def _renew_on_demand(self, api: API, root: str) -> None:
        wanted = self.wanted["api.example.test"]
        assert wanted.seen is not None
        asked = time.monotonic()
        api.post(f"/api/v1/certificates/{wanted.certificate_id}/renew")
        self._await_new(wanted, wanted.seen.fingerprint, root, asked)
        wanted.how = "renewed on demand"
        self.say(f"{wanted.name} renewed on demand: new key, new certificate, served {wanted.seconds:.2f} s later")

    def _issue_by_acme(self, coordinator: Coordinator, api: API, root: str) -> None:
        """Let a client that knows nothing of certctl get a certificate from its ACME server."""
        server = self._server("web-3", [GUEST])
        wanted, placeholder = self.wanted[GUEST], look(server.port, GUEST)
        key = api.post("/api/v1/acme-eab-keys", {"name": server.name, "allowed_names": [GUEST]})
        asked, directory = time.monotonic(), f"{coordinator.url}/acme/directory"
        eab = EAB(key["id"], key["hmac_key"])
        obtained = acmehost.obtain(self.folder / "acme", directory, coordinator.ca_path, eab, GUEST)
        server.install(GUEST, obtained.chain, obtained.key)
        self._await_new(wanted, placeholder.fingerprint if placeholder else "", root, asked)
        (known,) = api.get("/api/v1/certificates", common_name=GUEST)["data"]
        wanted.certificate_id, wanted.lifetime_s = known["id"], known["lifetime_s"]
        wanted.how = f"{obtained.client}, by ACME"
        self.say(
            f"{server.name} has no agent: {obtained.client} got {GUEST} by ACME, served {wanted.seconds:.1f} s later"
        )

    def _break_and_mend(self, api: API, root: str) -> None:
        """Damage a server's configuration: the old certificate stays, and what was asked for is done once it can be."""
        wanted = self.wanted[BROKEN]
        assert wanted.seen is not None
        wanted.server.damage()
        run = api.follow(api.post(f"/api/v1/certificates/{wanted.certificate_id}/renew")["run_id"])
        still = look(wanted.server.port, wanted.sni)
        failed = next((job["failure"] for job in run["jobs"] if job["failure"]), None)
        if failed is None or still is None or still.fingerprint != wanted.seen.fingerprint:
            message = f"{wanted.name}: a deployment to a broken server was not undone"
            raise NotShownError(message)
        self.say(f"configuration of {wanted.server.name} damaged: deployment undone, the old pair is still served")
        for line in textwrap.wrap(failed["cause"], 100, max_lines=4):
            self.say(f"   {line}")
        wanted.server.mend()
        mended = time.monotonic()
        self._await_new(wanted, wanted.seen.fingerprint, root, mended)
        wanted.how = "retried after repair"
        self.say(f"configuration mended: the retry found it {wanted.seconds:.1f} s later, served")

    def _renew_by_time(self, root: str) -> None:
        wanted = self.wanted[SHORT]
        assert wanted.seen is not None
        left = wanted.seen.not_after - time.time()
        self.say(f"{SHORT} lives 2 minutes, {left:.0f} s are left; it renews when a third remains – watch:")
        old = wanted.seen
        due = time.monotonic() + (old.not_after - time.time()) - wanted.lifetime_s / 3
        self._await_new(wanted, old.fingerprint, root, due, deadline_s=110)
        wanted.how, old_left = "renewed by itself", old.not_after - time.time()
        self.say(f"renewed by itself with {old_left:.0f} s left on the old one; nobody was asked")

    def table(self) -> str:
        """Return the last lines: what is served now, certificate by certificate."""
        rows = [f"{'NAME':24} {'LIFETIME':>9} {'SERIAL':41} {'SHA-256 SEEN ON THE WIRE':64} {'SECONDS':>7}  HOW"]
        for wanted in self.wanted.values():
            seen = look(wanted.server.port, wanted.sni)
            if seen is None:
                message = f"{wanted.name} is not served at the end"
                raise NotShownError(message)
            rows.append(
                f"{wanted.name:24} {_lifetime(wanted.lifetime_s):>9} {seen.serial:41} {seen.fingerprint:64} "
                f"{wanted.seconds:7.2f}  {wanted.how}"
            )
        return "\n".join(rows)


def _target(wanted: Wanted) -> str:
    return "tgt-" + wanted.sni.replace(".", "-")


def _lifetime(seconds: int) -> str:
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds % unit == 0:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


def _root(coordinator: Coordinator) -> str:
    """Return the issuing root in PEM, fetched as relying parties fetch it."""
    answer = httpx.get(f"{coordinator.pki_url}/.well-known/pki/ca/iss-local", trust_env=False).raise_for_status()
    certificate = x509.load_der_x509_certificate(answer.content)
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _folder() -> Path:
    """Return a new folder inside of the checkout, so that the demo lives where its reader put it."""
    parent = REPOSITORY / ".cache"
    parent.mkdir(exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="demo-", dir=parent))


def play(*, once: bool) -> int:
    """Play the demo; return the exit code."""
    demo = Demo(_folder())
    try:
        with stopped_at_the_end(demo.processes):
            try:
                coordinator = demo.run()
            except (NotShownError, TimeoutError, RuntimeError, ssl.SSLError) as error:
                sys.stdout.write(f"\nThe demo did not show what it should: {error}\n{_logs(demo)}\n")
                return 1
            sys.stdout.write(_next_steps(coordinator, once=once))
            sys.stdout.write(f"\n{demo.table()}\n")
            sys.stdout.flush()
            if not once:
                sys.stdout.write("\nEverything keeps running and renewing. Ctrl-C ends it.\n")
                _wait_for_interrupt()
        return 0
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(demo.folder, ignore_errors=True)


def _next_steps(coordinator: Coordinator, *, once: bool) -> str:
    url = f"{coordinator.url}/api/docs"
    api = f"\nThe HTTP interface describes itself: {url}\n  (root: {coordinator.ca_path})\n"
    if once:
        return api
    return (
        f"{api}Look around in another terminal:\n"
        f"  export CERTCTL_SERVER_URL={coordinator.url} CERTCTL_DATA_DIR='{coordinator.data_dir}'\n"
        f"  '{REPOSITORY}/.venv/bin/python' -m console.main status\n"
    )


def _logs(demo: Demo) -> str:
    return "\n".join(f"--- {process.name}\n{process.tail(8)}" for process in demo.processes)


def _wait_for_interrupt() -> None:
    interrupted = threading.Event()

    def handler(_number: int, _frame: FrameType | None) -> None:
        interrupted.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)
    interrupted.wait()
    sys.stdout.write("\nStopping …\n")


def _on_terminate(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Read the command line and play."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="stop by itself at the end")
    signal.signal(signal.SIGTERM, _on_terminate)
    with contextlib.suppress(BrokenPipeError):
        return play(once=parser.parse_args().once)
    return 1


if __name__ == "__main__":
    sys.exit(main())
