"""lighttpd, with a certificate file and a key file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.lab.processes import Process, free_ports
from benchmarks.lab.servers import Site, toml_string
from tests.journeys.targets.subject import PROBE_S, OneProgram, two_sites

BINARY = "/usr/sbin/lighttpd"


class Lighttpd(OneProgram):
    """One lighttpd with one site."""

    target_type = "lighttpd"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self._port,) = free_ports(1)
        self.conf, self._pid = folder / "lighttpd.conf", folder / "pid"
        self.site, self.other = two_sites(folder)
        (folder / "pages").mkdir()
        (folder / "pages" / "index.html").write_text("ok")
        self.mend()
        self.process = Process(folder.name, [BINARY, "-D", "-f", str(self.conf)], folder / "server.log")

    @classmethod
    def version(cls) -> str:
        """Return the first line of ``lighttpd -v``."""
        return subprocess.run([BINARY, "-v"], capture_output=True, text=True, check=True).stdout.strip()

    def policy(self) -> str:
        """Return a service whose reload goes through the gate."""
        reload = [self.gate.before("/usr/bin/pkill"), "-USR1", "-F", str(self._pid), "lighttpd"]
        return (
            f"allowed_paths = [{toml_string(self.folder)}]\n[services.lighttpd]\ntype = 'lighttpd'\n"
            f"config = {toml_string(self.conf)}\npid_file = {toml_string(self._pid)}\nreload_action = 'restart'\n"
            f"[actions.restart]\nargv = {json.dumps(reload)}\n"
        )

    def config(self) -> dict[str, Any]:
        """Return the paths that the configuration names."""
        paths = {"cert_path": str(self.site.cert_path), "key_path": str(self.site.key_path)}
        return {**paths, "probe": {"port": self._port, "timeout_s": PROBE_S}}

    def pair(self) -> tuple[bytes, bytes]:
        """Return what the configuration names."""
        return self.site.cert_path.read_bytes(), self.site.key_path.read_bytes()

    def reload(self) -> None:
        """Restart it gracefully by its signal."""
        subprocess.run(["pkill", "-USR1", "-F", str(self._pid)], check=True)

    def damage(self) -> None:
        """Leave a quote open."""
        self.conf.write_text(self.conf.read_text() + 'server.tag = "\n')

    def divert(self) -> None:
        """Name other files."""
        self._write(self.other)

    def mend(self) -> None:
        """Name the target's files."""
        self._write(self.site)

    def _write(self, site: Site) -> None:
        self.conf.write_text(
            f'server.document-root = "{self.folder}/pages"\nserver.bind = "127.0.0.1"\nserver.port = {self._port}\n'
            f'server.pid-file = "{self._pid}"\nserver.errorlog = "{self.folder}/error.log"\n'
            'server.modules = ( "mod_openssl" )\nindex-file.names = ( "index.html" )\nssl.engine = "enable"\n'
            f'ssl.pemfile = "{site.cert_path}"\nssl.privkey = "{site.key_path}"\n'
        )


SUBJECTS = (Lighttpd,)
