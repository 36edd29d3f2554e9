"""A real OpenSSH server on a free loopback port, for the user who runs the tests."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path

from benchmarks.lab.processes import Process, free_ports

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/usr/local/sbin") or "/usr/sbin/sshd"
USER = pwd.getpwuid(os.getuid()).pw_name


class SSHServer:
    """One server in a folder of its own, which lets ``key`` in; ``secret_key`` is the same with a passphrase."""

    passphrase = "open sesame"

    def __init__(self, folder: Path) -> None:
        assert Path(SSHD).exists(), f"{SSHD} is needed for these tests: apt-get install openssh-server"
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (self.port,) = free_ports(1)
        self.key, self.secret_key, self._host_key = (folder / name for name in ("key", "secret_key", "host_key"))
        self.known_hosts = folder / "known_hosts"
        _make_key(self.key, "")
        _make_key(self.secret_key, self.passphrase)
        public = [path.with_suffix(".pub").read_text() for path in (self.key, self.secret_key)]
        (folder / "authorized_keys").write_text("".join(public))
        self.process = Process("sshd", [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], folder / "sshd.log")
        self.new_host_key()
        self.configure()
        self.know()

    def new_host_key(self) -> None:
        """Make another key for the host."""
        for path in (self._host_key, self._host_key.with_suffix(".pub")):
            path.unlink(missing_ok=True)
        _make_key(self._host_key, "")

    def know(self) -> None:
        """Write the host's present key to ``known_hosts``."""
        kind, text, *_ = self._host_key.with_suffix(".pub").read_text().split()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {text}\n")

    def fingerprint(self) -> str:
        """Return the host key's, in OpenSSH's own words."""
        argv = ["ssh-keygen", "-l", "-f", str(self._host_key)]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()[1]

    def configure(self, *, sftp: bool = True, extra: str = "") -> None:
        """Write the configuration; without ``sftp`` there is no such subsystem."""
        # With that depth bash does not read the .bashrc of whoever runs the tests.
        subsystem = "Subsystem sftp internal-sftp\n" if sftp else ""
        (self.folder / "sshd_config").write_text(
            f"{extra}Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self._host_key}\nUsePAM no\nStrictModes no\n"
            f"PidFile {self.folder}/sshd.pid\nAuthorizedKeysFile {self.folder}/authorized_keys\n"
            f"PermitRootLogin yes\nSetEnv SHLVL=5\nPasswordAuthentication yes\n{subsystem}"
        )

    def start(self) -> None:
        """Start it and wait until it answers."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.process.start()
        self.process.await_ready(self._answers)

    def knows(self, kex: str) -> bool:
        """Say whether this version of OpenSSH has a key exchange."""
        return kex in subprocess.run(["ssh", "-Q", "kex"], capture_output=True, text=True, check=True).stdout.split()

    def restart(self) -> None:
        """Start it again, with what was configured since."""
        self.process.stop()
        self.start()

    def facts(self, paths: Path, **more: str) -> str:
        """Return the lines of ``[services.NAME.ssh]``; ``more`` are further ones in TOML, which replace the usual."""
        lines = {
            "hosts": f'["127.0.0.1:{self.port}"]',
            "user": f'"{USER}"',
            "allowed_paths": f'["{paths}"]',
            "key_file": f'"{self.key}"',
            "known_hosts": f'"{self.known_hosts}"',
            **more,
        }
        return "".join(f"{name} = {value}\n" for name, value in lines.items() if value)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False


def _make_key(path: Path, passphrase: str) -> None:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "certctl-test", "-f", str(path)]
    subprocess.run(argv, check=True)
