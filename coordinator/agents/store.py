"""SQL of agents, enrollment tokens, nonces and sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Listing, Sort

HEALTH = "agent-health-check"
"""The topic that wakes who tells of agents that were silent and are heard again."""
AWAY_AFTER = timedelta(minutes=2)
ONLINE = "(last_seen_at > now() - interval '2 minutes' AND retired_at IS NULL)"
COLUMNS = f"""id, name, hostname, os, architecture, address, version, skew_ms, last_seen_at, enrolled_at, retired_at,
  retired_reason, revision, {ONLINE} AS online"""
_FILTERS = {
    "name": "name = {}",
    "os": "os = {}",
    "architecture": "architecture = {}",
    "version": "version = {}",
    "online": f"{ONLINE} = {{}}",
    "group_id": "id IN (SELECT agent_id FROM group_agents WHERE group_id = {})",
    "retired": "(retired_at IS NOT NULL) = {}",
    "q": "strpos(lower(concat_ws(' ', id, name, hostname, address)), lower({})) > 0",
}
_SORTS = {name: Sort(name) for name in ("name", "hostname", "os", "architecture", "version")}
_ENROLLED, _SEEN = Sort("enrolled_at", "timestamptz"), Sort("last_seen_at", "timestamptz")
LISTING = Listing(COLUMNS, "agents", "ag", _FILTERS, {"enrolled_at": _ENROLLED, "last_seen_at": _SEEN, **_SORTS})
RETIRED = Listing(
    COLUMNS,
    "agents",
    "ag",
    _FILTERS,
    {"retired_at": Sort("retired_at", "timestamptz"), "enrolled_at": _ENROLLED, **_SORTS},
    always="retired_at IS NOT NULL",
)
TOKENS = Listing(
    "id, note, created_by, created_at, expires_at, used_by, used_at, revoked_at", "enrollment_tokens", "tok"
)


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
        """
        SELECT id, used_by, expires_at <= now() AS expired, revoked_at IS NOT NULL AS revoked
        FROM enrollment_tokens WHERE digest = $1 FOR UPDATE
        """,
        digest,
    )


async def token_by_id(conn: Connection, token_id: str) -> Row | None:
    """Return an enrollment token, locked until the transaction's end."""
    return await conn.fetchrow(
        "SELECT id, used_by, revoked_at FROM enrollment_tokens WHERE id = $1 FOR UPDATE", token_id
    )


async def revoke_token(conn: Connection, token_id: str) -> None:
    """Make an enrollment token useless, also to a coordinator that does not know of revocations."""
    await conn.execute(
        "UPDATE enrollment_tokens SET revoked_at = now(), expires_at = least(expires_at, now()) WHERE id = $1", token_id
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


async def get(conn: Connection, agent_id: str, *, lock: bool = False) -> Row | None:
    """Return one agent, locked until the transaction's end when asked; rows that name it may still come in."""
    tail = "FOR NO KEY UPDATE" if lock else ""
    return await conn.fetchrow(f"SELECT {COLUMNS} FROM agents WHERE id = $1 {tail}", agent_id)


async def rename(conn: Connection, agent_id: str, name: str) -> Row | None:
    """Give an agent another name and return it."""
    return await conn.fetchrow(
        f"UPDATE agents SET name = $2, revision = revision + 1 WHERE id = $1 RETURNING {COLUMNS}", agent_id, name
    )


async def retire(conn: Connection, agent_id: str, reason: str) -> datetime:
    """Retire an agent for good; return when that was."""
    moment: datetime = await conn.fetchval(
        """
        UPDATE agents SET retired_at = now(), retired_reason = $2, revision = revision + 1 WHERE id = $1
        RETURNING retired_at
        """,
        agent_id,
        reason,
    )
    return moment


async def dependents(conn: Connection, agent_id: str) -> Row:
    """Return how much depends on an agent."""
    row = await conn.fetchrow(
        """
        SELECT
          (SELECT count(*) FROM targets WHERE agent_id = $1 AND archived_at IS NULL) AS active_targets,
          (SELECT count(*) FROM holders WHERE agent_id = $1) AS active_certificates,
          (SELECT count(*) FROM jobs WHERE agent_id = $1
             AND state IN ('AwaitingCSR', 'AwaitingApproval', 'AwaitingCA', 'Pending', 'Running')) AS pending_jobs
        """,
        agent_id,
    )
    assert row is not None  # noqa: S101 - counts are always there
    return row


async def hold_off_retirement(conn: Connection, agent_ids: Sequence[str]) -> None:
    """Let these agents be retired only after this transaction.

    Not by their rows: those are written to with every sign of life, for many agents in one statement.
    """
    await conn.execute(
        """
        SELECT pg_advisory_xact_lock_shared(hashtextextended('agent ' || id, 0)) FROM unnest($1::text[]) AS asked (id)
        """,
        list(agent_ids),
    )


async def await_the_held_off(conn: Connection, agent_id: str) -> None:
    """Wait for the transactions that hold off an agent's retirement, and hold off new ones."""
    await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('agent ' || $1::text, 0))", agent_id)


async def sealing_keys(conn: Connection, agent_ids: Sequence[str]) -> list[Row]:
    """Return the public keys that secrets for some agents are sealed to, and when those were retired."""
    return await conn.fetch("SELECT id, name, sealing_key, retired_at FROM agents WHERE id = ANY($1)", list(agent_ids))


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


async def set_metadata(conn: Connection, agent_id: str, metadata: Sequence[str]) -> bool:
    """Store what an agent says about its host; say whether any of what groups go by is new."""
    return bool(
        await conn.fetchval(
            """
            WITH before AS (SELECT os, architecture, address, version FROM agents WHERE id = $1 FOR UPDATE)
            UPDATE agents
            SET hostname = $2, os = $3, architecture = $4, address = $5, version = $6, last_seen_at = now()
            FROM before WHERE id = $1
            RETURNING before IS DISTINCT FROM ($3::text, $4::text, $5::text, $6::text)
            """,
            agent_id,
            *metadata,
        )
    )


async def touch(conn: Connection, signs: Sequence[tuple[str, int | None, float]]) -> bool:
    """Store signs of life: agent, what its clock showed or None, and how many seconds ago that was.

    Say whether one of them counts as offline.
    """
    rows = await conn.fetch(
        """
        UPDATE agents SET last_seen_at = now() - signs.age,
          skew_ms = coalesce(
            signs.time_ms - (extract(epoch FROM clock_timestamp() - signs.age) * 1000)::bigint, skew_ms)
        FROM (
          SELECT id, time_ms, age_s * interval '1 second' AS age
          FROM unnest($1::text[], $2::bigint[], $3::float8[]) AS signs (id, time_ms, age_s)
        ) AS signs
        WHERE agents.id = signs.id AND last_seen_at < now() - signs.age - interval '15 seconds'
        RETURNING offline_since IS NOT NULL AS offline
        """,
        [agent_id for agent_id, _, _ in signs],
        [time_ms for _, time_ms, _ in signs],
        [age_s for _, _, age_s in signs],
    )
    return any(row["offline"] for row in rows)


async def take_silent(conn: Connection, limit: int) -> list[Row]:
    """Mark agents that have been silent for too long, and return those that are marked by this."""
    return await conn.fetch(
        """
        UPDATE agents SET offline_since = last_seen_at
        WHERE id IN (
          SELECT id FROM agents
          WHERE offline_since IS NULL AND retired_at IS NULL AND last_seen_at < now() - $1::interval
          ORDER BY id LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED)
        RETURNING id, name, last_seen_at
        """,
        AWAY_AFTER,
        limit,
    )


async def take_heard(conn: Connection, limit: int) -> list[Row]:
    """Take the mark from agents that are heard again, and return them with the mark that they had."""
    return await conn.fetch(
        """
        WITH heard AS (
          SELECT id, offline_since FROM agents
          WHERE offline_since IS NOT NULL AND retired_at IS NULL AND last_seen_at >= now() - $1::interval
          ORDER BY id LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED)
        UPDATE agents SET offline_since = NULL FROM heard WHERE agents.id = heard.id
        RETURNING agents.id, name, heard.offline_since
        """,
        AWAY_AFTER,
        limit,
    )


async def seconds_to_silence(conn: Connection) -> float | None:
    """Return the seconds until the first of the agents that are heard of would have been silent for too long."""
    wait: float | None = await conn.fetchval(
        """
        SELECT extract(epoch FROM min(last_seen_at) + $1::interval - now())::float8 FROM agents
        WHERE offline_since IS NULL AND retired_at IS NULL
        """,
        AWAY_AFTER,
    )
    return wait


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
