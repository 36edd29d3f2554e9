"""SQL of answers to challenges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row

_COLUMNS = "id, order_id, agent_id, url, challenge, state, shown_at, shown_where, problem, verdict, created_at"


async def want(conn: Connection, rows: Sequence[tuple[str, str, str | None, str, Any]]) -> None:
    """Ask for answers, each once: id, order, agent or None, the challenge's address, the challenge."""
    await conn.executemany(
        """
        INSERT INTO ca_challenges (id, order_id, agent_id, url, challenge) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT DO NOTHING
        """,
        rows,
    )


async def holders(conn: Connection, certificate_id: str) -> list[str]:
    """Return the agents that hold a certificate, whose hosts its names may lead to."""
    rows = await conn.fetch("SELECT agent_id FROM holders WHERE certificate_id = $1 ORDER BY 1", certificate_id)
    return [row["agent_id"] for row in rows]


async def of_order(conn: Connection, order_ids: Sequence[str]) -> list[Row]:
    """Return the answers of some orders, in the order in which they were asked for."""
    statement = f"SELECT {_COLUMNS} FROM ca_challenges WHERE order_id = ANY($1) ORDER BY created_at, id"
    return await conn.fetch(statement, order_ids)


async def shown(conn: Connection, challenge_id: str, where: str) -> None:
    """Note that an answer is shown."""
    await conn.execute(
        """
        UPDATE ca_challenges SET state = 'shown', shown_at = now(), shown_where = $2, problem = ''
        WHERE id = $1 AND state IN ('wanted', 'shown', 'failed')
        """,
        challenge_id,
        where,
    )


async def failed(conn: Connection, challenge_id: str, problem: str) -> None:
    """Note that an answer cannot be shown."""
    statement = "UPDATE ca_challenges SET state = 'failed', problem = $2 WHERE id = $1 AND state IN ('wanted', 'shown')"
    await conn.execute(statement, challenge_id, problem)


async def over(conn: Connection, order_id: str) -> list[str]:
    """Have the answers of an order taken away; return the agents that have some to take away."""
    rows = await conn.fetch(
        """
        UPDATE ca_challenges SET offered_at = CASE WHEN agent_id IS NULL THEN now() END,
          state = CASE WHEN agent_id IS NULL THEN state WHEN boot = '' THEN 'gone' ELSE 'over' END
        WHERE order_id = $1 AND state IN ('wanted', 'shown', 'failed') RETURNING agent_id, state
        """,
        order_id,
    )
    return sorted({row["agent_id"] for row in rows if row["state"] == "over"})


async def left(conn: Connection, again: timedelta, tried_for: timedelta) -> list[Row]:
    """Return orders that are over, with whom they were at, of which answers are shown that nobody takes away now."""
    return await conn.fetch(
        """
        SELECT DISTINCT orders.id, orders.issuer_id FROM ca_challenges AS answers
        JOIN ca_orders AS orders ON orders.id = order_id
        WHERE answers.state IN ('wanted', 'shown', 'failed') AND orders.status <> 'open'
          AND finished_at > now() - $2::interval
          AND (offered_at IS NULL OR offered_at < now() - $1::interval)
        """,
        again,
        tried_for,
    )


async def stays(conn: Connection, challenge_id: str, problem: str) -> None:
    """Note why an answer could not be taken away, where nothing is noted yet."""
    await conn.execute("UPDATE ca_challenges SET problem = $2 WHERE id = $1 AND problem = ''", challenge_id, problem)


async def gone(conn: Connection, challenge_id: str) -> None:
    """Note that an answer was taken away."""
    await conn.execute("UPDATE ca_challenges SET state = 'gone' WHERE id = $1", challenge_id)


async def verdict(conn: Connection, order_id: str, url: str, problem: str, seen: Mapping[str, Any]) -> None:
    """Keep the authority's words on a challenge."""
    await conn.execute(
        """
        UPDATE ca_challenges SET verdict = $4, problem = CASE WHEN $3 = '' THEN problem ELSE $3 END
        WHERE order_id = $1 AND url = $2
        """,
        order_id,
        url,
        problem,
        seen,
    )


_OFFERABLE = """
  (state = 'wanted' AND (boot <> $2 OR offered_at IS NULL OR offered_at < now() - $3::interval)
   OR state = 'shown' AND boot <> $2
   OR state = 'over' AND (offered_at IS NULL OR offered_at < now() - $3::interval))"""


async def wait(conn: Connection, agent_id: str, boot: str, again: timedelta) -> bool:
    """Say whether there is something to offer to this process of an agent."""
    statement = f"SELECT EXISTS (SELECT FROM ca_challenges WHERE agent_id = $1 AND {_OFFERABLE})"
    return bool(await conn.fetchval(statement, agent_id, boot, again))


async def offer(conn: Connection, agent_id: str, boot: str, again: timedelta, limit: int) -> list[Row]:
    """Return what this process of an agent should show or take away, and remember that it was told."""
    return await conn.fetch(
        f"""
        WITH due AS (
          SELECT id FROM ca_challenges WHERE agent_id = $1 AND {_OFFERABLE}
          ORDER BY created_at LIMIT $4 FOR UPDATE SKIP LOCKED
        )
        UPDATE ca_challenges SET boot = $2, offered_at = now() FROM due WHERE ca_challenges.id = due.id
        RETURNING ca_challenges.id, challenge, state
        """,
        agent_id,
        boot,
        again,
        limit,
    )


async def of_agent(conn: Connection, challenge_id: str, agent_id: str) -> Row | None:
    """Return an agent's answer, locked."""
    statement = "SELECT id, order_id, state FROM ca_challenges WHERE id = $1 AND agent_id = $2 FOR UPDATE"
    return await conn.fetchrow(statement, challenge_id, agent_id)
