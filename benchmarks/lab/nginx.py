"""A real nginx in a folder of the lab's: own configuration, own pid file, ports above 1024, any user."""

from __future__ import annotations

import datetime
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

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


@dataclass
class Site:
    """One server name on an nginx, with the files it serves from."""

    name: str
    folder: Path

    @property
    def cert_path(self) -> Path:
        """Return the file that ssl_certificate names."""
        return self.folder / "fullchain.pem"

    @property
    def key_path(self) -> Path:
        """Return the file that ssl_certificate_key names."""
        return self.folder / "privkey.pem"


class Nginx:
    """One nginx with a placeholder certificate for each name, as a host has before certctl comes."""

    def __init__(self, name: str, folder: Path, port: int, names: list[str]) -> None:
        self.name = name
        self.folder = folder
        self.port = port
        self.binary = find_nginx() or ""
        self.config = folder / "nginx.conf"
        self.sites = {site: Site(site, folder / "live" / site) for site in names}
        folder.mkdir(parents=True, exist_ok=True)
        for site in self.sites.values():
            site.folder.mkdir(parents=True)
            write_placeholder(site)
        self.config.write_text(self._config())
        argv = [self.binary, "-c", str(self.config), "-g", "daemon off;", "-e", str(folder / "error.log")]
        self.process = Process(f"nginx {name}", argv, folder / "nginx.log")

    def start(self) -> Nginx:
        """Start it and wait until it serves."""
        self.process.start()
        first = next(iter(self.sites))
        self.process.await_ready(lambda: look(self.port, first) is not None)
        return self

    def _config(self) -> str:
        temp = "".join(f'  {kind}_temp_path "{self.folder}/{kind}";\n' for kind in ("client_body", "proxy", "fastcgi"))
        servers = "".join(
            f"  server {{\n    listen 127.0.0.1:{self.port} ssl;\n    server_name {site.name};\n"
            f'    ssl_certificate "{site.cert_path}";\n    ssl_certificate_key "{site.key_path}";\n'
            f'    return 200 "{site.name}\\n";\n  }}\n'
            for site in self.sites.values()
        )
        user = "user root;\n" if os.geteuid() == 0 else ""
        return (
            f'{user}worker_processes 1;\npid "{self.folder}/nginx.pid";\nerror_log "{self.folder}/error.log" warn;\n'
            f"events {{ worker_connections 512; }}\nhttp {{\n  access_log off;\n{temp}{servers}}}\n"
        )


def write_placeholder(site: Site) -> None:
    """Write a self-signed certificate that ended yesterday: what the demo's hosts serve at first."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "placeholder")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=90))
        .not_valid_after(now - datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    site.cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    site.key_path.touch(mode=0o600)
    plain = serialization.NoEncryption()
    site.key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
