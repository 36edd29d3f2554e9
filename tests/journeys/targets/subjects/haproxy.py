"""HAProxy in master-worker mode, changed by reloads or over its stats socket."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.lab.processes import Process, free_ports, wait_until
from benchmarks.lab.servers import Site, toml_string
from tests.journeys.targets.subject import PROBE_S, Chapter, Gate, OneProgram, two_sites

BINARY = "/usr/sbin/haproxy"


class HAProxy(OneProgram):
    """One HAProxy with one bind line, reloaded; what the connector itself uses is gated, see ``Hidden``."""

    target_type = "haproxy"
    layout: ClassVar[str] = "combined"
    gated: ClassVar[str] = "pid"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gate = Hidden(folder, folder / self.gated)
        (self._port,) = free_ports(1)
        self.conf = folder / "haproxy.cfg"
        self.site, self.other = two_sites(folder)
        for site in (self.site, self.other):
            if self.layout == "combined":
                site.cert_path.write_bytes(site.key_path.read_bytes() + site.cert_path.read_bytes())
                site.key_path.unlink()
            else:
                site.key_path.rename(self._key(site))
        self.mend()
        argv = [BINARY, "-W", "-db", "-f", str(self.conf), "-p", str(folder / "pid")]
        self.process = Process(folder.name, argv, folder / "server.log")

    @classmethod
    def version(cls) -> str:
        """Return what ``haproxy -v`` says first."""
        return subprocess.run([BINARY, "-v"], capture_output=True, text=True, check=True).stdout.splitlines()[0]

    def policy(self) -> str:
        """Return the service with its pid file."""
        return (
            f"allowed_paths = [{toml_string(self.folder)}]\n[services.haproxy]\ntype = 'haproxy'\n"
            f"config = {toml_string(self.conf)}\npid_file = {toml_string(self.folder / 'pid')}\n"
        )

    def config(self) -> dict[str, Any]:
        """Return the path that the bind line names, and that of the key beside it."""
        paths = {"cert_path": str(self.site.cert_path), "layout": self.layout}
        if self.layout != "combined":
            paths["key_path"] = str(self._key(self.site))
        return {**paths, "probe": {"port": self._port, "timeout_s": PROBE_S}}

    def pair(self) -> tuple[bytes, bytes]:
        """Return what the bind line names."""
        return self.site.cert_path.read_bytes(), self._key(self.site).read_bytes()

    def reload(self) -> None:
        """Tell the master to start new workers, and wait for one."""
        before = self.workers()
        os.kill(self.process.pid, signal.SIGUSR2)
        wait_until("a new worker is there", lambda: bool(self.workers() - before))

    def workers(self) -> set[int]:
        """Return the processes that serve."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {int(pid) for pid in children.read_text().split()}

    def damage(self) -> None:
        """Put a typing error into haproxy.cfg."""
        self.conf.write_text(self.conf.read_text().replace("frontend", "frontent"))

    def divert(self) -> None:
        """Name another file."""
        self._write(self.other)

    def mend(self) -> None:
        """Name the target's file."""
        self._write(self.site)

    def _key(self, site: Site) -> Path:
        return site.cert_path if self.layout == "combined" else Path(f"{site.cert_path}.key")

    def _write(self, site: Site) -> None:
        self.conf.write_text(
            f"global\n  stats socket {self.folder}/socket level admin\n  stats socket {self.folder}/user level user\n"
            f"defaults\n  mode http\n  timeout client 30s\n  timeout connect 1s\n  timeout server 30s\n"
            f"frontend tls\n  bind 127.0.0.1:{self._port} ssl crt {site.cert_path}\n  http-request return status 200\n"
        )


class Hidden(Gate):
    """A gate that takes away the file by which a running HAProxy is found."""

    def __init__(self, folder: Path, path: Path) -> None:
        super().__init__(folder)
        self._path, self._away = path, path.with_name(f"{path.name}.away")

    def shut(self) -> None:
        """Take it away."""
        self._path.rename(self._away)

    def open(self) -> None:
        """Bring it back."""
        self._away.rename(self._path)


class RuntimeHAProxy(HAProxy):
    """The same, handed new certificates by its stats socket."""

    variant = "runtime"
    skips: ClassVar[Mapping[Chapter, str]] = {
        "broken configuration": "the running process takes certificates whatever became of haproxy.cfg"
    }
    gated = "socket"
    reload_cause = "the stats socket .*/socket cannot be used"

    def policy(self) -> str:
        """Return the service with its socket as well."""
        return f"{super().policy()}admin = {toml_string(self.folder / 'socket')}\n"

    def config(self) -> dict[str, Any]:
        """Return the same with the mode."""
        return {**super().config(), "mode": "runtime"}

    def divert(self) -> None:
        """Name another file, and reload, without which the socket would go on changing the one that is served."""
        super().divert()
        self.reload()


SUBJECTS = (HAProxy, RuntimeHAProxy)
