"""An embedded PostgreSQL for one node: made at the first start, run as long as the coordinator runs, and no longer.

The server's processes hang on a keeper (see ``keeper.py``), which stops them when the coordinator ends in whatever way.
They live in a session of their own: a Ctrl-C in the coordinator's terminal reaches the coordinator alone, which closes
its pool before it calls ``stop()``. A server that ends by itself is started again on the same socket.

Only a Unix socket in a private folder is opened, no TCP port. This is not for replicas: they share a real server by
CERTCTL_DATABASE_URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import structlog

from coordinator.database import driver, keeper
from coordinator.database.datafolder import (
    SOCKET_DIR_PREFIX,
    SUPERUSER,
    DataFolder,
    remove_old_socket_dir,
    socket_in_use,
    stop_orphan,
)
from coordinator.database.installation import Installation, clean_environment, find_installation
from coordinator.database.unprivileged import Launcher, launcher_for
from core.errors import Misconfigured, Transient

DATABASE = "certctl"
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "cluster_name": "certctl",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "random_page_cost": "1.1",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Statements and the details of errors can hold what the callers sent; the server's log must not.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}
START_DEADLINE_S = 300.0  # a crash recovery reads all of the log since the last checkpoint
POLL_S = 0.01
MAX_SOCKET_PATH = 103  # sun_path holds 107 bytes on Linux and 103 on macOS
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0

log = structlog.get_logger(__name__)


class EmbeddedPostgres:
    """One server on ``<data_dir>/postgres``; ``bin_dir`` and ``settings`` replace the package's programs and values."""

    def __init__(
        self, data_dir: Path, *, settings: Mapping[str, str] | None = None, bin_dir: Path | None = None
    ) -> None:
        self._folder = DataFolder(data_dir)
        self._settings = {**SETTINGS, **(settings or {})}
        self._bin_dir = bin_dir
        self._server: _Server
        self._undo: AsyncExitStack | None = None

    async def start(self) -> str:
        """Start the server, after ``initdb`` the first time; return its DSN once it answers."""
        async with AsyncExitStack() as undo:
            installation = await find_installation(self._bin_dir)
            self._folder.prepare()
            undo.enter_context(self._folder.lock_as_owner())
            launcher = await launcher_for([self._folder.cluster, installation.bin_dir / "postgres"])
            (await self._folder.lock_for_keeper()).close()
            await self._folder.initialise(installation, launcher)
            remove_old_socket_dir(self._folder.cluster)
            socket_dir = make_socket_dir(launcher)
            undo.callback(shutil.rmtree, socket_dir, ignore_errors=True)
            self._server = await self._launch(installation, launcher, socket_dir)
            undo.push_async_callback(self._stop_server)
            supervision = asyncio.create_task(self._supervise(installation, launcher, socket_dir))
            undo.push_async_callback(_end, supervision)
            self._undo = undo.pop_all()
        return self._dsn(socket_dir, DATABASE)

    @staticmethod
    def as_role(dsn: str, role: str) -> str:
        """Return a DSN of this server for another role."""
        return dsn.replace(f"//{SUPERUSER}@", f"//{role}@", 1)

    def running(self) -> str | None:
        """Return the DSN of a server that another program runs on this folder now."""
        socket_dir = socket_in_use(self._folder.cluster)
        return None if socket_dir is None else self._dsn(socket_dir, DATABASE)

    async def stop(self) -> None:
        """Stop the server cleanly and free the folder; connections that are still open are ended."""
        if self._undo is not None:
            undo, self._undo = self._undo, None
            await undo.aclose()

    def _dsn(self, socket_dir: Path, database: str) -> str:
        return f"postgresql://{SUPERUSER}@/{database}?host={quote(str(socket_dir))}&port={self._settings['port']}"

    async def _supervise(self, installation: Installation, launcher: Launcher, socket_dir: Path) -> None:
        """Start the server again whenever it ends by itself."""
        pause_s = SHORTEST_PAUSE_S
        while True:
            await self._server.ended.wait()
            await self._server.stop()
            log.error("embedded_postgres_ended", last_lines=self._folder.recent_log(self._server.log_offset, lines=3))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            with contextlib.suppress(Misconfigured, Transient, *driver.ANY_FAILURE):
                self._server = await self._launch(installation, launcher, socket_dir)
                pause_s = SHORTEST_PAUSE_S
                log.info("embedded_postgres_started_again")

    async def _stop_server(self) -> None:
        await self._server.stop()

    async def _launch(self, installation: Installation, launcher: Launcher, socket_dir: Path) -> _Server:
        """Start keeper and postmaster; return when the database answers."""
        keeper_lock = await self._folder.lock_for_keeper()
        with keeper_lock:
            stale_pid = await stop_orphan(self._folder.cluster)
            argv = [*launcher.prefix, installation.program("postgres"), "-D", str(self._folder.cluster)]
            argv += ["-k", str(socket_dir)]
            argv += [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
            server = _Server(self._folder, socket_dir, argv, keeper_lock, stale_pid)
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                await self._answers(server, socket_dir)
        except TimeoutError as error:
            await server.stop()
            raise Transient(f"the embedded PostgreSQL did not answer in {START_DEADLINE_S:.0f} s") from error
        except BaseException:
            await asyncio.shield(server.stop())
            raise
        return server

    async def _answers(self, server: _Server, socket_dir: Path) -> None:
        """Wait until the coordinator's database can be connected to; create it the first time."""
        while True:
            try:
                connection = await driver.connect(self._dsn(socket_dir, DATABASE), {})
                await connection.close()
                return
            except driver.UnknownDatabase:
                first = await driver.connect(self._dsn(socket_dir, "postgres"), {})
                await first.execute(f'CREATE DATABASE "{DATABASE}"')
                await first.close()
            except driver.UNREACHABLE as error:
                if server.ended.is_set():
                    said = self._folder.recent_log(server.log_offset)
                    message = f"the embedded PostgreSQL did not start; {self._folder.log} ends with:\n{said}"
                    raise Misconfigured(message) from error
                await asyncio.sleep(POLL_S)


class _Server:
    """A running keeper with its postmaster. The keeper holds its standard output open, which tells when it ended."""

    def __init__(
        self, folder: DataFolder, socket_dir: Path, argv: list[str], lock: BinaryIO, stale_pid: str | None
    ) -> None:
        self.ended = asyncio.Event()
        keeper.shorten(str(folder.log))
        environment = clean_environment()
        if stale_pid is not None:
            # The server skips this number when it looks for a predecessor; meant for pg_ctl's own parent.
            environment["PG_GRANDPARENT_PID"] = stale_pid
        with folder.log.open("ab") as server_log:
            self.log_offset = server_log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__, str(folder.log), str(socket_dir), *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=server_log,
                env=environment,
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )
        assert self._process.stdin and self._process.stdout  # noqa: S101, PT018 - for the type checker: both are PIPE
        self._life, self._ended_pipe = self._process.stdin, self._process.stdout
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._ended_pipe, self._has_ended)

    def _has_ended(self) -> None:
        self._loop.remove_reader(self._ended_pipe)
        self.ended.set()

    async def stop(self) -> None:
        """Close the pipe that keeps the server alive and wait until it has stopped."""
        self._life.close()
        await self.ended.wait()
        self._process.wait()
        self._ended_pipe.close()


def make_socket_dir(launcher: Launcher) -> Path:
    """Make a private folder for the socket under a short root: a socket's path has about a hundred bytes at most."""
    for root in (os.environ.get("RUNTIME_DIRECTORY"), tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp makes 0700
        if root is None or len(os.fsencode(root)) > MAX_SOCKET_PATH - len(
            f"/{SOCKET_DIR_PREFIX}12345678/.s.PGSQL.65535"
        ):
            continue
        with contextlib.suppress(OSError):
            socket_dir = Path(tempfile.mkdtemp(prefix=SOCKET_DIR_PREFIX, dir=root))
            launcher.own(socket_dir)
            return socket_dir
    raise Misconfigured("there is no folder for the database's socket: set TMPDIR to a short, writable one")


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
