"""Recording events. Call it with the connection of the change, so that both are stored or neither is."""

from __future__ import annotations

from typing import Any

from coordinator.audit import store
from coordinator.database.connection import Connection
from coordinator.web.table import Actor


async def record(
    conn: Connection,
    actor: Actor,
    action: str,
    resource_type: str,
    resource_id: str,
    details: dict[str, Any] | None = None,
    request_id: str = "",
) -> None:
    """Append one event; ``details`` must hold no secret."""
    await store.insert(conn, (str(actor), action, resource_type, resource_id, request_id, details or {}))
