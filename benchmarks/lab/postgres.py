"""A PostgreSQL that is not certctl's: initialised and run by its own programs, with passwords over TCP."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

from benchmarks.lab.processes import Process, free_ports, wait_until
from coordinator.database.installation import find_installation
from coordinator.database.unprivileged import launcher_for

DEBIAN = Path("/usr/lib/postgresql/15/bin")
PASSWORD = "s3cr3t-of-the-database"  # noqa: S105 - of a server that lives as long as its test


class OwnPostgres:
    """Debian's PostgreSQL 15, or, where it is not installed, the programs of the embedded one run on their own."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self._host = host
        self._bin = DEBIAN if DEBIAN.exists() else asyncio.run(find_installation()).bin_dir
        self._cluster, self._port = folder / "cluster", free_ports(1)[0]
        self._launcher = asyncio.run(launcher_for([self._cluster, self._bin / "postgres"]))
        self._initialise()
        argv = [*self._argv("postgres"), "-D", str(self._cluster), "-p", str(self._port), "-h", self._host, "-k", ""]
        self.process = Postmaster("postgres", argv, folder / "postgres.log")
        self.url = f"postgresql://certctl:{PASSWORD}@{self._host}:{self._port}/postgres"

    def start(self) -> OwnPostgres:
        """Start it and wait until it takes connections."""
        self.process.start()
        asked = [str(self._bin / "pg_isready"), "-h", self._host, "-p", str(self._port), "-q"]
        self.process.await_ready(lambda: subprocess.run(asked, check=False).returncode == 0)
        return self

    def freeze(self) -> list[int]:
        """Stop every process of it, so that nothing is refused and nothing answered; return them for ``thaw``."""
        return _freeze(self.process.pid)

    def dump(self) -> str:
        """Return the whole database as pg_dump writes it."""
        argv = [str(self._bin / "pg_dump"), self.url]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def _argv(self, program: str) -> list[str]:
        return [*self._launcher.prefix, str(self._bin / program)]

    def _initialise(self) -> None:
        self._cluster.mkdir(mode=0o700)
        password = self._cluster.with_name("password")
        password.write_text(PASSWORD)
        for path in (self._cluster, password):
            self._launcher.own(path)
        how = ["-A", "scram-sha-256", "-U", "certctl", f"--pwfile={password}", "--no-sync", "--no-locale", "-E", "UTF8"]
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        argv = [*self._argv("initdb"), *how, "-D", str(self._cluster)]
        subprocess.run(argv, env=environment, check=True, capture_output=True)
        with (self._cluster / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet scram-sha-256\n")


class Postmaster(Process):
    """Ends its sessions when it is stopped, where SIGTERM would wait for them."""

    def stop(self) -> int | None:
        """Ask for a fast shutdown."""
        self.signal(signal.SIGINT)
        wait_until("the end of PostgreSQL", lambda: not self.running())
        return self.returncode()


def thaw(pids: list[int]) -> None:
    """Let frozen processes go on."""
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def _freeze(pid: int) -> list[int]:
    """Stop a process, then those below it: a parent that is stopped makes no more of them and buries none."""
    os.kill(pid, signal.SIGSTOP)
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [pid, *(each for child in found.stdout.split() for each in _freeze(int(child)))]


def packaged_program(name: str) -> str:
    """Return a program of the embedded PostgreSQL."""
    return asyncio.run(find_installation()).program(name)
