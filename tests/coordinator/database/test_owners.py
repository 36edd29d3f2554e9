"""The embedded PostgreSQL and its owner's life: kills, orphans, Ctrl-C, ordinary users, hosts without namespaces."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.database import unprivileged
from coordinator.database.embedded import EmbeddedPostgres
from coordinator.database.installation import find_installation
from coordinator.database.unprivileged import Launcher
from core.errors import Misconfigured
from tests.coordinator.database.conftest import postmaster_pid, running, until, value_of
from tests.postgres import FAST

pytestmark = pytest.mark.anyio

OWNER = Path(__file__).with_name("owner.py")
ROOT = Path(__file__).parents[3]
# By way of `env`, because setpriv itself starts its program with some of root's powers left.
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@contextlib.contextmanager
def owner(
    data_dir: Path, prefix: tuple[str, ...] = (), python: str = sys.executable
) -> Iterator[subprocess.Popen[str]]:
    """Run a process that owns a server; its first line is the DSN, or why there is none."""
    paths = os.pathsep.join([str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))])
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*prefix, python, str(OWNER), str(data_dir)],
        stdin=pipe,
        stdout=pipe,
        text=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": paths},
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    """Let the owner stop its server and end by itself."""
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == 0


def keeper_of(postmaster: int) -> int:
    listing = subprocess.run(["ps", "-o", "ppid=", "-p", str(postmaster)], capture_output=True, text=True, check=True)
    return int(listing.stdout)


def socket_of(dsn: str) -> Path:
    return Path(dsn.partition("?host=")[2].partition("&")[0])


async def test_a_killed_owner_takes_the_server_with_it_and_what_was_committed_stays(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with owner(data_dir) as process:
        dsn = first_line(process)
        await value_of(dsn, "CREATE TABLE kept AS SELECT 7 AS n")
        postmaster = postmaster_pid(data_dir)
        process.kill()
        process.wait()
        await until(lambda: not running(postmaster), deadline_s=5)
        await until(lambda: not socket_of(dsn).exists(), deadline_s=5)
    with owner(data_dir) as process:
        assert await value_of(first_line(process), "SELECT n FROM kept") == 7


async def test_a_restarted_owner_waits_until_the_killed_ones_server_has_ended(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with owner(data_dir) as process:
        first_line(process)
        before = postmaster_pid(data_dir)
        os.kill(before, signal.SIGSTOP)  # it cannot end as long as it sleeps
        process.kill()
        process.wait()
        with owner(data_dir) as second:
            await until(lambda: running(second.pid))
            os.kill(before, signal.SIGCONT)
            assert await value_of(first_line(second), "SELECT 1") == 1
            assert postmaster_pid(data_dir) != before
            assert not running(before)


async def test_an_orphan_of_a_killed_keeper_is_stopped_first(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with owner(data_dir) as process:
        dsn = first_line(process)
        orphan = postmaster_pid(data_dir)
        os.kill(keeper := keeper_of(orphan), signal.SIGSTOP)
        process.kill()
        process.wait()
        os.kill(keeper, signal.SIGKILL)
    await until(lambda: not running(keeper))
    assert running(orphan)
    server = EmbeddedPostgres(data_dir)
    try:
        assert await value_of(await server.start(), "SELECT 1") == 1
        await until(lambda: not running(orphan))  # it ends a moment before it is gone
        assert not socket_of(dsn).exists()
    finally:
        await server.stop()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_signals_to_the_owners_group_do_not_reach_the_server(tmp_path: Path, how: signal.Signals) -> None:
    with owner(tmp_path / "data") as process:
        dsn = first_line(process)
        postmaster = postmaster_pid(tmp_path / "data")
        assert os.getsid(postmaster) != os.getsid(process.pid)
        os.kill(keeper_of(postmaster), how)
        if how != signal.SIGHUP:
            os.killpg(process.pid, how)
        assert await value_of(dsn, "SELECT 1") == 1
        end(process)
        assert not running(postmaster)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Lend a folder that every user can walk through; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="certctl-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def nobodys_python() -> str:
    """An interpreter of this version that an ordinary user can run, with the packages of this one in its reach."""
    for python in (sys.executable, "/usr/bin/python3", f"/usr/bin/python3.{sys.version_info.minor}"):
        code = f"import sys, asyncpg, structlog; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
        paths = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
        probe = [*NOBODY, python, "-c", code]
        if subprocess.run(probe, env={"PYTHONPATH": paths}, cwd="/", capture_output=True, check=False).returncode == 0:
            return python
    pytest.skip("needs an ordinary user to reach an interpreter with these packages")


@needs_root
async def test_an_ordinary_user_owns_what_it_starts(open_folder: Path, nobodys_python: str) -> None:
    home = open_folder / "home"
    home.mkdir(mode=0o700)
    os.chown(home, 65534, 65534)
    with owner(home / "data", NOBODY, nobodys_python) as process:
        assert await value_of(first_line(process), "SELECT 1") == 1
        assert {path.lstat().st_uid for path in home.rglob("*")} == {65534}
        end(process)


@needs_root
async def test_an_ordinary_user_without_a_right_to_the_folder_is_told(open_folder: Path, nobodys_python: str) -> None:
    with owner(open_folder / "data", NOBODY, nobodys_python) as process:
        said = first_line(process)
        assert said.startswith("Misconfigured: CERTCTL_DATA_DIR")
        assert "Permission denied" in said


@needs_root
async def test_an_ordinary_user_on_the_data_of_root_is_told(open_folder: Path, nobodys_python: str) -> None:
    server = EmbeddedPostgres(open_folder / "data", settings=FAST)
    await server.start()
    await server.stop()
    with owner(open_folder / "data", NOBODY, nobodys_python) as process:
        assert first_line(process).startswith("Misconfigured: CERTCTL_DATA_DIR")


@pytest.fixture
def no_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that forbids user namespaces and has a system user for us."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "unshare").write_text("#!/bin/sh\nexit 1\n")
    (bin_dir / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_dir), prepend=os.pathsep)
    monkeypatch.setattr(unprivileged, "SYSTEM_USERS", ("nobody",))


@needs_root
@pytest.mark.usefixtures("no_namespaces")
async def test_without_namespaces_a_system_user_runs_it_and_back_again(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = (await find_installation()).bin_dir / "postgres"
    nobody = pwd.getpwnam("nobody")
    if not all(unprivileged.passable(parent, nobody) for parent in programs.parents):
        pytest.skip("needs an ordinary user to reach the programs of the package")
    data_dir = open_folder / "data"
    data_dir.mkdir(mode=0o755)
    server = EmbeddedPostgres(data_dir, settings=FAST)
    await value_of(await server.start(), "CREATE TABLE kept AS SELECT 7 AS n")
    assert (data_dir / "postgres").stat().st_uid == nobody.pw_uid
    assert data_dir.stat().st_uid == 0
    await server.stop()
    monkeypatch.undo()
    server = EmbeddedPostgres(data_dir, settings=FAST)
    assert await value_of(await server.start(), "SELECT n FROM kept") == 7
    assert (data_dir / "postgres" / "base").stat().st_uid == 0
    await server.stop()


@needs_root
@pytest.mark.usefixtures("no_namespaces")
async def test_without_namespaces_a_closed_folder_is_refused_and_stays_closed(open_folder: Path) -> None:
    data_dir = open_folder / "closed" / "data"
    data_dir.parent.mkdir(mode=0o700)
    with pytest.raises(Misconfigured, match=r"cannot pass through .*closed.*: run the coordinator as an ordinary user"):
        await EmbeddedPostgres(data_dir).start()
    assert data_dir.parent.stat().st_mode & 0o777 == 0o700


@needs_root
@pytest.mark.usefixtures("no_namespaces")
async def test_without_namespaces_and_without_a_system_user_the_remedies_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unprivileged, "SYSTEM_USERS", ("no-such-user",))
    with pytest.raises(Misconfigured, match=r"no system user named no-such-user: .*CERTCTL_DATABASE_URL"):
        await EmbeddedPostgres(tmp_path / "data").start()


@needs_root
async def test_a_change_of_owner_goes_from_the_inside_out(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "file").touch()
    Launcher((), 65534).own(folder)
    assert {path.stat().st_uid for path in (folder, folder / "b", folder / "b" / "file")} == {65534}
