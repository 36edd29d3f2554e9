"""TLS servers to install certificates in: a real nginx, or the lab's own small server where there is no nginx.

Each lives in a folder of the lab's, with its own configuration and pid file, on a port above 1024, as any user. At
first it serves an expired placeholder for every name, as a host does before certctl comes.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.lab.processes import Process
from benchmarks.lab.wire import look

_PLACES = ("/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx")


def find_nginx() -> str | None:
    """Return the path of an installed nginx."""
    return shutil.which("nginx") or next((place for place in _PLACES if Path(place).exists()), None)


def toml_string(text: object) -> str:
    """Return a basic TOML string; its escapes are those of JSON."""
    return json.dumps(str(text))


@dataclass(frozen=True)
class Site:
    """One server name, with the files it is served from."""

    name: str
    folder: Path

    @property
    def cert_path(self) -> Path:
        """Return the file with leaf and chain."""
        return self.folder / "fullchain.pem"

    @property
    def key_path(self) -> Path:
        """Return the file with the key."""
        return self.folder / "privkey.pem"


class Server(ABC):
    """What both kinds have in common."""

    target_type: ClassVar[str]

    def __init__(self, name: str, folder: Path, port: int, names: list[str]) -> None:
        self.name = name
        self.folder = folder
        self.port = port
        self.sites = {site: Site(site, folder / "live" / site) for site in names}
        folder.mkdir(parents=True, exist_ok=True)
        for site in self.sites.values():
            site.folder.mkdir(parents=True)
            write_placeholder(site)
        self.mend()
        self.process = Process(f"server {name}", self._argv(), folder / "server.log")

    def start(self) -> Server:
        """Start it and wait until it serves."""
        self.process.start()
        first = next(iter(self.sites))
        self.process.await_ready(lambda: look(self.port, first) is not None)
        return self

    def install(self, site: str, chain: bytes, key: bytes) -> None:
        """Serve a pair from now on, as a script on its host would have it."""
        self.sites[site].cert_path.write_bytes(chain)
        self.sites[site].key_path.write_bytes(key)
        self.process.signal(signal.SIGHUP)

    def target_config(self, site: str) -> dict[str, Any]:
        """Return the configuration of a target for one of its names."""
        paths = {"cert_path": str(self.sites[site].cert_path), "key_path": str(self.sites[site].key_path)}
        return {**paths, "service": self.name, "probe": {"port": self.port, "sni": site}}

    def policy(self) -> str:
        """Return the agent.toml of a host that runs this server alone."""
        return f"allowed_paths = [{toml_string(self.folder)}]\n\n[services.{self.name}]\n{self._service()}"

    @abstractmethod
    def _argv(self) -> list[str]: ...

    @abstractmethod
    def _service(self) -> str: ...

    @abstractmethod
    def mend(self) -> None:
        """Write a configuration that works."""

    @abstractmethod
    def damage(self) -> None:
        """Write a configuration that the server's own check refuses."""


class Nginx(Server):
    """A real nginx."""

    target_type = "nginx"

    @property
    def config(self) -> Path:
        """Return its configuration file."""
        return self.folder / "nginx.conf"

    def _argv(self) -> list[str]:
        return [_binary(), "-c", str(self.config), "-g", "daemon off;", "-e", str(self.folder / "error.log")]

    def _service(self) -> str:
        return f'type = "nginx"\nbinary = {toml_string(_binary())}\nconfig = {toml_string(self.config)}\n'

    def damage(self) -> None:
        """Put a typing error into nginx.conf."""
        self.config.write_text(self.config.read_text().replace("worker_connections", "worker_conections"))

    def mend(self) -> None:
        """Write nginx.conf."""
        temp = "".join(f'  {kind}_temp_path "{self.folder}/{kind}";\n' for kind in ("client_body", "proxy", "fastcgi"))
        sites = "".join(
            f"  server {{\n    listen 127.0.0.1:{self.port} ssl;\n    server_name {site.name};\n"
            f'    ssl_certificate "{site.cert_path}";\n    ssl_certificate_key "{site.key_path}";\n'
            f'    return 200 "{site.name}\\n";\n  }}\n'
            for site in self.sites.values()
        )
        user = "user root;\n" if os.geteuid() == 0 else ""
        self.config.write_text(
            f'{user}worker_processes 2;\npid "{self.folder}/nginx.pid";\nerror_log "{self.folder}/error.log" notice;\n'
            f"events {{ worker_connections 512; }}\nhttp {{\n  access_log off;\n{temp}{sites}}}\n"
        )


def _binary() -> str:
    found = find_nginx()
    if found is None:
        message = "nginx is not installed; on Debian: apt-get install nginx-light"
        raise FileNotFoundError(message)
    return found


class SmallServer(Server):
    """The lab's own server, reached through the target type ``files`` with named actions."""

    target_type = "files"

    def _command(self, command: str) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name("tlsserver.py")), command, str(self.folder)]

    def _argv(self) -> list[str]:
        return self._command("serve")

    def _service(self) -> str:
        actions = "".join(
            f"\n[actions.{command}-{self.name}]\nargv = {json.dumps(self._command(command))}\n"
            for command in ("check", "reload")
        )
        return f'type = "files"\nvalidate_action = "check-{self.name}"\nreload_action = "reload-{self.name}"\n{actions}'

    def damage(self) -> None:
        """Name a certificate file that does not exist."""
        (self.folder / "sites.json").write_text(json.dumps({"port": self.port, "sites": {"gone": ["gone", "gone"]}}))

    def mend(self) -> None:
        """Write sites.json."""
        sites = {site.name: [str(site.cert_path), str(site.key_path)] for site in self.sites.values()}
        (self.folder / "sites.json").write_text(json.dumps({"port": self.port, "sites": sites}))


def write_placeholder(site: Site) -> None:
    """Write a self-signed certificate that ended yesterday."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "placeholder")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=90))
        .not_valid_after(now - dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(site.name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    site.cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    site.key_path.touch(mode=0o600)
    plain = serialization.NoEncryption()
    site.key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
