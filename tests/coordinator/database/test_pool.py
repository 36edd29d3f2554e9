"""The pool: transactions, wake-ups after the commit, and what becomes of errors."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coordinator.database import driver, pool
from coordinator.database.connection import Row, Statement
from coordinator.database.embedded import EmbeddedPostgres
from coordinator.database.pool import Database
from core.errors import DeadlineExceeded, Misconfigured, Transient
from tests.coordinator.database.conftest import postmaster_pid, running, until, value_of

pytestmark = pytest.mark.anyio

KILL_ALL_OTHERS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


async def test_values_come_back_as_they_went_in(database: Database) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    async with database.connection() as conn:
        row = await conn.fetchrow(
            "SELECT $1::jsonb AS j, $2::timestamptz AS t, $3::text[] AS a", {"k": [1]}, moment, ["x"]
        )
        assert row is not None
        assert (row["j"], row["t"], row["a"]) == ({"k": [1]}, moment, ["x"])
        assert row["t"].tzinfo == UTC
        assert await conn.fetchval("SHOW timezone") == "UTC"
        assert await conn.fetchval("SELECT NULL::jsonb") is None
        assert await conn.fetchrow("SELECT 1 WHERE false") is None


async def test_execute_counts_rows_and_executemany_runs_all(database: Database) -> None:
    async with database.transaction() as tx:
        assert await tx.execute("CREATE TABLE t (n int)") == 0
        await tx.executemany("INSERT INTO t VALUES ($1)", [(1,), (2,), (3,)])
        assert await tx.execute("UPDATE t SET n = n + 1 WHERE n > $1", 1) == 2
        assert [row["n"] for row in await tx.fetch("SELECT n FROM t ORDER BY n")] == [1, 3, 4]


async def test_a_long_answer_can_be_streamed(database: Database) -> None:
    async with database.transaction() as tx:
        numbers = [row["n"] async for row in tx.stream("SELECT n FROM generate_series(1, $1::int) AS n", 1234)]
    assert numbers == list(range(1, 1235))


async def test_a_block_that_raises_is_undone_and_wakes_nobody(database: Database) -> None:
    called: list[str] = []
    with database.wakeups.subscribe("job:1") as waiter:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the error comes out of the whole block
            async with database.transaction() as tx:
                await tx.execute("CREATE TABLE t (n int)")
                tx.wake("job:1")
                tx.after_commit(lambda: called.append("committed"))
                raise ZeroDivisionError
        assert await waiter.wait(0) is False
    async with database.connection() as conn:
        assert await conn.fetchval("SELECT to_regclass('t')") is None
    assert called == []


async def test_wake_ups_are_sent_when_the_change_can_be_seen(database: Database) -> None:
    called: list[str] = []
    with database.wakeups.subscribe("job:1") as waiter:
        async with database.transaction() as tx:
            await tx.execute("CREATE TABLE t (n int)")
            tx.wake("job:1", "job:2")
            tx.after_commit(lambda: called.append("committed"))
            assert await waiter.wait(0) is False
            assert called == []
        assert await waiter.wait(0) is True
    assert called == ["committed"]


async def test_a_commit_that_fails_wakes_nobody(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("CREATE TABLE t (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    with database.wakeups.subscribe("job:1") as waiter:
        with pytest.raises(driver.UniqueViolation):  # noqa: PT012 - the error comes out of the whole block
            async with database.transaction() as tx:
                await tx.execute("INSERT INTO t VALUES (1), (1)")
                tx.wake("job:1")
        assert await waiter.wait(0) is False


async def test_a_savepoint_undoes_its_block_and_its_wake_ups_only(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("CREATE TABLE t (n int PRIMARY KEY)")
        tx.wake("kept")
        with pytest.raises(driver.UniqueViolation):  # noqa: PT012 - the error comes out of the whole block
            async with tx.savepoint():
                tx.wake("undone")
                await tx.execute("INSERT INTO t VALUES (1), (1)")
        async with tx.savepoint():
            await tx.execute("INSERT INTO t VALUES (2)")
        assert list(tx.topics) == ["kept"]
    async with database.connection() as conn:
        assert await conn.fetchval("SELECT array_agg(n) FROM t") == [2]


def _insert_numbers(rows: Sequence[Row]) -> Statement:
    return "INSERT INTO t (n) SELECT unnest($1::int[])", [number for (number,) in rows]


async def test_gathered_rows_are_stored_together_at_the_end_in_their_order(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("CREATE TABLE t (place int GENERATED ALWAYS AS IDENTITY, n int)")
        for number in (3, 1, 2):
            tx.gather(_insert_numbers, (number,))
        assert await tx.fetchval("SELECT count(*) FROM t") == 0
    async with database.connection() as conn:
        assert await conn.fetchval("SELECT array_agg(n ORDER BY place) FROM t") == [3, 1, 2]


async def test_what_is_to_come_later_is_one_statement_with_what_was_gathered(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("CREATE TABLE t (n int PRIMARY KEY, of int REFERENCES t)")
        await tx.execute("INSERT INTO t VALUES (1)")
        tx.gather(_insert_numbers, (4,))
        tx.later("INSERT INTO t (of, n) VALUES ($2, $1)", 2, 3)  # which is there when the statement has ended
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the error comes out of the whole block
            async with tx.savepoint():
                tx.later("INSERT INTO t VALUES ($1)", 9)
                raise ZeroDivisionError
        tx.later("INSERT INTO t VALUES ($1), ($2)", 3, 5)
        tx.later("UPDATE t SET of = $2 WHERE n = $1", 1, 4)
        assert await tx.fetchval("SELECT array_agg(n) FROM t") == [1]
        await tx.store_gathered()
        assert await tx.fetchval("SELECT array_agg(n ORDER BY n) FROM t") == [1, 2, 3, 4, 5]
        assert await tx.fetchval("SELECT array_agg(of ORDER BY n) FROM t") == [4, 3, None, None, None]
    async with database.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM t") == 5


async def test_rows_that_were_gathered_in_an_undone_block_are_not_stored(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("CREATE TABLE t (n int)")
        tx.gather(_insert_numbers, (1,))
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the error comes out of the whole block
            async with tx.savepoint():
                tx.gather(_insert_numbers, (2,))
                raise ZeroDivisionError
        async with tx.savepoint():
            tx.gather(_insert_numbers, (3,))
    async with database.connection() as conn:
        assert await conn.fetchval("SELECT array_agg(n) FROM t") == [1, 3]


async def test_what_gathered_rows_violate_undoes_the_transaction(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("CREATE TABLE t (n int CHECK (n > 0))")
    with database.wakeups.subscribe("job:1") as waiter:
        with pytest.raises(driver.CheckViolation):  # noqa: PT012 - the error comes out of the whole block
            async with database.transaction() as tx:
                await tx.execute("INSERT INTO t VALUES (1)")
                tx.gather(_insert_numbers, (0,))
                tx.wake("job:1")
        assert await waiter.wait(0) is False
    async with database.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM t") == 0


async def test_errors_of_the_block_itself_are_not_touched(database: Database) -> None:
    mine = FileNotFoundError("not about the database")
    with pytest.raises(FileNotFoundError) as caught:
        async with database.transaction():
            raise mine
    assert caught.value is mine


async def test_a_connection_lost_in_use_is_transient_and_the_next_one_works(database: Database) -> None:
    async with database.connection() as conn:
        async with database.connection() as killer:
            await killer.fetchval(KILL_ALL_OTHERS)
        with pytest.raises(Transient, match="database is not reachable"):
            await conn.fetchval("SELECT 1")
        with pytest.raises(Transient, match="database is not reachable"):
            await conn.fetchval("SELECT 1")
    async with database.connection() as conn:
        assert await conn.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("last_statement", ["SELECT 1", None], ids=["in a statement", "in the commit"])
async def test_a_connection_lost_in_a_transaction_is_transient(database: Database, last_statement: str | None) -> None:
    with pytest.raises(Transient, match="database is not reachable"):  # noqa: PT012 - the error comes out of the whole block
        async with database.transaction() as tx:
            await tx.execute("CREATE TABLE t (n int)")
            async with database.connection() as killer:
                await killer.fetchval(KILL_ALL_OTHERS)
            if last_statement:
                await tx.execute(last_statement)
    async with database.connection() as conn:
        assert await conn.fetchval("SELECT to_regclass('t')") is None


async def test_a_server_that_restarts_is_transient_and_then_used_again(
    own_server: tuple[EmbeddedPostgres, str], tmp_path: Path
) -> None:
    _, dsn = own_server
    db = await Database.open(dsn)

    async def works() -> bool:
        try:
            async with db.connection() as conn:
                return bool(await conn.fetchval("SELECT true"))
        except Transient:
            return False

    with db.wakeups.subscribe("any") as waiter:
        await waiter.wait(0)
        os.kill(before := postmaster_pid(tmp_path / "data"), signal.SIGINT)
        await until(lambda: not running(before))
        await until(lambda: not db.wakeups.connected)
        await until(works)
        assert await waiter.wait(20), "after a new LISTEN everybody looks again"
        assert db.wakeups.connected
    await db.close()


async def test_an_exhausted_pool_is_transient(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "ACQUIRE_DEADLINE_S", 0.05)
    db = await Database.open(empty_database_url, max_connections=1)
    async with db.connection():
        with pytest.raises(DeadlineExceeded):
            async with db.connection():
                pytest.fail("there is only one connection")
    await db.close()


async def test_a_server_that_does_not_answer_is_waited_for_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is thrown away: whatever is said on it next, a rollback as well, would wait for it again."""
    monkeypatch.setattr(pool, "COMMAND_DEADLINE_S", 0.3)
    database = await Database.open(database_url, max_connections=1)
    backend = 0
    try:
        async with database.connection() as conn:
            backend = await conn.fetchval("SELECT pg_backend_pid()")
            os.kill(backend, signal.SIGSTOP)
            with pytest.raises(DeadlineExceeded):
                await conn.fetchval("SELECT 1")
            with pytest.raises(Transient, match="not reachable"):
                await conn.fetchval("SELECT 2")
        async with database.connection() as conn:
            assert await conn.fetchval("SELECT pg_backend_pid()") != backend
    finally:
        os.kill(backend, signal.SIGCONT)
        await database.close()


async def test_what_takes_too_long_is_ended(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("SET LOCAL statement_timeout = '20ms'")
        with pytest.raises(DeadlineExceeded):
            await tx.execute("SELECT pg_sleep(20)")


async def test_two_changes_that_meet_are_transient(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("CREATE TABLE t (n int)")
    async with database.transaction() as first, database.transaction() as second:
        await first.execute("LOCK TABLE t")
        with pytest.raises(Transient, match="try again"):
            await second.execute("LOCK TABLE t NOWAIT")


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://certctl:s3cr/t-w0rd@127.0.0.1:1/certctl",
        "postgresql://certctl:s3cr#t-w0rd@127.0.0.1:1/certctl",
        "postgresql://certctl:s3cr?t-w0rd@127.0.0.1:1/certctl",
        "postgresql://certctl:12/s3cr-w0rd@127.0.0.1:1/certctl",
        "postgresql://certctl:s3crt-w0rd@127.0.0.1:1/certctl",  # pragma: allowlist secret - the test shows it is hidden
        "postgresql://certctl:s3crt-w0rd@[::1/certctl",  # pragma: allowlist secret - likewise
        "mysql://certctl:s3crt-w0rd@127.0.0.1/certctl",  # pragma: allowlist secret - likewise
        "certctl:s3crt-w0rd@127.0.0.1",
    ],
)
async def test_a_wrong_url_is_told_by_the_variables_name_without_the_password(dsn: str) -> None:
    with pytest.raises(Misconfigured, match="CERTCTL_DATABASE_URL") as caught:
        await Database.open(dsn)
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cr" not in str(error)
        assert "w0rd" not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


async def test_an_unreachable_server_is_told_by_its_place(empty_database_url: str) -> None:
    with pytest.raises(Misconfigured, match=r"127\.0\.0\.1:1/certctl is not reachable \(Connect"):
        await Database.open("postgresql://certctl@127.0.0.1:1/certctl")
    with pytest.raises(Misconfigured, match='database "absent" does not exist'):
        await Database.open(re.sub("/test_[0-9_]+", "/absent", empty_database_url))


async def test_an_old_server_is_refused(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MIN_MAJOR", 99)
    with pytest.raises(Misconfigured, match=r"PostgreSQL 18\.\d+ server; certctl needs 99 or newer"):
        await Database.open(empty_database_url)
    monkeypatch.undo()
    left = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'certctl%' AND datname = current_database()"
    )

    async def none_left() -> bool:
        return bool(await value_of(empty_database_url, left) == 0)

    await until(none_left)
