"""SQL of the audit trail; the table itself refuses changes and removals."""

from __future__ import annotations

from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.listing import Listing, Sort

LISTING = Listing(
    "id, at, actor, action, resource_type, resource_id, request_id, details",
    "audit_events",
    "",
    filters={name: f"{name} = {{}}" for name in ("actor", "action", "resource_type", "resource_id")},
    sorts={"id": Sort("id", "bigint")},
    id_type="bigint",
)


async def insert(conn: Connection, values: tuple[Any, ...]) -> None:
    """Append one event: actor, action, resource type, resource id, request id, details."""
    await conn.execute(
        """
        INSERT INTO audit_events (actor, action, resource_type, resource_id, request_id, details)
        VALUES ($1, $2, $3, $4, $5, $6)
        """,
        *values,
    )
