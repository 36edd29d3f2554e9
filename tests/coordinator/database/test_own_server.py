"""A server of the operator's own – Debian's PostgreSQL 15, TCP, passwords – through CERTCTL_DATABASE_URL's path."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.database.embedded import EmbeddedPostgres
from coordinator.database.migrations import migrate
from coordinator.database.pool import Database
from core.errors import Misconfigured, Transient
from tests.coordinator.database.conftest import until, value_of
from tests.postgres import FAST

pytestmark = pytest.mark.anyio

RIGHT = "right"
ACCESS = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
async def debian(tmp_path: Path, debian_bin_dir: Path) -> AsyncIterator[tuple[EmbeddedPostgres, str]]:
    """A server that asks for a password on TCP, and its URL without the password."""
    port = free_port()
    settings = {**FAST, "listen_addresses": "127.0.0.1", "port": str(port)}
    server = EmbeddedPostgres(tmp_path / "data", settings=settings, bin_dir=debian_bin_dir)
    local = await server.start()
    await value_of(local, f"ALTER ROLE certctl PASSWORD '{RIGHT}'")
    (tmp_path / "data" / "postgres" / "pg_hba.conf").write_text(ACCESS)
    await value_of(local, "SELECT pg_reload_conf()")
    try:
        yield server, f"postgresql://certctl:{RIGHT}@127.0.0.1:{port}/certctl"
    finally:
        await server.stop()


async def test_pool_migrations_and_wake_ups_work(debian: tuple[EmbeddedPostgres, str]) -> None:
    _, url = debian
    assert await migrate(url)
    first, second = await Database.open(url), await Database.open(url)
    with second.wakeups.subscribe("job:1") as waiter:
        async with first.transaction() as tx:
            assert str(await tx.fetchval("SHOW server_version")).startswith("15.")
            tx.wake("job:1")
        assert await waiter.wait(20) is True
    await first.close()
    await second.close()


async def test_a_wrong_password_is_told_and_not_shown(debian: tuple[EmbeddedPostgres, str]) -> None:
    _, url = debian
    wrong = url.replace(RIGHT, "S3cr-w0rd")

    told: list[str] = []

    async def refused() -> bool:
        try:
            await (await Database.open(wrong)).close()
        except Misconfigured as error:
            told.append(error.detail)
        return bool(told)

    await until(refused)  # the server reads its new rules a moment after it was told to
    assert "CERTCTL_DATABASE_URL" in told[0]
    assert "password authentication failed" in told[0]
    assert "S3cr" not in told[0]
    with pytest.raises(Misconfigured, match="CERTCTL_DATABASE_URL"):
        await migrate(wrong)


async def test_a_server_that_went_away_and_came_back_is_used_again(debian: tuple[EmbeddedPostgres, str]) -> None:
    server, url = debian
    db = await Database.open(url)
    with db.wakeups.subscribe("job:1") as waiter:
        await waiter.wait(0)
        await server.stop()
        with pytest.raises(Transient, match="database is not reachable"):
            async with db.connection() as conn:
                await conn.fetchval("SELECT 1")
        await until(lambda: not db.wakeups.connected)
        await server.start()
        async with db.connection() as conn:
            assert await conn.fetchval("SELECT 1") == 1
        assert await waiter.wait(20) is True
    await db.close()
