"""SQL of the server's own authority; there is at most one."""

from __future__ import annotations

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row


async def get(conn: Connection) -> Row | None:
    """Return the authority."""
    return await conn.fetchrow("SELECT der, sealed_key FROM server_ca")


async def insert(conn: Connection, der: bytes, sealed_key: bytes) -> None:
    """Store the authority unless another replica was first."""
    await conn.execute(
        "INSERT INTO server_ca (der, sealed_key) VALUES ($1, $2) ON CONFLICT DO NOTHING", der, sealed_key
    )


async def save_sealed_key(conn: Connection, sealed_key: bytes) -> None:
    """Store the authority's key, sealed anew."""
    await conn.execute("UPDATE server_ca SET sealed_key = $1", sealed_key)
