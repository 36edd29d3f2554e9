"""Connections that stay at hand between two users: whom they go to, and when they do not."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.database import driver
from coordinator.database.connection import Connection
from coordinator.database.pool import Database
from tests.coordinator.database.conftest import until, value_of

pytestmark = pytest.mark.anyio
SESSION = "SELECT pg_backend_pid()"


async def pid(database: Database) -> int:
    async with database.connection() as conn:
        return int(await conn.fetchval(SESSION))


async def test_the_next_user_gets_the_same_connection(database: Database) -> None:
    assert await pid(database) == await pid(database)
    assert len(database._at_hand) == 1


async def test_two_users_at_once_have_two(database: Database) -> None:
    async with database.connection() as one, database.transaction() as two:
        assert await one.fetchval(SESSION) != await two.fetchval(SESSION)
    assert len(database._at_hand) == 2


@pytest.mark.parametrize("kind", ["connection", "transaction"])
async def test_one_that_saw_an_error_goes_back_to_the_driver(database: Database, kind: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with getattr(database, kind)():
            raise ZeroDivisionError
    assert database._at_hand == []
    assert await pid(database)


async def test_one_that_died_meanwhile_is_not_lent(database: Database, database_url: str) -> None:
    before = await pid(database)
    await value_of(database_url, f"SELECT pg_terminate_backend({before})")
    await until(lambda: driver.is_lost(database._at_hand[0]))
    assert await pid(database) != before


async def test_nobody_waits_while_one_is_kept(database_url: str) -> None:
    database = await Database.open(database_url, max_connections=1)
    try:
        taken = list[int]()

        async def use(conn: Connection, number: int) -> None:
            await conn.fetchval("SELECT pg_sleep(0.01)")
            taken.append(number)

        async def user(number: int) -> None:
            async with database.connection() as conn:
                await use(conn, number)

        await asyncio.wait_for(asyncio.gather(*map(user, range(20))), 5)
        assert sorted(taken) == list(range(20))
    finally:
        await database.close()


async def test_closing_leaves_none_open(database_url: str) -> None:
    database = await Database.open(database_url)
    lent = database.connection()
    late = await lent.__aenter__()
    assert await pid(database)
    closing = asyncio.create_task(database.close())
    await until(lambda: database._closing)
    assert await late.fetchval("SELECT 1") == 1, "who has one may finish"
    await lent.__aexit__(None, None, None)
    await closing
    assert database._at_hand == []
    ours = "application_name = 'certctl' AND datname = current_database()"
    assert await value_of(database_url, f"SELECT count(*) FROM pg_stat_activity WHERE {ours}") == 0
