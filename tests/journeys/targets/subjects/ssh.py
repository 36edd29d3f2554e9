"""nginx behind a real OpenSSH server, by SFTP and, where that is missing, by a shell."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.lab.processes import Process
from tests.journeys.targets.subject import PROBE_S
from tests.journeys.targets.subjects.nginx import BINARY, Nginx
from tests.peers.sshd import SSHServer


class FarNginx(Nginx):
    """nginx on a host that is logged in at."""

    target_type = "ssh"
    sftp: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.sshd = SSHServer(folder / "sshd")
        self.sshd.configure(sftp=self.sftp)

    @classmethod
    def version(cls) -> str:
        """Return both versions."""
        said = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr
        return f"{said.split(',')[0]}; {super().version()}"

    def processes(self) -> Sequence[Process]:
        """Return both."""
        return [self.process, self.sshd.process]

    def start(self) -> None:
        """Start both."""
        super().start()
        self.sshd.start()

    def policy(self) -> str:
        """Return the one host, with a reload command that is gated."""
        argv = ["-c", str(self.conf), "-e", str(self.folder / "error.log")]
        commands = {
            "validate_command": json.dumps([BINARY, *argv, "-t", "-q"]),
            "reload_command": json.dumps([self.gate.before(BINARY, "-s"), *argv, "-s", "reload"]),
        }
        return f"[services.far]\ntype = 'ssh'\n[services.far.ssh]\n{self.sshd.facts(self.site.folder, **commands)}"

    def config(self) -> dict[str, Any]:
        """Return the paths that the server block names, on the host."""
        paths = {"cert_path": str(self.site.cert_path), "key_path": str(self.site.key_path), "layout": "separate"}
        where = {"service": "far", "host": "127.0.0.1", "port": self.sshd.port}
        return {**where, **paths, "probe": {"port": self.port(), "timeout_s": PROBE_S}}


class FarNginxByShell(FarNginx):
    """The same without SFTP."""

    variant = "shell"
    quick = False
    sftp = False


SUBJECTS = (FarNginx, FarNginxByShell)
