"""SQL of looks that agents take at challenges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row


async def connected(conn: Connection, group_id: str, most: int) -> dict[str, str]:
    """Return the names of connected agents of a group by their ids; of more than ``most``, any of them."""
    rows = await conn.fetch(
        """
        SELECT id, name FROM agents JOIN group_agents ON agent_id = id
        WHERE group_id = $1 AND retired_at IS NULL AND last_seen_at > now() - interval '2 minutes'
        ORDER BY random() LIMIT $2
        """,
        group_id,
        most,
    )
    return {row["id"]: row["name"] for row in rows}


async def ask(conn: Connection, authorization_id: str, looks: Sequence[tuple[str, str, Mapping[str, Any]]]) -> None:
    """Ask agents to look at a challenge: the look's id, the agent, the item. What was asked before is forgotten."""
    await forget(conn, authorization_id)
    await conn.executemany(
        "INSERT INTO acme_looks (id, authorization_id, agent_id, item) VALUES ($1, $2, $3, $4)",
        [(look_id, authorization_id, agent_id, item) for look_id, agent_id, item in looks],
    )


async def reports(conn: Connection, look_ids: Sequence[str]) -> dict[str, Any]:
    """Return what was told of these looks, by agent."""
    rows = await conn.fetch(
        "SELECT agent_id, report FROM acme_looks WHERE id = ANY($1) AND report IS NOT NULL", list(look_ids)
    )
    return {row["agent_id"]: row["report"] for row in rows}


async def forget(conn: Connection, authorization_id: str) -> None:
    """Forget the looks at an authorization's challenges."""
    await conn.execute("DELETE FROM acme_looks WHERE authorization_id = $1", authorization_id)


_OFFERED = """agent_id = $1 AND report IS NULL AND created_at > now() - $4::interval
  AND (boot <> $2 OR offered_at < now() - $3::interval)"""


async def wait(conn: Connection, agent_id: str, boot: str, again: timedelta, within: timedelta) -> bool:
    """Say whether there is a look to offer to this process of an agent."""
    statement = f"SELECT EXISTS (SELECT FROM acme_looks WHERE {_OFFERED})"
    return bool(await conn.fetchval(statement, agent_id, boot, again, within))


async def offer(
    conn: Connection, agent_id: str, boot: str, again: timedelta, within: timedelta, limit: int
) -> list[Row]:
    """Return what this process of an agent should look at, and remember that it was told."""
    return await conn.fetch(
        f"""
        WITH due AS (
          SELECT id FROM acme_looks WHERE {_OFFERED} ORDER BY created_at LIMIT $5 FOR UPDATE SKIP LOCKED
        )
        UPDATE acme_looks SET boot = $2, offered_at = now() FROM due WHERE acme_looks.id = due.id
        RETURNING acme_looks.item
        """,
        agent_id,
        boot,
        again,
        within,
        limit,
    )


async def of_agent(conn: Connection, look_id: str, agent_id: str) -> Row | None:
    """Return an agent's look, locked."""
    statement = "SELECT authorization_id, report FROM acme_looks WHERE id = $1 AND agent_id = $2 FOR UPDATE"
    return await conn.fetchrow(statement, look_id, agent_id)


async def keep(conn: Connection, look_id: str, report: Mapping[str, Any]) -> None:
    """Keep what an agent saw."""
    await conn.execute("UPDATE acme_looks SET report = $2 WHERE id = $1", look_id, report)
