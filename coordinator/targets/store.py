"""SQL of targets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row

COLUMNS = "id, name, type, agent_id, config, created_at"


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


async def select(
    conn: Connection, agent_id: str | None, limit: int, offset: int, after: tuple[datetime, str] | None
) -> list[Row]:
    """Return targets, newest first."""
    moment, row_id = after or (None, None)
    return await conn.fetch(
        f"""
        SELECT {COLUMNS} FROM targets
        WHERE ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4)) AND ($5::text IS NULL OR agent_id = $5)
        ORDER BY created_at DESC, id DESC LIMIT $1 OFFSET $2
        """,
        limit,
        offset,
        moment,
        row_id,
        agent_id,
    )


async def count(conn: Connection, agent_id: str | None, most: int) -> int:
    """Count targets, at most ``most``."""
    return int(
        await conn.fetchval(
            "SELECT count(*) FROM (SELECT FROM targets WHERE $2::text IS NULL OR agent_id = $2 LIMIT $1) AS matches",
            most,
            agent_id,
        )
    )
