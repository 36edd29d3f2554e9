"""Servers and small helpers for these tests; the loop is asyncio."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from coordinator.database import driver
from coordinator.database.embedded import EmbeddedPostgres
from coordinator.database.pool import Database
from tests.coordinator.world import World, open_world, variables
from tests.postgres import FAST, database_url, empty_database_url, postgres_server

__all__ = ["database_url", "empty_database_url", "postgres_server"]

DEADLINE_S = 20.0
DEBIAN_BIN_DIR = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def until(condition: Callable[[], bool | Awaitable[bool]], deadline_s: float = DEADLINE_S) -> None:
    """Poll until the condition holds; fail when it does not within the deadline."""
    give_up = time.monotonic() + deadline_s
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        assert time.monotonic() < give_up, "the condition did not come true in time"
        await asyncio.sleep(0.01)


async def value_of(dsn: str, sql: str) -> driver.Value:
    """Run one statement on a connection of its own; return its first value."""
    connection = await driver.connect(dsn, {})
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def postmaster_pid(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])


def running(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has collected yet does not."""
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return status.stdout.strip() not in {"", "Z", "Zs"}


@pytest.fixture(scope="session")
def debian_bin_dir() -> Path:
    """The programs of Debian's PostgreSQL 15."""
    if not DEBIAN_BIN_DIR.exists():
        pytest.skip("PostgreSQL 15 of Debian 12 is not installed")
    return DEBIAN_BIN_DIR


@pytest.fixture
async def database(empty_database_url: str) -> AsyncIterator[Database]:
    db = await Database.open(empty_database_url, max_connections=5)
    try:
        yield db
    finally:
        await db.close()


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A coordinator with nothing but its ready-made rows."""
    async with open_world(variables(database_url, tmp_path)) as opened:
        yield opened


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[tuple[EmbeddedPostgres, str]]:
    """A server that a test may kill."""
    server = EmbeddedPostgres(tmp_path / "data", settings=FAST)
    dsn = await server.start()
    try:
        yield server, dsn
    finally:
        await server.stop()
