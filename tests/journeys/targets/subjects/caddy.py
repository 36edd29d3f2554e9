"""Caddy with a Caddyfile that names the target's files, and Caddy that is handed their contents by its admin API."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import httpx

from benchmarks.lab.processes import Process, free_ports
from benchmarks.lab.servers import Site, toml_string
from tests.journeys.targets.subject import PROBE_S, SITE, Gate, OneProgram, two_sites

BINARY = "/usr/bin/caddy"
KERNEL = {"net/ipv4/tcp_migrate_req": "1"}


class Caddy(OneProgram):
    """One Caddy with one site."""

    target_type = "caddy"
    layout: ClassVar[str] = "current"
    kernel = KERNEL

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._port, self.admin_port = free_ports(2)
        self.conf = folder / "Caddyfile"
        self.site, self.other = two_sites(folder)
        self.mend()
        argv = [BINARY, "run", "--config", str(self.conf), "--adapter", "caddyfile"]
        self.process = Process(folder.name, argv, folder / "server.log", _own_folders(folder))

    @classmethod
    def version(cls) -> str:
        """Return what ``caddy version`` says."""
        said = subprocess.run([BINARY, "version"], capture_output=True, text=True, check=True).stdout
        return f"caddy {said.strip()}"

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


class CaddyAPI(OneProgram):
    """One Caddy that resumes what its admin API made of it; the API is at a socket."""

    target_type = "caddy"
    variant = "api"
    kernel = KERNEL
    skips: ClassVar = {"broken configuration": "Caddy is handed its configuration by the API and reads no file"}
    reload_cause = "Caddy's admin API"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self._port,) = free_ports(1)
        self._socket = folder / "admin.sock"
        self.gate = SocketGate(self._socket)
        self.conf = folder / "caddy.json"
        self.site, self.other = two_sites(folder)
        self._write()
        argv = [BINARY, "run", "--resume", "--config", str(self.conf)]
        self.process = Process(folder.name, argv, folder / "server.log", _own_folders(folder))

    @classmethod
    def version(cls) -> str:
        """Return what ``caddy version`` says."""
        return Caddy.version()

    def policy(self) -> str:
        """Return a service with the socket."""
        return (
            f"allowed_paths = [{toml_string(self.folder)}]\n[services.caddy]\ntype = 'caddy'\n"
            f"admin = {toml_string(self._address())}\n"
        )

    def config(self) -> dict[str, Any]:
        """Return where the files are that the API is given."""
        paths = {"cert_path": str(self.site.cert_path), "key_path": str(self.site.key_path), "mode": "api"}
        return {**paths, "probe": {"port": self._port, "timeout_s": PROBE_S}}

    def pair(self) -> tuple[bytes, bytes]:
        """Return what the API would be given."""
        return self.site.cert_path.read_bytes(), self.site.key_path.read_bytes()

    def reload(self) -> None:
        """Give it its own configuration again."""
        with self._admin() as admin:
            config = admin.get("/config/").raise_for_status().content
            given = {"Content-Type": "application/json", "Cache-Control": "must-revalidate"}
            admin.post("/load", content=config, headers=given).raise_for_status()

    def damage(self) -> None:
        """Have nothing to damage."""
        raise NotImplementedError

    def divert(self) -> None:
        """Let it choose the other certificate, whatever else it has."""
        self._choose({"default_sni": SITE, "certificate_selection": {"any_tag": ["other"]}})

    def mend(self) -> None:
        """Let it choose by name and dates."""
        self._choose({"default_sni": SITE})

    def _choose(self, policy: dict[str, Any]) -> None:
        with self._admin() as admin:
            admin.patch("/config/apps/http/servers/web/tls_connection_policies", json=[policy]).raise_for_status()

    def _admin(self) -> httpx.Client:
        return httpx.Client(
            base_url="http://caddy", headers={"Host": ""}, transport=httpx.HTTPTransport(uds=str(self._socket))
        )

    def _address(self) -> str:
        return f"unix/{self._socket}"

    def _write(self) -> None:
        cert, key = self.other.cert_path.read_text(), self.other.key_path.read_text()
        web = {
            "listen": [f"127.0.0.1:{self._port}"],
            "automatic_https": {"disable": True},
            "routes": [{"handle": [{"handler": "static_response", "body": "ok"}]}],
            "tls_connection_policies": [{"default_sni": SITE}],
        }
        placeholder = {"certificate": cert, "key": key, "tags": ["other"]}
        apps = {"http": {"servers": {"web": web}}, "tls": {"certificates": {"load_pem": [placeholder]}}}
        self.conf.write_text(json.dumps({"admin": {"listen": self._address()}, "apps": apps}))


class SocketGate(Gate):
    """The way to a socket, which is away while the gate is shut."""

    def __init__(self, socket: Path) -> None:
        self._here, self._away = socket, socket.with_suffix(".away")

    def shut(self) -> None:
        """Take it away."""
        self._here.rename(self._away)

    def open(self) -> None:
        """Bring it back."""
        self._away.rename(self._here)


def _own_folders(folder: Path) -> dict[str, str]:
    """Return variables that keep its state from where the user's own Caddy has it."""
    return {"XDG_CONFIG_HOME": str(folder / "config"), "XDG_DATA_HOME": str(folder / "data")}


SUBJECTS = (Caddy, CaddyAPI)
