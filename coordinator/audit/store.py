"""SQL of the audit trail; the table itself refuses changes and removals."""

from __future__ import annotations

from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row


async def insert(conn: Connection, values: tuple[Any, ...]) -> None:
    """Append one event: actor, action, resource type, resource id, request id, details."""
    await conn.execute(
        """
        INSERT INTO audit_events (actor, action, resource_type, resource_id, request_id, details)
        VALUES ($1, $2, $3, $4, $5, $6)
        """,
        *values,
    )


async def select(
    conn: Connection, filters: dict[str, str | None], limit: int, offset: int, before: int | None
) -> list[Row]:
    """Return events, newest first; a filter that is None does not filter."""
    return await conn.fetch(
        """
        SELECT id, at, actor, action, resource_type, resource_id, request_id, details FROM audit_events
        WHERE ($4::text IS NULL OR actor = $4) AND ($5::text IS NULL OR action = $5)
          AND ($6::text IS NULL OR resource_type = $6) AND ($7::text IS NULL OR resource_id = $7)
          AND ($3::bigint IS NULL OR id < $3)
        ORDER BY id DESC LIMIT $1 OFFSET $2
        """,
        limit,
        offset,
        before,
        filters["actor"],
        filters["action"],
        filters["resource_type"],
        filters["resource_id"],
    )


async def count(conn: Connection, filters: dict[str, str | None], most: int) -> int:
    """Count matching events, at most ``most``."""
    return int(
        await conn.fetchval(
            """
            SELECT count(*) FROM (
              SELECT FROM audit_events
              WHERE ($2::text IS NULL OR actor = $2) AND ($3::text IS NULL OR action = $3)
                AND ($4::text IS NULL OR resource_type = $4) AND ($5::text IS NULL OR resource_id = $5)
              LIMIT $1) AS matches
            """,
            most,
            filters["actor"],
            filters["action"],
            filters["resource_type"],
            filters["resource_id"],
        )
    )
