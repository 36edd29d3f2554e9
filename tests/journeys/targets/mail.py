"""What the mail servers have in common: two listeners, one with TLS at once and one that begins in plain text."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.lab.processes import Process, free_ports
from benchmarks.lab.servers import Site, write_placeholder
from tests.journeys.targets.chapters import CHAPTERS
from tests.journeys.targets.subject import PROBE_S, SITE, Chapter, Subject

NEEDS_ROOT = "only root can run this server, and these tests were run by somebody else"


class MailServer(Subject):
    """The target's probe asks for STARTTLS; the witness of what is served comes to the other listener."""

    skips: ClassVar[Mapping[Chapter, str]] = {} if os.geteuid() == 0 else dict.fromkeys(CHAPTERS, NEEDS_ROOT)
    protocol: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._port, self.plain_port = free_ports(2)
        self.home = public_folder()
        self.site, self.other = (Site(SITE, folder / name) for name in ("live", "other"))
        for site in (self.site, self.other):
            site.folder.mkdir()
            write_placeholder(site)
        self.process = Process(folder.name, self.argv(), folder / "server.log")

    @abstractmethod
    def argv(self) -> list[str]:
        """Return the command that runs the server in the foreground."""

    @abstractmethod
    def write(self, site: Site) -> None:
        """Write the configuration that serves this site's files."""

    def processes(self) -> Sequence[Process]:
        """Return the server."""
        return [self.process]

    def start(self) -> None:
        """Start the server."""
        self.process.start()
        self.process.await_ready(lambda: self.seen() is not None)

    def config(self) -> dict[str, Any]:
        """Return the pair's paths, and the listener that begins in plain text."""
        probe = {"port": self.plain_port, "protocol": self.protocol, "timeout_s": PROBE_S}
        return {"cert_path": str(self.site.cert_path), "key_path": str(self.site.key_path), "probe": probe}

    def pair(self) -> tuple[bytes, bytes]:
        """Return both files."""
        return self.site.cert_path.read_bytes(), self.site.key_path.read_bytes()

    def port(self) -> int:
        """Return the listener with TLS at once."""
        return self._port

    def divert(self) -> None:
        """Name other files."""
        self.write(self.other)

    def mend(self) -> None:
        """Name the target's files."""
        self.write(self.site)


def public_folder() -> Path:
    """Return a folder, removed at the end, that the servers' own users can enter; its name is short for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="certctl-mail-", dir="/var/tmp"))
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
