"""Two roles in one database: the owner of the schema, and the application that works with it.

The application may read and append to the audit trail and to the chain that seals it; it can neither change nor remove
anything there, drop a trigger, or truncate. Migrations and grants are made as the owner. Where one role does both, the
triggers remain, and whoever has that role's password can drop them: ``weaknesses`` says so.
"""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

import structlog

from coordinator.database import driver
from coordinator.database.driver import RawConnection
from coordinator.database.migrations import LOCK, SESSION
from coordinator.database.pool import OWNER_VARIABLE, VARIABLE, connecting
from core.errors import Misconfigured

log = structlog.get_logger(__name__)
APPLICATION = "certctl_application"
"""The role that is made on an embedded server."""
_APPENDED = {
    "audit_events": "INSERT (actor, action, resource_type, resource_id, request_id, details)",
    "audit_batches": "INSERT",
    "audit_dropped_months": "INSERT",
    "audit_keys": "INSERT, UPDATE (sealed_key)",
    "audit_eras": "",
    "audit_retention": "",
    "schema_migrations": "",
}
"""What the application may do with these beside reading; it may do all with every other table."""
_FUNCTIONS = ("audit_make_month(date)", "audit_expired_months()", "audit_drop_month(date)", "audit_begin_era()")
_OWNER = "(SELECT relowner FROM pg_class WHERE oid = 'audit_events'::regclass)"


class Access(NamedTuple):
    """DSNs: ``owner`` is the application's own when there is one role only."""

    application: str
    owner: str

    @property
    def separate(self) -> bool:
        """Say whether two roles are meant."""
        return self.application != self.owner


async def make_application(owner_dsn: str) -> None:
    """Make the application's role on an embedded server, whose owner is its superuser."""
    connection = await driver.connect(owner_dsn, SESSION)
    try:
        if not await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", APPLICATION):
            await connection.execute(f"CREATE ROLE {APPLICATION} LOGIN")
    finally:
        await connection.close()


async def prepare(access: Access, retention: timedelta | None) -> None:
    """After the migrations: give the application its rights and store how long events are kept.

    As a role that does not own the schema neither is possible, nor needed: whoever migrated has done it. Raises
    ``Misconfigured`` when the application's role could do what only the owner should.
    """
    variable = OWNER_VARIABLE if access.separate else VARIABLE
    with connecting(access.owner, variable):
        connection = await driver.connect(access.owner, SESSION)
    try:
        if not await connection.fetchval(f"SELECT pg_has_role({_OWNER}, 'MEMBER')"):
            if access.separate:
                raise Misconfigured(f"{OWNER_VARIABLE}: this role does not own certctl's tables")
            stored = await connection.fetchval("SELECT keep FROM audit_retention")
            if retention is not None and retention != stored:
                log.warning("audit_retention_not_stored", stored=str(stored), remedy="migrate as the owner with it")
            return
        role = await _application(access) if access.separate else ""
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
            await connection.execute(
                "UPDATE audit_retention SET keep = $1 WHERE keep IS DISTINCT FROM $1::interval", retention
            )
            if role:
                await _grant(connection, role)
    finally:
        await connection.close()


async def _application(access: Access) -> str:
    """Return the quoted name of the application's role."""
    with connecting(access.application):
        connection = await driver.connect(access.application, SESSION)
    try:
        row = await connection.fetchrow(
            f"SELECT quote_ident(current_user) AS role, pg_has_role({_OWNER}, 'MEMBER') AS owns"
        )
    finally:
        await connection.close()
    assert row is not None  # noqa: S101 - it always gives one
    if row["owns"]:
        raise Misconfigured(
            f"{VARIABLE}: the role {row['role']} owns certctl's tables or is a superuser; beside {OWNER_VARIABLE} it "
            "has to be another one, see docs/settings.md"
        )
    return str(row["role"])


async def _grant(connection: RawConnection, role: str) -> None:
    """Give the application what it needs and take what it must not have; its tables are those of this schema."""
    schema = await connection.fetchval("SELECT quote_ident(current_schema())")
    tables = await connection.fetch(
        "SELECT quote_ident(tablename) AS name FROM pg_tables WHERE schemaname = current_schema()"
    )
    await connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    for name in [row["name"] for row in tables]:
        partition = name.startswith("audit_events_")
        if partition or name in _APPENDED:
            await connection.execute(f"REVOKE ALL ON {name} FROM {role}, PUBLIC")
        if not partition:
            own = _APPENDED.get(name, "INSERT, UPDATE, DELETE")
            await connection.execute(f"GRANT SELECT{', ' + own if own else ''} ON {name} TO {role}")
    views = await connection.fetch(
        "SELECT quote_ident(viewname) AS name FROM pg_views WHERE schemaname = current_schema()"
    )
    for view in views:
        await connection.execute(f"GRANT SELECT ON {view['name']} TO {role}")
    for function in _FUNCTIONS:
        await connection.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {role}")


async def weaknesses(dsn: str) -> list[str]:
    """Return what the role of this DSN could do to the audit trail that it should not; empty when nothing."""
    with connecting(dsn):
        connection = await driver.connect(dsn, SESSION)
    try:
        if not await connection.fetchval("SELECT has_any_column_privilege('audit_events', 'INSERT')"):
            raise Misconfigured(
                f"{VARIABLE}: this role may not write to the database: run 'certctl-coordinator migrate' once with "
                f"{OWNER_VARIABLE} beside it"
            )
        if await connection.fetchval(f"SELECT pg_has_role({_OWNER}, 'MEMBER')"):
            return ["the application's role owns the audit trail: whoever has it can drop the triggers"]
        rows = await connection.fetch(
            """
            SELECT relname, privilege FROM pg_class, unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE']) AS privilege
            WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
              AND (relname LIKE 'audit_events%' OR relname IN ('audit_batches', 'audit_dropped_months'))
              AND has_table_privilege(pg_class.oid, privilege) ORDER BY 1, 2
            """
        )
        return [f"the application's role has {row['privilege']} on {row['relname']}" for row in rows]
    finally:
        await connection.close()
