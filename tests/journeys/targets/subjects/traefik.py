"""Traefik, whose file provider watches a folder with the target's dynamic file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.lab.processes import Process, free_ports
from benchmarks.lab.servers import Site, SmallServer, toml_string
from tests.journeys.targets.subject import PROBE_S, SITE, Subject
from tests.programs import TRAEFIK, traefik_version


class Traefik(Subject):
    """One Traefik with one entry point; at first it serves the certificate that it makes for itself."""

    target_type = "traefik"
    layout: ClassVar[str] = "current"
    skips: ClassVar = {"failing reload": "Traefik has no reload that could fail: it watches a file"}
    # It has no check either. It takes nothing new while one dynamic file is broken, and that is seen.
    broken_cause = "was not served within"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._port, other_port = free_ports(2)
        self.site = Site(SITE, folder / "live")
        self.dynamic = folder / "dynamic"
        self.dynamic.mkdir()
        self.other = SmallServer("other", folder / "other", other_port, [SITE])
        argv = [TRAEFIK, f"--entrypoints.web.address=127.0.0.1:{self._port}", "--entrypoints.web.http.tls=true"]
        provider = [f"--providers.file.directory={self.dynamic}", "--providers.providersThrottleDuration=100ms"]
        self.process = Process(folder.name, [*argv, *provider, "--log.level=WARN"], folder / "server.log")

    @classmethod
    def version(cls) -> str:
        """Return the first line of what ``traefik version`` says."""
        return traefik_version()

    def processes(self) -> Sequence[Process]:
        """Return Traefik, and the server it is diverted to."""
        return [self.process, self.other.process]

    def start(self) -> None:
        """Start both."""
        self.other.start()
        self.process.start()
        self.process.await_ready(lambda: self.seen() is not None)

    def policy(self) -> str:
        """Return the folder; there is nothing else to say."""
        return f"allowed_paths = [{toml_string(self.folder)}]\n"

    def config(self) -> dict[str, Any]:
        """Return paths that nothing is at yet."""
        paths = {"cert_path": str(self.site.cert_path), "key_path": str(self.site.key_path), "layout": self.layout}
        return {
            **paths,
            "dynamic_path": str(self.dynamic / "certctl.yaml"),
            "probe": {"port": self._port, "timeout_s": PROBE_S},
        }

    def pair(self) -> tuple[bytes, bytes]:
        """Return what the dynamic file names."""
        return self.site.cert_path.read_bytes(), self.site.key_path.read_bytes()

    def port(self) -> int:
        """Return its one port."""
        return self._port

    def reload(self) -> None:
        """Let it read its dynamic files again."""
        os.utime(self.dynamic / "certctl.yaml")

    def damage(self) -> None:
        """Put a file beside the target's that is no YAML."""
        self._write("tls: [")

    def divert(self) -> None:
        """Pass the site's connections through to another server."""
        router = {"rule": f"HostSNI(`{SITE}`)", "service": "other", "tls": {"passthrough": True}}
        servers = [{"address": f"127.0.0.1:{self.other.port}"}]
        tcp = {"routers": {"other": router}, "services": {"other": {"loadBalancer": {"servers": servers}}}}
        self._write(json.dumps({"tcp": tcp}))

    def mend(self) -> None:
        """Leave the target's dynamic file alone there."""
        (self.dynamic / "other.yaml").unlink(missing_ok=True)

    def _write(self, text: str) -> None:
        (self.dynamic / "other.yaml").write_text(text)


SUBJECTS = (Traefik,)
