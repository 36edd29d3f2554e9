"""SQL of agents, enrollment tokens, nonces and sessions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row

COLUMNS = """id, name, hostname, os, architecture, address, version, skew_ms, last_seen_at, enrolled_at, retired_at,
  last_seen_at > now() - interval '2 minutes' AND retired_at IS NULL AS online"""


async def now(conn: Connection) -> datetime:
    """Return the database's time, which leases, nonces and clock comparisons go by."""
    moment: datetime = await conn.fetchval("SELECT clock_timestamp()")
    return moment


async def insert_token(
    conn: Connection, token_id: str, digest: bytes, note: str, actor: str, ttl: timedelta
) -> datetime:
    """Store an enrollment token's digest; return when it ends."""
    ends: datetime = await conn.fetchval(
        """
        INSERT INTO enrollment_tokens (id, digest, note, created_by, expires_at)
        VALUES ($1, $2, $3, $4, now() + $5::interval) RETURNING expires_at
        """,
        token_id,
        digest,
        note,
        actor,
        ttl,
    )
    return ends


async def token(conn: Connection, digest: bytes) -> Row | None:
    """Return an enrollment token, locked until the transaction's end."""
    return await conn.fetchrow(
        "SELECT id, used_by, expires_at <= now() AS expired FROM enrollment_tokens WHERE digest = $1 FOR UPDATE", digest
    )


async def use_token(conn: Connection, token_id: str, agent_id: str) -> None:
    """Note who used a token."""
    await conn.execute("UPDATE enrollment_tokens SET used_by = $2, used_at = now() WHERE id = $1", token_id, agent_id)


async def list_tokens(conn: Connection, limit: int, offset: int, after: tuple[datetime, str] | None) -> list[Row]:
    """Return enrollment tokens without their values, newest first."""
    moment, row_id = after or (None, None)
    return await conn.fetch(
        """
        SELECT id, note, created_by, created_at, expires_at, used_by, used_at FROM enrollment_tokens
        WHERE $3::timestamptz IS NULL OR (created_at, id) < ($3, $4)
        ORDER BY created_at DESC, id DESC LIMIT $1 OFFSET $2
        """,
        limit,
        offset,
        moment,
        row_id,
    )


async def count_tokens(conn: Connection) -> int:
    """Return how many enrollment tokens there are."""
    return int(await conn.fetchval("SELECT count(*) FROM enrollment_tokens"))


async def by_identity(conn: Connection, identity_key: bytes) -> Row | None:
    """Return the agent with this identity key."""
    return await conn.fetchrow("SELECT id, name, retired_at FROM agents WHERE identity_key = $1", identity_key)


async def insert(conn: Connection, agent: dict[str, Any]) -> None:
    """Store a new agent."""
    await conn.execute(
        """
        INSERT INTO agents (id, name, identity_key, sealing_key, hostname, os, architecture, address, version, skew_ms)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        """,
        *agent.values(),
    )


async def get(conn: Connection, agent_id: str) -> Row | None:
    """Return one agent."""
    return await conn.fetchrow(f"SELECT {COLUMNS} FROM agents WHERE id = $1", agent_id)


async def identity(conn: Connection, agent_id: str) -> Row | None:
    """Return an agent's public identity key and whether it was retired."""
    return await conn.fetchrow("SELECT identity_key, retired_at FROM agents WHERE id = $1", agent_id)


async def select(
    conn: Connection, name: str | None, limit: int, offset: int, after: tuple[datetime, str] | None
) -> list[Row]:
    """Return agents that are not retired, newest first."""
    moment, row_id = after or (None, None)
    return await conn.fetch(
        f"""
        SELECT {COLUMNS} FROM agents
        WHERE retired_at IS NULL AND ($3::timestamptz IS NULL OR (enrolled_at, id) < ($3, $4))
          AND ($5::text IS NULL OR name = $5)
        ORDER BY enrolled_at DESC, id DESC LIMIT $1 OFFSET $2
        """,
        limit,
        offset,
        moment,
        row_id,
        name,
    )


async def count(conn: Connection, name: str | None, most: int) -> int:
    """Count agents that are not retired, at most ``most``."""
    return int(
        await conn.fetchval(
            """
            SELECT count(*) FROM (
              SELECT FROM agents WHERE retired_at IS NULL AND ($2::text IS NULL OR name = $2) LIMIT $1) AS matches
            """,
            most,
            name,
        )
    )


async def insert_nonce(conn: Connection, digest: bytes, agent_id: str, ttl: timedelta) -> None:
    """Store a nonce's digest."""
    await conn.execute(
        "INSERT INTO agent_nonces (digest, agent_id, expires_at) VALUES ($1, $2, now() + $3::interval)",
        digest,
        agent_id,
        ttl,
    )


async def take_nonce(conn: Connection, digest: bytes, agent_id: str) -> bool:
    """Use a nonce up; say whether it was there, this agent's, and fresh."""
    return bool(
        await conn.fetchval(
            "DELETE FROM agent_nonces WHERE digest = $1 AND agent_id = $2 RETURNING expires_at > now()",
            digest,
            agent_id,
        )
    )


async def insert_session(conn: Connection, digest: bytes, agent_id: str, ttl: timedelta) -> None:
    """Store a session's digest."""
    await conn.execute(
        "INSERT INTO agent_sessions (digest, agent_id, expires_at) VALUES ($1, $2, now() + $3::interval)",
        digest,
        agent_id,
        ttl,
    )


async def set_metadata(conn: Connection, agent_id: str, metadata: Sequence[str]) -> None:
    """Store what an agent says about its host."""
    await conn.execute(
        """
        UPDATE agents SET hostname = $2, os = $3, architecture = $4, address = $5, version = $6, last_seen_at = now()
        WHERE id = $1
        """,
        agent_id,
        *metadata,
    )


async def touch(conn: Connection, agent_id: str, time_ms: int | None) -> None:
    """Note a sign of life and the clock's skew, at most every 15 seconds."""
    await conn.execute(
        """
        UPDATE agents SET last_seen_at = now(),
          skew_ms = coalesce($2::bigint - (extract(epoch FROM clock_timestamp()) * 1000)::bigint, skew_ms)
        WHERE id = $1 AND last_seen_at < now() - interval '15 seconds'
        """,
        agent_id,
        time_ms,
    )


async def purge(conn: Connection) -> None:
    """Remove nonces and sessions that have expired."""
    await conn.execute("DELETE FROM agent_nonces WHERE expires_at < now()")
    await conn.execute("DELETE FROM agent_sessions WHERE expires_at < now()")
