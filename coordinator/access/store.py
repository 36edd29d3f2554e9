"""SQL of API keys and of the look-up that every authenticated request starts with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Listing

LOOKUP_BYTES = 8
KEYS = Listing("id, name, role, source, expires_at, disabled_at, created_at", "api_keys", "key")


async def key_candidates(conn: Connection, digest: bytes) -> list[Row]:
    """Return the usable keys whose digest begins like ``digest``; the caller compares the whole in constant time."""
    return await conn.fetch(
        """
        SELECT id, name, role, digest FROM api_keys
        WHERE lookup = $1 AND disabled_at IS NULL AND (expires_at IS NULL OR expires_at > now())
        """,
        digest[:LOOKUP_BYTES],
    )


async def agent_session(conn: Connection, digest: bytes) -> Row | None:
    """Return the agent behind a session that has not expired."""
    return await conn.fetchrow(
        """
        SELECT agents.id, agents.name, agents.retired_at FROM agent_sessions
        JOIN agents ON agents.id = agent_sessions.agent_id
        WHERE agent_sessions.digest = $1 AND agent_sessions.expires_at > now()
        """,
        digest,
    )


async def insert_key(conn: Connection, key: dict[str, Any]) -> None:
    """Store a key's digest."""
    await conn.execute(
        """
        INSERT INTO api_keys (id, name, role, lookup, digest, source, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
        """,
        key["id"],
        key["name"],
        key["role"],
        key["digest"][:LOOKUP_BYTES],
        key["digest"],
        key["source"],
        key["expires_at"],
    )


async def environment_keys(conn: Connection) -> list[Row]:
    """Return the usable keys that came from CERTCTL_API_KEYS_NAMED, locked against a second replica's start."""
    return await conn.fetch(
        "SELECT id, name, role, digest FROM api_keys WHERE source = 'environment' AND disabled_at IS NULL FOR UPDATE"
    )


async def disable_keys(conn: Connection, ids: Sequence[str]) -> None:
    """Make keys unusable; their rows stay, since the audit trail names them."""
    await conn.execute("UPDATE api_keys SET disabled_at = now() WHERE id = ANY($1)", ids)


async def any_key(conn: Connection) -> bool:
    """Say whether any usable key exists."""
    return bool(await conn.fetchval("SELECT EXISTS (SELECT FROM api_keys WHERE disabled_at IS NULL)"))
