"""Migrations: ``NNNN_name.sql`` files, each applied once, in order, in a transaction of its own, under one lock.

Schema N serves code N−1 and N, so that replicas can be replaced one by one: a migration only adds, and what is no
longer used goes one version later. A database that is further ahead than that is refused, as is a file that changed
after it was applied. What cannot run inside a transaction (``CREATE INDEX CONCURRENTLY``) is not supported.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

import structlog

from coordinator.database import driver
from coordinator.database.driver import RawConnection
from coordinator.database.pool import OWNER_VARIABLE, VARIABLE, connecting
from core.crash import crash_point
from core.errors import Misconfigured, Transient

LOCK = 0x63657274637466  # "certctf": any number that nobody else locks on this database
LOCK_PATIENCE = "15min"
FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
TABLE = """
CREATE TABLE schema_migrations (
  version integer PRIMARY KEY,
  name text NOT NULL,
  sha256 text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now()
)
"""

SESSION = {"application_name": "certctl migrate", "statement_timeout": "0", "timezone": "UTC"}

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Migration:
    """One file."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Return the digest that is remembered, so that a later change of the file is noticed."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.version:04}_{self.name}"


def own_migrations() -> Traversable:
    """Return the folder of certctl's own files, also out of a wheel."""
    return files("coordinator.database").joinpath("migrations")


def read_migrations(directory: Traversable) -> list[Migration]:
    """Return the files in order; refuse a gap, a number given twice and a name that is not understood."""
    found = []
    for entry in directory.iterdir():
        if entry.name.endswith(".sql"):
            match = FILE_NAME.fullmatch(entry.name)
            if match is None:
                raise Misconfigured(f"migration {entry.name}: name it like 0007_what_it_does.sql")
            found.append(Migration(int(match[1]), match[2], entry.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: (migration.version, migration.name))
    for expected, migration in enumerate(found, start=1):
        if migration.version != expected:
            problem = "is there twice" if migration.version < expected else f"comes where {expected:04} is missing"
            raise Misconfigured(f"migration {migration} {problem}")
    return found


async def migrate(
    database: str | RawConnection, directory: Traversable | None = None, variable: str = VARIABLE
) -> list[Migration]:
    """Bring the schema up to date; return what was applied by this call.

    ``database`` is a DSN, given in ``variable``, or a raw connection of the driver that has no transaction open. Where
    several start at once, one applies and the others wait for it.
    """
    wanted = read_migrations(directory or own_migrations())
    if not isinstance(database, str):
        return await _migrate(database, wanted)
    with connecting(database, variable):
        connection = await driver.connect(database, SESSION)
    try:
        return await _migrate(connection, wanted)
    finally:
        await connection.close()


async def _migrate(connection: RawConnection, wanted: list[Migration]) -> list[Migration]:
    async with _alone(connection):
        applied = await _applied(connection)
        _check(wanted, applied)
        pending = [migration for migration in wanted if migration.version > len(applied)]
        for migration in pending:
            await _apply(connection, migration)
        return pending


@contextlib.asynccontextmanager
async def _alone(connection: RawConnection) -> AsyncIterator[None]:
    """Hold the lock that only one starter has at a time; it ends with the connection, if not before."""
    try:
        await connection.execute(f"SET lock_timeout = '{LOCK_PATIENCE}'")
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        await connection.execute("RESET lock_timeout")
    except driver.TRY_AGAIN as error:
        raise Transient(f"another coordinator has been migrating the database for {LOCK_PATIENCE}") from error
    try:
        yield
    finally:
        if not driver.is_lost(connection):
            await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)


async def _applied(connection: RawConnection) -> list[tuple[int, str, str]]:
    """Return version, name and digest of what has been applied, in order.

    The table is looked for first: a role that may only use the schema cannot even say CREATE … IF NOT EXISTS.
    """
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return []
    rows = await connection.fetch("SELECT version, name, sha256 FROM schema_migrations ORDER BY version")
    return [(row["version"], row["name"], row["sha256"]) for row in rows]


def _check(wanted: list[Migration], applied: list[tuple[int, str, str]]) -> None:
    if len(applied) > len(wanted) + 1:
        raise Misconfigured(
            f"the database has schema {len(applied)} and this certctl knows {len(wanted)}; it can serve one newer at "
            "most: install the newer certctl, or restore the backup made before the upgrade"
        )
    for migration, (version, name, sha256) in zip(wanted, applied, strict=False):
        if (migration.version, migration.name, migration.sha256) != (version, name, sha256):
            raise Misconfigured(
                f"migration {migration} is not what was applied to the database as {version:04}_{name}: reinstall "
                "certctl; whoever changed the file puts it back and adds a new one"
            )


async def _apply(connection: RawConnection, migration: Migration) -> None:
    try:
        async with connection.transaction():
            if migration.version == 1:
                await connection.execute(TABLE)
            await connection.execute(migration.sql)
            insert = "INSERT INTO schema_migrations (version, name, sha256) VALUES ($1, $2, $3)"
            await connection.execute(insert, migration.version, migration.name, migration.sha256)
            crash_point("migration.applied")
    except driver.NotPermitted as error:
        raise Misconfigured(
            f"migration {migration} is not permitted ({error}): run 'certctl-coordinator migrate' with "
            f"{OWNER_VARIABLE}, the URL of the role that owns the schema"
        ) from error
    except driver.UNREACHABLE as error:
        raise Transient(f"the database went away during migration {migration}; nothing of it was applied") from error
    except (driver.Error, driver.InterfaceError) as error:
        raise Misconfigured(f"migration {migration} failed, nothing of it was applied: {error}") from error
    crash_point("migration.committed")
    log.info("migration_applied", migration=str(migration))
