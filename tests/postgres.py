"""A PostgreSQL for the tests: one server per test run, and a new migrated database in milliseconds for whoever asks.

Use the fixtures by importing them in a ``conftest.py``, or ``fresh_database`` directly. The server runs in a thread
with a loop of its own, so that tests of any kind can use it, also those that start a coordinator as a process.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from coordinator.database import driver
from coordinator.database.embedded import EmbeddedPostgres
from coordinator.database.migrations import migrate

TEMPLATE = "certctl_template"
FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "autovacuum": "off"}
"""What is lost in a power cut here is lost with the test run; no test may draw conclusions about durability from it."""


class PostgresServer:
    """The run's server and the databases on it."""

    def __init__(self, portal: BlockingPortal, dsn: str) -> None:
        self._portal = portal
        self._dsn = dsn
        self._numbers = itertools.count(1)

    def dsn(self, database: str) -> str:
        """Return the DSN of a database on this server."""
        return self._dsn.replace("/certctl?", f"/{database}?")

    @contextlib.contextmanager
    def fresh_database(self, *, migrated: bool = True) -> Iterator[str]:
        """Lend a database of its own, with certctl's schema or empty; yield its DSN and drop it afterwards."""
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        template = TEMPLATE if migrated else "template0"
        self.run(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        try:
            yield self.dsn(name)
        finally:
            self.run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def run(self, statement: str, database: str = "postgres") -> None:
        """Run one statement."""
        self._portal.call(_run, self.dsn(database), statement)


async def _run(dsn: str, statement: str) -> None:
    connection = await driver.connect(dsn, {})
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _make_template(server: PostgresServer) -> None:
    await _run(server.dsn("postgres"), f'CREATE DATABASE "{TEMPLATE}"')
    await migrate(server.dsn(TEMPLATE))


@contextlib.contextmanager
def running_server(settings: dict[str, str] | None = None) -> Iterator[PostgresServer]:
    """Run a server with a migrated template in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="certctl-test-postgres-"))
    embedded = EmbeddedPostgres(folder, settings=settings or FAST)
    try:
        with start_blocking_portal("asyncio") as portal:
            server = PostgresServer(portal, portal.call(embedded.start))
            try:
                portal.call(_make_template, server)
                yield server
            finally:
                portal.call(embedded.stop)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The one server of this test run."""
    with running_server() as server:
        yield server


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """DSN of a new database with certctl's schema."""
    with postgres_server.fresh_database() as dsn:
        yield dsn


@pytest.fixture
def empty_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """DSN of a new database without any tables."""
    with postgres_server.fresh_database(migrated=False) as dsn:
        yield dsn
