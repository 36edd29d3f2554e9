"""nginx, with the links of layout ``current`` and with one combined file."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.lab.processes import Process, free_ports
from benchmarks.lab.servers import Site, find_nginx, toml_string
from tests.journeys.targets.subject import PROBE_S, SITE, OneProgram, two_sites

BINARY = find_nginx() or "/usr/sbin/nginx"


class Nginx(OneProgram):
    """One nginx with one server block."""

    target_type = "nginx"
    layout: ClassVar[str] = "current"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self._port,) = free_ports(1)
        self.conf = folder / "nginx.conf"
        self.site, self.other = two_sites(folder)
        self.mend()
        argv = [BINARY, "-c", str(self.conf), "-g", "daemon off;", "-e", str(folder / "error.log")]
        self.process = Process(folder.name, argv, folder / "server.log")

    @classmethod
    def version(cls) -> str:
        """Return what ``nginx -v`` says."""
        return subprocess.run([BINARY, "-v"], capture_output=True, text=True, check=True).stderr.strip()

    def policy(self) -> str:
        """Return a service whose binary is gated where it reloads."""
        binary = self.gate.before(BINARY, "-s")
        return (
            f"allowed_paths = [{toml_string(self.folder)}]\n[services.nginx]\ntype = 'nginx'\n"
            f"binary = {toml_string(binary)}\nconfig = {toml_string(self.conf)}\n"
        )

    def config(self) -> dict[str, Any]:
        """Return the paths that the server block names."""
        paths = {"cert_path": str(self.site.cert_path), "layout": self.layout}
        if self.layout != "combined":
            paths["key_path"] = str(self.site.key_path)
        return {**paths, "probe": {"port": self._port, "timeout_s": PROBE_S}}

    def pair(self) -> tuple[bytes, bytes]:
        """Return what the two directives name."""
        return self.site.cert_path.read_bytes(), self._key(self.site).read_bytes()

    def reload(self) -> None:
        """Reload it by its own command."""
        subprocess.run([BINARY, "-s", "reload", "-c", str(self.conf)], check=True, capture_output=True)

    def damage(self) -> None:
        """Put a typing error into nginx.conf."""
        self.conf.write_text(self.conf.read_text().replace("worker_connections", "worker_conections"))

    def divert(self) -> None:
        """Name other files."""
        self._write(self.other)

    def mend(self) -> None:
        """Name the target's files."""
        self._write(self.site)

    def _key(self, site: Site) -> Path:
        return site.cert_path if self.layout == "combined" and site is self.site else site.key_path

    def _write(self, site: Site) -> None:
        temp = "".join(f'  {kind}_temp_path "{self.folder}/{kind}";\n' for kind in ("client_body", "proxy", "fastcgi"))
        user = "user root;\n" if os.geteuid() == 0 else ""
        self.conf.write_text(
            f'{user}worker_processes 2;\npid "{self.folder}/nginx.pid";\nerror_log "{self.folder}/error.log" notice;\n'
            f"events {{ worker_connections 512; }}\nhttp {{\n  access_log off;\n{temp}  server {{\n"
            f"    listen 127.0.0.1:{self._port} ssl;\n    server_name {SITE};\n"
            f"    ssl_certificate {json.dumps(str(site.cert_path))};\n"
            f"    ssl_certificate_key {json.dumps(str(self._key(site)))};\n    return 200 ok;\n  }}\n}}\n"
        )


class CombinedNginx(Nginx):
    """The same with certificate and key in one file."""

    variant = "combined"
    quick = False
    layout = "combined"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.site.cert_path.write_bytes(self.site.key_path.read_bytes() + self.site.cert_path.read_bytes())
        self.site.key_path.unlink()


SUBJECTS = (Nginx, CombinedNginx)
