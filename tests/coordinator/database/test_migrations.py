"""Migrations: applied once, in order, by one starter; what does not fit is refused."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from coordinator.database import driver
from coordinator.database.migrations import LOCK, migrate, own_migrations, read_migrations
from core.errors import Misconfigured
from tests.coordinator.database.conftest import until, value_of

pytestmark = pytest.mark.anyio

VERSIONS = "SELECT string_agg(version || ' ' || name, ', ' ORDER BY version) FROM schema_migrations"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE first (n int); INSERT INTO first VALUES (1);")
    (tmp_path / "0002_second.sql").write_text("ALTER TABLE first ADD COLUMN m int NOT NULL DEFAULT 2;")
    return tmp_path


async def test_each_file_is_applied_once_and_in_order(empty_database_url: str, folder: Path) -> None:
    assert [str(done) for done in await migrate(empty_database_url, folder)] == ["0001_first", "0002_second"]
    assert await migrate(empty_database_url, folder) == []
    (folder / "0003_third.sql").write_text("DROP TABLE first")
    assert [str(done) for done in await migrate(empty_database_url, folder)] == ["0003_third"]
    assert await value_of(empty_database_url, VERSIONS) == "1 first, 2 second, 3 third"


async def test_certctls_own_files_are_found_and_apply(empty_database_url: str) -> None:
    assert await migrate(empty_database_url) == read_migrations(own_migrations())
    assert await migrate(empty_database_url) == []


async def test_a_raw_connection_will_do_and_stays_open(empty_database_url: str, folder: Path) -> None:
    connection = await driver.connect(empty_database_url, {})
    assert len(await migrate(connection, folder)) == 2
    assert await connection.fetchval("SELECT n FROM first") == 1
    assert await connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
    await connection.close()


async def test_starters_at_once_share_the_work(empty_database_url: str, folder: Path) -> None:
    done = await asyncio.gather(*(migrate(empty_database_url, folder) for _ in range(8)))
    assert sorted(len(applied) for applied in done) == [0] * 7 + [2]


async def test_the_second_starter_waits_for_the_first(empty_database_url: str, folder: Path) -> None:
    first = await driver.connect(empty_database_url, {})
    await first.execute("SELECT pg_advisory_lock($1)", LOCK)
    second = asyncio.create_task(migrate(empty_database_url, folder))
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

    async def waits() -> bool:
        return bool(await first.fetchval(waiting))

    await until(waits)
    assert await first.fetchval("SELECT to_regclass('first')") is None
    await first.close()
    assert len(await second) == 2


async def test_a_failing_file_leaves_nothing_behind_and_the_ones_before_it_stay(
    empty_database_url: str, folder: Path
) -> None:
    (folder / "0003_third.sql").write_text("CREATE TABLE third (n int); SELECT 1 / 0;")
    with pytest.raises(Misconfigured, match="migration 0003_third failed, nothing of it was applied: division by zero"):
        await migrate(empty_database_url, folder)
    assert await value_of(empty_database_url, "SELECT to_regclass('third')") is None
    assert await value_of(empty_database_url, VERSIONS) == "1 first, 2 second"
    (folder / "0003_third.sql").write_text("CREATE TABLE third (n int)")
    assert len(await migrate(empty_database_url, folder)) == 1


async def test_a_crash_before_the_commit_leaves_nothing_behind(empty_database_url: str, folder: Path) -> None:
    code = "import asyncio, sys, pathlib; from coordinator.database.migrations import migrate; "
    code += "asyncio.run(migrate(sys.argv[1], pathlib.Path(sys.argv[2])))"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, empty_database_url, str(folder)),
        env={**os.environ, "CERTCTL_CRASH_POINT": "migration.applied:2"},
    )
    assert await process.wait() == -signal.SIGKILL
    assert await value_of(empty_database_url, VERSIONS) == "1 first"
    assert [str(done) for done in await migrate(empty_database_url, folder)] == ["0002_second"]


async def test_a_file_that_changed_after_it_was_applied_is_refused(empty_database_url: str, folder: Path) -> None:
    await migrate(empty_database_url, folder)
    (folder / "0001_first.sql").write_text("CREATE TABLE first (n bigint)")
    with pytest.raises(Misconfigured, match="0001_first is not what was applied"):
        await migrate(empty_database_url, folder)


async def test_one_version_ahead_is_served_and_two_are_refused(empty_database_url: str, folder: Path) -> None:
    (folder / "0003_third.sql").write_text("SELECT 3")
    await migrate(empty_database_url, folder)
    (folder / "0003_third.sql").unlink()
    assert await migrate(empty_database_url, folder) == []
    (folder / "0002_second.sql").unlink()
    with pytest.raises(Misconfigured, match=r"has schema 3 and this certctl knows 1; .* install the newer certctl"):
        await migrate(empty_database_url, folder)


@pytest.mark.parametrize(
    "name,problem",
    [
        ("0002_again.sql", "is there twice"),
        ("0004_fourth.sql", "comes where 0003 is missing"),
        ("5_fifth.sql", "name it like"),
    ],
)
async def test_files_that_do_not_form_a_row_are_refused(folder: Path, name: str, problem: str) -> None:
    (folder / name).write_text("SELECT 1")
    with pytest.raises(Misconfigured, match=problem):
        read_migrations(folder)


async def test_a_role_that_may_only_use_the_schema_can_start_on_it(empty_database_url: str, folder: Path) -> None:
    await migrate(empty_database_url, folder)
    connection = await driver.connect(empty_database_url, {})
    await connection.execute("DROP ROLE IF EXISTS application")
    await connection.execute("CREATE ROLE application; GRANT SELECT ON schema_migrations TO application")
    await connection.execute("SET ROLE application")
    assert await migrate(connection, folder) == []
    (folder / "0003_third.sql").write_text("CREATE TABLE third (n int)")
    with pytest.raises(Misconfigured, match="of the role that owns the schema"):
        await migrate(connection, folder)
    await connection.execute("RESET ROLE; DROP OWNED BY application; DROP ROLE application")
    await connection.close()
