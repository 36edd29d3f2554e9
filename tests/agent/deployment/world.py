"""A real nginx on free loopback ports in a temporary folder, and an agent's deployer beside it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from agent.deployment.deployer import Deployer
from agent.deployment.outcome import DeploymentOutcome
from agent.policy import load_policy
from core.wire import DeploymentItem
from tests.agent.deployment.authority import Authority, Issued, belongs

NGINX = "/usr/sbin/nginx"
NOBODY = 65534


def until(condition: Callable[[], bool], what: str, deadline_s: float = 10.0) -> None:
    """Wait for something that a foreign process brings about."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > deadline_s:
            raise AssertionError(f"{what}: not within {deadline_s} s")
        time.sleep(0.01)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def served(port: int, name: str = "a.test") -> str:
    """Return the fingerprint that a client sees; empty when nothing answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 5) as connection,
            context.wrap_socket(connection, server_hostname=name) as tls,
        ):
            return sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()
    except OSError:
        return ""


def shows(port: int, issued: Issued, name: str = "a.test") -> None:
    """Wait until a client sees this certificate.

    nginx lets its old workers accept for a tenth of a second beside the new ones, so a single look may still see them.
    """
    until(lambda: served(port, name) == issued.fingerprint, f"{issued.fingerprint} is served for {name}")


class Nginx:
    """One nginx with its own folder; ``user`` runs it as somebody else."""

    def __init__(self, folder: Path, *, user: int | None = None) -> None:
        assert Path(NGINX).exists(), f"{NGINX} is needed for these tests: apt-get install nginx-light"
        self.folder = folder
        self.config = folder / "nginx.conf"
        self.port = free_port()
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    def write_config(self, certificate: Path | None, key: Path | None, *, extra: str = "") -> None:
        """Write nginx.conf: a TLS server with this pair, or none as long as there is no certificate."""
        temp = "".join(
            f'  {name}_temp_path "{self.folder}/{name}";\n'
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        server = ""
        if certificate is not None:
            server = f"""server {{
    listen 127.0.0.1:{self.port} ssl;
    ssl_certificate "{certificate}";
    ssl_certificate_key "{key or certificate}";
    return 200 ok;
  }}"""
        self.config.write_text(
            f'daemon off;\npid "{self.folder}/nginx.pid";\nerror_log "{self.folder}/error.log";\nworker_processes 1;\n'
            f"events {{}}\nhttp {{\n  access_log off;\n{temp}  {server}\n}}\n{extra}\n"
        )

    def start(self) -> None:
        """Start with the configuration that is there and wait for its pid file."""
        self._process = subprocess.Popen(
            [NGINX, "-e", str(self.folder / "error.log"), "-c", str(self.config)], user=self._user, group=self._user
        )
        pid_file = self.folder / "nginx.pid"
        until(lambda: pid_file.exists() and bool(pid_file.read_text().strip()) and bool(self.workers()), "nginx starts")

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
            self._process = None

    def workers(self) -> set[int]:
        """Return the pids of its workers: a reload brings new ones."""
        assert self._process is not None
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[1]) == self._process.pid:
                    found.add(int(entry.name))
        return found


class World:
    """A host: its nginx, its agent.toml, its agent's state and a folder for certificates."""

    def __init__(self, folder: Path, authority: Authority, *, live: str = "live", user: int | None = None) -> None:
        self.folder = folder
        self.authority = authority
        self.live = folder / live
        self.state = folder / "state"
        self.toml = folder / "agent.toml"
        for made in (self.live, self.state, folder / "nginx"):
            made.mkdir(parents=True, exist_ok=True)
        self.cert, self.key, self.chain = (self.live / name for name in ("a.crt", "a.key", "a.chain"))
        self.nginx = Nginx(folder / "nginx", user=user)
        self.write_policy()

    def write_policy(self, extra: str = "", *, service: str = "") -> None:
        """Write agent.toml; ``service`` adds lines to the nginx service."""
        self.toml.write_text(
            f'allowed_paths = ["{self.live}"]\nallowed_owners = ["root", "nobody-of-that-name", "{os.getuid()}"]\n'
            f'[services.nginx]\ntype = "nginx"\nconfig = "{self.nginx.config}"\n'
            f"{service}\n{extra}\n"
        )
        self.toml.chmod(0o600)

    def deployer(self, **ports: Any) -> Deployer:
        """Return a deployer as the daemon would make it."""
        return Deployer(self.state, load_policy(self.toml, required=True), **ports)

    def config(self, layout: str = "current", **more: Any) -> dict[str, Any]:
        """Return a target's configuration."""
        paths = {"cert_path": str(self.cert)}
        if layout != "combined":
            paths["key_path"] = str(self.key)
        probe = {"port": self.nginx.port, "timeout_s": 5, **more.pop("probe", {})}
        return {**paths, "layout": layout, "probe": probe, **more}

    async def deploy(self, issued: Issued, layout: str = "current", **more: Any) -> DeploymentOutcome:
        """Deploy to the one target."""
        return await self.deployer().deploy(issued.item(self.config(layout, **more)), issued.secret)

    async def install(self, layout: str = "current", **more: Any) -> Issued:
        """Bring the first certificate to an nginx that is configured for it, and show that it is served."""
        self.nginx.write_config(None, None)
        self.nginx.start()
        self.expect_tls(layout)
        issued = self.authority.issue()
        outcome = await self.deploy(issued, layout, **more)
        assert outcome.outcome == "served", outcome
        shows(self.nginx.port, issued)
        return issued

    def expect_tls(self, layout: str = "current", extra: str = "") -> None:
        """Write an nginx.conf that names the target's paths."""
        self.nginx.write_config(self.cert, self.cert if layout == "combined" else self.key, extra=extra)

    def holds(self, issued: Issued, layout: str = "current") -> bool:
        """Say whether the configured paths show exactly this certificate and key."""
        if layout == "combined":
            return self.cert.read_bytes() == issued.key_pem + issued.cert_pem
        return self.cert.read_bytes() == issued.cert_pem and self.key.read_bytes() == issued.key_pem

    def complete_pair(self, layout: str = "current") -> bool:
        """Say whether the configured paths show a certificate and its key, whichever."""
        return belongs(self.cert, self.cert if layout == "combined" else self.key)

    def journals(self) -> list[Path]:
        """Return the journals that are left."""
        return list((self.state / "journal").glob("*.json"))

    def leftovers(self) -> list[Path]:
        """Return temporary names beside the configured paths or in the stores."""
        return [path for path in self.folder.rglob(".*") if path.name != ".certctl"]

    def in_process(
        self, item: DeploymentItem | None, key: bytes = b"", *, crash: str = "", user: int | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Deploy ``item``, or repair for None, in a process of its own, which may be told to die on its way."""
        task = {"state": str(self.state), "policy": str(self.toml), "item": item, "key": key, "user": user}
        return subprocess.run(
            [sys.executable, "-m", "tests.agent.deployment.process"],
            input=msgspec.json.encode(task),
            capture_output=True,
            env={**os.environ, "CERTCTL_CRASH_POINT": crash},
            timeout=60,
            check=False,
        )

    def close(self) -> None:
        """Stop nginx."""
        self.nginx.stop()


def public_folder() -> Path:
    """Return a new folder that every user may enter; pytest's own belong to the user who runs it."""
    folder = Path("/tmp") / f"certctl-test-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir(mode=0o755)
    return folder


def give_away(folder: Path, user: int) -> None:
    """Give a folder and all in it to ``user``."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)


def remove_folder(folder: Path) -> None:
    """Remove a folder whatever its modes."""
    shutil.rmtree(folder)
