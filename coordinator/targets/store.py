"""SQL of targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Listing

COLUMNS = "id, name, type, agent_id, config, created_at"
LISTING = Listing(COLUMNS, "targets", "tgt", filters={"agent_id": "agent_id = {}"})


async def insert(conn: Connection, target: dict[str, Any]) -> None:
    """Store a new target."""
    await conn.execute(
        "INSERT INTO targets (id, name, type, agent_id, config) VALUES ($1, $2, $3, $4, $5)",
        target["id"],
        target["name"],
        target["type"],
        target["agent_id"],
        target["config"],
    )


async def get(conn: Connection, target_id: str) -> Row | None:
    """Return one target."""
    return await conn.fetchrow(f"SELECT {COLUMNS} FROM targets WHERE id = $1", target_id)


async def agents_of(conn: Connection, target_ids: Sequence[str]) -> dict[str, str]:
    """Return target → agent for those of ``target_ids`` that exist."""
    rows = await conn.fetch("SELECT id, agent_id FROM targets WHERE id = ANY($1)", target_ids)
    return {row["id"]: row["agent_id"] for row in rows}
