"""An nginx that gets and loses names while it runs, and a decoy that serves something else under each of them."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from benchmarks.lab.processes import free_ports, wait_until
from benchmarks.lab.servers import Nginx, Site, write_placeholder
from benchmarks.lab.wire import look

DECOY = "decoy.example.test"
_SETTLE_S = 0.15
SHA256 = hashes.SHA256()
_BROKEN = ("mismatch", "cannot load", "PEM_read", "no start line")


class Sites(Nginx):
    """One nginx; ``decoy_port`` shows a certificate that nobody asked for, whatever the name."""

    def __init__(self, folder: Path) -> None:
        port, self.decoy_port = free_ports(2)
        self.layouts: dict[str, str] = {}
        super().__init__("web", folder, port, [DECOY])

    def mend(self) -> None:
        """Write nginx.conf: the decoy on its own port, and in the layout ``combined`` one file for both."""
        super().mend()
        text = self.config.read_text()
        for name, site in self.sites.items():
            if name == DECOY:
                text = text.replace(f":{self.port} ssl;\n    server_name {DECOY}", f":{self.decoy_port} ssl")
            elif self.layouts[name] == "combined":
                text = text.replace(f'"{site.key_path}"', f'"{site.cert_path}"')
        self.config.write_text(text)

    def start(self) -> Sites:
        """Start it and wait until the decoy is there."""
        self.process.start()
        self.process.await_ready(lambda: look(self.decoy_port, DECOY) is not None)
        return self

    def add(self, name: str, layout: str) -> str:
        """Serve an expired placeholder for one more name; return its fingerprint once it is seen."""
        site = self.sites[name] = Site(name, self.folder / "live" / name)
        self.layouts[name] = layout
        site.folder.mkdir(parents=True)
        write_placeholder(site)
        if layout == "combined":
            site.cert_path.write_bytes(site.key_path.read_bytes() + site.cert_path.read_bytes())
            site.key_path.unlink()
        self._reload()
        placeholder = leaf_of(site.cert_path.read_bytes()).fingerprint(SHA256).hex()
        shown: list[float] = []

        def settled() -> bool:
            """Say whether nothing else was seen for some time: nginx's old workers accept beside the new ones."""
            shown.append(time.monotonic())
            if not self._shows(name, placeholder):
                shown.clear()
            return bool(shown) and shown[-1] - shown[0] > _SETTLE_S

        wait_until(f"{name} is there", settled)
        return placeholder

    def drop(self, name: str) -> None:
        """Serve a name no longer from the next reload on."""
        self.sites.pop(name)

    def _shows(self, name: str, fingerprint: str) -> bool:
        seen = look(self.port, name)
        return seen is not None and seen.fingerprint == fingerprint

    def _reload(self) -> None:
        self.mend()
        self.process.signal(signal.SIGHUP)

    def complaints(self, offset: int) -> list[str]:
        """Return what nginx wrote to its log after ``offset`` about files that are no pair."""
        text = (self.folder / "error.log").read_bytes()[offset:].decode(errors="replace")
        return [line for line in text.splitlines() if any(word in line for word in _BROKEN)]

    def log_size(self) -> int:
        """Return how long nginx's log is."""
        return (self.folder / "error.log").stat().st_size


def leaf_of(pem: bytes) -> x509.Certificate:
    """Return the first certificate in PEM."""
    return x509.load_pem_x509_certificates(pem)[0]


def is_pair(certificate: bytes, key: bytes) -> bool:
    """Say whether two contents are a certificate and its key, complete."""
    try:
        private = serialization.load_pem_private_key(key[key.index(b"-----BEGIN PRIVATE") :], None)
        return leaf_of(certificate).public_key() == private.public_key()
    except ValueError:
        return False
