"""Apache httpd, with its own modules for TLS and a vhost."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.lab.processes import Process, free_ports
from benchmarks.lab.servers import Site, toml_string
from tests.journeys.targets.subject import PROBE_S, SITE, OneProgram, two_sites

SERVER = "/usr/sbin/apache2"
"""Started by itself: apache2ctl waits for it, and would end without it."""
BINARY = "/usr/sbin/apache2ctl"
MODULES = Path("/usr/lib/apache2/modules")


class Apache(OneProgram):
    """One Apache with one virtual host."""

    target_type = "apache"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self._port,) = free_ports(1)
        self.conf = folder / "apache2.conf"
        self.site, self.other = two_sites(folder)
        self.mend()
        self.process = Process(folder.name, [SERVER, "-f", str(self.conf), "-D", "FOREGROUND"], folder / "server.log")

    @classmethod
    def version(cls) -> str:
        """Return what ``apache2ctl -v`` says."""
        return subprocess.run([BINARY, "-v"], capture_output=True, text=True, check=True).stdout.splitlines()[0]

    def policy(self) -> str:
        """Return a service whose binary is gated where it reloads."""
        return (
            f"allowed_paths = [{toml_string(self.folder)}]\n[services.apache]\ntype = 'apache'\n"
            f"binary = {toml_string(self.gate.before(BINARY, '-k', 'graceful'))}\nconfig = {toml_string(self.conf)}\n"
        )

    def config(self) -> dict[str, Any]:
        """Return the paths that the virtual host names."""
        paths = {"cert_path": str(self.site.cert_path), "key_path": str(self.site.key_path)}
        return {**paths, "probe": {"port": self._port, "timeout_s": PROBE_S}}

    def pair(self) -> tuple[bytes, bytes]:
        """Return what the two directives name."""
        return self.site.cert_path.read_bytes(), self.site.key_path.read_bytes()

    def reload(self) -> None:
        """Reload it by its own command."""
        subprocess.run([BINARY, "-f", str(self.conf), "-k", "graceful"], check=True, capture_output=True)

    def damage(self) -> None:
        """Put a typing error into its configuration."""
        self.conf.write_text(self.conf.read_text().replace("DocumentRoot", "DokumentRoot"))

    def divert(self) -> None:
        """Name other files."""
        self._write(self.other)

    def mend(self) -> None:
        """Name the target's files."""
        self._write(self.site)

    def _write(self, site: Site) -> None:
        modules = "".join(
            f"LoadModule {name}_module {MODULES}/mod_{name}.so\n"
            for name in ("mpm_event", "authz_core", "dir", "socache_shmcb", "ssl")
        )
        user = "User www-data\nGroup www-data\n" if os.geteuid() == 0 else ""
        root = self.folder / "htdocs"
        root.mkdir(exist_ok=True)
        (root / "index.html").write_text("ok\n")
        self.folder.chmod(0o755)
        self.conf.write_text(
            f'{modules}{user}ServerName {SITE}\nPidFile "{self.folder}/apache.pid"\n'
            f'ErrorLog "{self.folder}/error.log"\nDefaultRuntimeDir "{self.folder}"\nStartServers 1\n'
            f"Listen 127.0.0.1:{self._port}\n"
            f"<VirtualHost 127.0.0.1:{self._port}>\n  ServerName {SITE}\n  SSLEngine on\n  DirectoryIndex index.html\n"
            f'  DocumentRoot "{root}"\n'
            f'  SSLCertificateFile "{site.cert_path}"\n  SSLCertificateKeyFile "{site.key_path}"\n</VirtualHost>\n'
        )


SUBJECTS = (Apache,)
