"""SQL of agents, enrollment tokens, nonces and sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Listing, Sort

COLUMNS = """id, name, hostname, os, architecture, address, version, skew_ms, last_seen_at, enrolled_at, retired_at,
  last_seen_at > now() - interval '2 minutes' AND retired_at IS NULL AS online"""
LISTING = Listing(
    COLUMNS,
    "agents",
    "ag",
    sorts={"enrolled_at": Sort("enrolled_at", "timestamptz")},
    filters={"name": "name = {}"},
    always="retired_at IS NULL",
)
TOKENS = Listing("id, note, created_by, created_at, expires_at, used_by, used_at", "enrollment_tokens", "tok")


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


async def touch(conn: Connection, signs: Sequence[tuple[str, int | None, float]]) -> None:
    """Store signs of life: agent, what its clock showed or None, and how many seconds ago that was."""
    await conn.execute(
        """
        UPDATE agents SET last_seen_at = now() - signs.age,
          skew_ms = coalesce(
            signs.time_ms - (extract(epoch FROM clock_timestamp() - signs.age) * 1000)::bigint, skew_ms)
        FROM (
          SELECT id, time_ms, age_s * interval '1 second' AS age
          FROM unnest($1::text[], $2::bigint[], $3::float8[]) AS signs (id, time_ms, age_s)
        ) AS signs
        WHERE agents.id = signs.id AND last_seen_at < now() - signs.age - interval '15 seconds'
        """,
        [agent_id for agent_id, _, _ in signs],
        [time_ms for _, time_ms, _ in signs],
        [age_s for _, _, age_s in signs],
    )


async def without_standing(conn: Connection, sessions: Mapping[str, bytes]) -> list[str]:
    """Return those of these agents who were retired, or whose session (its digest) has ended."""
    rows = await conn.fetch(
        """
        SELECT asked.agent_id FROM unnest($1::text[], $2::bytea[]) AS asked (agent_id, digest)
        LEFT JOIN agent_sessions AS sessions ON sessions.digest = asked.digest AND sessions.expires_at > now()
        LEFT JOIN agents ON agents.id = asked.agent_id
        WHERE sessions.digest IS NULL OR agents.retired_at IS NOT NULL
        """,
        list(sessions),
        list(sessions.values()),
    )
    return [row["agent_id"] for row in rows]


async def purge(conn: Connection) -> None:
    """Remove nonces and sessions that have expired."""
    await conn.execute("DELETE FROM agent_nonces WHERE expires_at < now()")
    await conn.execute("DELETE FROM agent_sessions WHERE expires_at < now()")
