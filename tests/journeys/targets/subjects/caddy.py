"""Caddy with a Caddyfile that names the target's files."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.lab.processes import Process, free_ports
from benchmarks.lab.servers import Site, toml_string, write_placeholder
from tests.journeys.targets.subject import PROBE_S, SITE, Subject

BINARY = "/usr/bin/caddy"


class Caddy(Subject):
    """One Caddy with one site."""

    target_type = "caddy"
    layout: ClassVar[str] = "current"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._port, self.admin_port = free_ports(2)
        self.conf = folder / "Caddyfile"
        self.site, self.other = (Site(SITE, folder / name) for name in ("live", "other"))
        for site in (self.site, self.other):
            site.folder.mkdir()
            write_placeholder(site)
        self.mend()
        # Without these it would keep its state where the user's own Caddy does.
        own = {"XDG_CONFIG_HOME": str(folder / "config"), "XDG_DATA_HOME": str(folder / "data")}
        argv = [BINARY, "run", "--config", str(self.conf), "--adapter", "caddyfile"]
        self.process = Process(folder.name, argv, folder / "server.log", own)

    @classmethod
    def version(cls) -> str:
        """Return what ``caddy version`` says."""
        said = subprocess.run([BINARY, "version"], capture_output=True, text=True, check=True).stdout
        return f"caddy {said.strip()}"

    def processes(self) -> Sequence[Process]:
        """Return Caddy."""
        return [self.process]

    def start(self) -> None:
        """Start Caddy."""
        self.process.start()
        self.process.await_ready(lambda: self.seen() is not None)

    def policy(self) -> str:
        """Return a service whose binary is gated where it reloads."""
        binary = self.gate.before(BINARY, "reload")
        return (
            f"allowed_paths = [{toml_string(self.folder)}]\n[services.caddy]\ntype = 'caddy'\n"
            f"binary = {toml_string(binary)}\nconfig = {toml_string(self.conf)}\n"
        )

    def config(self) -> dict[str, Any]:
        """Return the paths that the ``tls`` directive names."""
        paths = {"cert_path": str(self.site.cert_path), "key_path": str(self.site.key_path), "layout": self.layout}
        return {**paths, "probe": {"port": self._port, "timeout_s": PROBE_S}}

    def pair(self) -> tuple[bytes, bytes]:
        """Return what the directive names."""
        return self.site.cert_path.read_bytes(), self.site.key_path.read_bytes()

    def port(self) -> int:
        """Return its one port."""
        return self._port

    def reload(self) -> None:
        """Reload it by its own command."""
        argv = [BINARY, "reload", "--force", "--config", str(self.conf), "--adapter", "caddyfile"]
        subprocess.run(argv, check=True, capture_output=True)

    def damage(self) -> None:
        """Put a typing error into the Caddyfile."""
        self.conf.write_text(self.conf.read_text().replace("respond", "resspond"))

    def divert(self) -> None:
        """Name other files."""
        self._write(self.other)

    def mend(self) -> None:
        """Name the target's files."""
        self._write(self.site)

    def _write(self, site: Site) -> None:
        cert, key = (json.dumps(str(path)) for path in (site.cert_path, site.key_path))
        self.conf.write_text(
            f"{{\n\tadmin localhost:{self.admin_port}\n\tauto_https disable_redirects\n\tdefault_sni {SITE}\n}}\n"
            f"https://{SITE}:{self._port} {{\n\tbind 127.0.0.1\n\ttls {cert} {key}\n\trespond ok\n}}\n"
        )


SUBJECTS = (Caddy,)
