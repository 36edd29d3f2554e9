"""The embedded PostgreSQL in one process: starts, restarts, refusals, and what it leaves alone."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from coordinator.database import driver, installation, keeper
from coordinator.database.datafolder import DataFolder
from coordinator.database.embedded import EmbeddedPostgres
from core.errors import Misconfigured
from tests.coordinator.database.conftest import postmaster_pid, running, until, value_of
from tests.postgres import FAST

pytestmark = pytest.mark.anyio


def socket_dir(dsn: str) -> Path:
    return Path(parse_qs(urlsplit(dsn).query)["host"][0])


async def test_data_outlives_a_restart(tmp_path: Path) -> None:
    first = EmbeddedPostgres(tmp_path / "data")
    dsn = await first.start()
    await value_of(dsn, "CREATE TABLE kept AS SELECT 7 AS n")
    await first.stop()
    assert not socket_dir(dsn).exists()
    second = EmbeddedPostgres(tmp_path / "data")
    dsn = await second.start()
    try:
        assert await value_of(dsn, "SELECT n FROM kept") == 7
        assert await value_of(dsn, "SHOW fsync") == "on"
        assert await value_of(dsn, "SHOW synchronous_commit") == "on"
        assert await value_of(dsn, "SHOW listen_addresses") == ""
    finally:
        await second.stop()


@pytest.mark.parametrize("name", ["with a space", "x" * 120, 'it\'s "odd" ü'])
async def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    server = EmbeddedPostgres(tmp_path / name, settings=FAST)
    dsn = await server.start()
    try:
        assert await value_of(dsn, "SELECT 1") == 1
    finally:
        await server.stop()


async def test_no_folder_above_the_data_is_touched(tmp_path: Path) -> None:
    data_dir = tmp_path / "home" / "data"
    data_dir.parent.mkdir(mode=0o700)
    before = [(parent, parent.stat().st_mode, parent.stat().st_uid) for parent in data_dir.parents]
    server = EmbeddedPostgres(data_dir, settings=FAST)
    dsn = await server.start()
    try:
        assert stat.S_IMODE(socket_dir(dsn).stat().st_mode) == 0o700
        assert stat.S_IMODE((data_dir / "postgres").stat().st_mode) == 0o700
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
        assert stat.S_IMODE((data_dir / "postgres.log").stat().st_mode) == 0o600
        assert {path.lstat().st_uid for path in data_dir.rglob("*")} == {os.geteuid()}
    finally:
        await server.stop()
    assert [(parent, parent.stat().st_mode, parent.stat().st_uid) for parent in data_dir.parents] == before


async def test_a_second_owner_is_refused_and_the_first_goes_on(
    own_server: tuple[EmbeddedPostgres, str], tmp_path: Path
) -> None:
    _, dsn = own_server
    with pytest.raises(Misconfigured, match="another coordinator runs on"):
        await EmbeddedPostgres(tmp_path / "data").start()
    assert await value_of(dsn, "SELECT 1") == 1


async def test_the_keeper_holds_its_lock_as_long_as_there_is_a_server(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    server = EmbeddedPostgres(folder.path, settings=FAST)
    await server.start()
    assert folder._try_lock("postgres.keeper.lock") is None
    await server.stop()
    (await folder.lock_for_keeper()).close()


async def test_a_stopped_server_can_be_started_again_and_stop_is_harmless_twice(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "data", settings=FAST)
    await server.start()
    await server.stop()
    await server.stop()
    assert await value_of(await server.start(), "SELECT 1") == 1
    await server.stop()


async def test_another_major_version_is_refused_with_both_named(tmp_path: Path, debian_bin_dir: Path) -> None:
    old = EmbeddedPostgres(tmp_path / "data", settings=FAST, bin_dir=debian_bin_dir)
    await old.start()
    await old.stop()
    with pytest.raises(Misconfigured, match=r"made by PostgreSQL 15 .* PostgreSQL 18: .*CERTCTL_DATABASE_URL"):
        await EmbeddedPostgres(tmp_path / "data").start()


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match=r"CERTCTL_DATA_DIR .*Not a directory"):
        await EmbeddedPostgres(tmp_path / "file" / "data").start()


async def test_a_failed_start_shows_the_end_of_the_log_and_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match='invalid value for parameter "shared_buffers"'):
        await EmbeddedPostgres(tmp_path / "data", settings={"shared_buffers": "much"}).start()
    server = EmbeddedPostgres(tmp_path / "data", settings=FAST)
    await server.start()
    await server.stop()


async def test_without_the_package_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "PACKAGE", "no_such_package")
    with pytest.raises(Misconfigured, match="CERTCTL_DATABASE_URL"):
        await EmbeddedPostgres(tmp_path / "data").start()


async def test_an_interrupted_initdb_is_begun_again(tmp_path: Path) -> None:
    half = tmp_path / "data" / "postgres.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres(tmp_path / "data", settings=FAST)
    assert await value_of(await server.start(), "SELECT 1") == 1
    await server.stop()
    assert not half.exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
async def test_a_server_that_ends_by_itself_is_started_again_on_the_same_socket(
    own_server: tuple[EmbeddedPostgres, str], tmp_path: Path, how: signal.Signals
) -> None:
    _, dsn = own_server
    before = postmaster_pid(tmp_path / "data")
    os.kill(before, how)

    async def answers_again() -> bool:
        try:
            return bool(await value_of(dsn, "SELECT pg_postmaster_start_time() IS NOT NULL"))
        except driver.ANY_FAILURE:
            return False

    await until(lambda: not running(before))
    await until(answers_again)
    assert postmaster_pid(tmp_path / "data") != before


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


async def test_a_number_that_now_belongs_to_another_program_does_not_block_the_start(
    tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    server = EmbeddedPostgres(tmp_path / "data", settings=FAST)
    await server.start()
    pid_file = tmp_path / "data" / "postgres" / "postmaster.pid"
    text = pid_file.read_text()
    await server.stop()
    pid_file.write_text("\n".join([str(stranger.pid), *text.splitlines()[1:], ""]))
    assert await value_of(await server.start(), "SELECT 1") == 1
    await server.stop()
    assert stranger.poll() is None


async def test_a_log_that_grew_is_moved_aside_and_goes_on_in_the_same_file(tmp_path: Path) -> None:
    log = tmp_path / "postgres.log"
    with log.open("ab") as writer:
        writer.write(b"x" * 100)
        writer.flush()
        keeper.shorten(str(log), limit_bytes=100)
        assert log.stat().st_size == 100
        keeper.shorten(str(log), limit_bytes=99)
        writer.write(b"next")
    assert (tmp_path / "postgres.log.1").read_bytes() == b"x" * 100
    assert log.read_bytes() == b"next"
