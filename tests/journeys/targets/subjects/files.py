"""A server that certctl has no connector for: a small one with PEM files, and one on Java with a PKCS#12 file."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from platform import python_version
from typing import Any

from benchmarks.lab.processes import Process, free_ports
from benchmarks.lab.servers import SmallServer
from tests.journeys.targets.subject import PROBE_S, SITE, Subject
from tests.journeys.targets.subjects.java_keystore import PASSWORD, JavaKeystore

OTHER = "other.example.test"


class Files(Subject):
    """The lab's own server, which closes each connection after the handshake."""

    target_type = "files"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self._port,) = free_ports(1)
        self.server = SmallServer("web", folder / "web", self._port, [SITE, OTHER])

    @classmethod
    def version(cls) -> str:
        """Return whose TLS it is."""
        return f"the benchmarks' own TLS server on Python {python_version()}"

    def processes(self) -> Sequence[Process]:
        """Return the server."""
        return [self.server.process]

    def start(self) -> None:
        """Start the server."""
        self.server.start()

    def policy(self) -> str:
        """Return its service and actions, the one that reloads gated."""
        check, _, reload = self.server.policy().rpartition("argv = [")
        python, _, words = reload.partition(", ")
        gated = self.gate.before(python.strip('"'), "reload")
        return f'{check}argv = ["{gated}", {words}'

    def config(self) -> dict[str, Any]:
        """Return plain files, and the chain alone as well."""
        site = self.server.target_config(SITE)
        chain = {"layout": "separate", "chain_path": str(self.server.sites[SITE].folder / "chain.pem")}
        return {**site, **chain, "probe": {"port": self._port, "sni": SITE, "timeout_s": PROBE_S}}

    def pair(self) -> tuple[bytes, bytes]:
        """Return what sites.json names."""
        site = self.server.sites[SITE]
        return site.cert_path.read_bytes(), site.key_path.read_bytes()

    def port(self) -> int:
        """Return its one port."""
        return self._port

    def visit(self) -> None:
        """Shake hands: there are no pages."""
        if self.seen() is None:
            message = "nobody answers"
            raise OSError(message)

    @contextmanager
    def kept(self) -> Iterator[Callable[[], None]]:
        """Shake hands again each time: it keeps no connection."""
        yield self.visit

    def reload(self) -> None:
        """Reload it by a signal."""
        self.server.process.signal(signal.SIGHUP)

    def damage(self) -> None:
        """Name files that do not exist."""
        self.server.damage()

    def divert(self) -> None:
        """Name the files of the other site."""
        mine, other = (self.server.sites[name] for name in (SITE, OTHER))
        text = (self.server.folder / "sites.json").read_text()
        for name in ("cert_path", "key_path"):
            text = text.replace(str(getattr(mine, name)), str(getattr(other, name)))
        (self.server.folder / "sites.json").write_text(text)

    def mend(self) -> None:
        """Name the target's files."""
        self.server.mend()


class PKCS12Files(JavaKeystore):
    """A server on Java with one PKCS#12 file, in the encryption of old programs."""

    target_type = "files"
    variant = "PKCS12"

    def config(self) -> dict[str, Any]:
        """Return the file, with its password."""
        return {
            "service": "app",
            "cert_path": str(self.store),
            "layout": "combined",
            "pkcs12": {"password": PASSWORD, "encryption": "legacy"},
            "probe": {"port": self._port, "timeout_s": PROBE_S},
        }

    def divert(self) -> None:
        """Name another file."""
        self._write(self._other, "other")

    @property
    def _other(self) -> Path:
        return self.folder / "other"

    def _make_entries(self) -> None:
        """Let keytool make two files."""
        self._generate(self.store, "server")
        self._generate(self._other, "other")


SUBJECTS = (Files, PKCS12Files)
