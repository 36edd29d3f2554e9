"""HAProxy, reloaded by its master process, and by its stats socket without a reload."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.lab.processes import Process, free_ports
from benchmarks.lab.servers import Site, toml_string, write_placeholder
from tests.journeys.targets.subject import PROBE_S, SITE, Chapter, Subject

BINARY = "/usr/sbin/haproxy"


class HAProxy(Subject):
    """One HAProxy in master-worker mode with one bind line."""

    target_type = "haproxy"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self._port,) = free_ports(1)
        self.conf = folder / "haproxy.cfg"
        self.pid_file = folder / "haproxy.pid"
        self.socket = folder / "admin.sock"
        self.site, self.other = (Site(SITE, folder / name) for name in ("live", "other"))
        for site in (self.site, self.other):
            site.folder.mkdir()
            write_placeholder(site)
            site.cert_path.write_bytes(site.key_path.read_bytes() + site.cert_path.read_bytes())
            site.key_path.unlink()
        self.mend()
        argv = [BINARY, "-W", "-f", str(self.conf), "-p", str(self.pid_file)]
        self.process = Process(folder.name, argv, folder / "server.log")

    @classmethod
    def version(cls) -> str:
        """Return what ``haproxy -v`` says."""
        return subprocess.run([BINARY, "-v"], capture_output=True, text=True, check=True).stdout.splitlines()[0]

    def processes(self) -> Sequence[Process]:
        """Return HAProxy."""
        return [self.process]

    def start(self) -> None:
        """Start HAProxy."""
        self.process.start()
        self.process.await_ready(lambda: self.seen() is not None)

    def policy(self) -> str:
        """Return a service that is reloaded by a gated action."""
        pkill = self.gate.before("/usr/bin/pkill", "-USR2")
        return (
            f"allowed_paths = [{toml_string(self.folder)}]\n[services.haproxy]\ntype = 'haproxy'\n"
            f"config = {toml_string(self.conf)}\nadmin = {toml_string(self.socket)}\nreload_action = 'reload'\n"
            f"[actions.reload]\nargv = [{toml_string(pkill)}, '-USR2', '-F', {toml_string(self.pid_file)}]\n"
        )

    def config(self) -> dict[str, Any]:
        """Return the file that the bind line names."""
        return {"cert_path": str(self.site.cert_path), "probe": {"port": self._port, "timeout_s": PROBE_S}}

    def pair(self) -> tuple[bytes, bytes]:
        """Return the one file twice."""
        return self.site.cert_path.read_bytes(), self.site.cert_path.read_bytes()

    def port(self) -> int:
        """Return its one port."""
        return self._port

    def reload(self) -> None:
        """Tell the master process."""
        subprocess.run(["/usr/bin/pkill", "-USR2", "-F", str(self.pid_file)], check=True, capture_output=True)

    def damage(self) -> None:
        """Put a typing error into haproxy.cfg."""
        self.conf.write_text(self.conf.read_text().replace("timeout client", "timeout klient"))

    def divert(self) -> None:
        """Name another file."""
        self._write(self.other)

    def mend(self) -> None:
        """Name the target's file."""
        self._write(self.site)

    def _write(self, site: Site) -> None:
        self.conf.write_text(
            f"global\n  stats socket {self.socket} mode 600 level admin expose-fd listeners\n"
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 5s\n"
            f"frontend shop\n  bind 127.0.0.1:{self._port} ssl crt {site.cert_path}\n"
            '  http-request return status 200 content-type text/plain string "ok"\n'
        )


class RuntimeHAProxy(HAProxy):
    """The same, handed new certificates by its stats socket."""

    variant = "runtime"
    skips: ClassVar[Mapping[Chapter, str]] = {
        "broken configuration": "the running process takes certificates whatever became of haproxy.cfg",
        "failing reload": "nothing is reloaded in this mode; a socket that does not answer is in the connector's tests",
        "wrong certificate served": "a change of haproxy.cfg shows after a reload only, of which this mode has none",
    }

    def config(self) -> dict[str, Any]:
        """Return the same with the mode."""
        return {**super().config(), "mode": "runtime"}


SUBJECTS = (HAProxy, RuntimeHAProxy)
