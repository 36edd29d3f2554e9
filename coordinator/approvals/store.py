"""SQL of approvals and votes. An approval is locked after the certificate and the job that it is about."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import CREATED, Listing, Sort

COLUMNS = """id, job_id, certificate_id, agent_id, profile_id, state, requested_by, required, approved, wanted, changes,
  array(SELECT jsonb_build_object('by', voter, 'name', name, 'vote', vote, 'note', note, 'at', created_at)
        FROM approval_votes AS votes WHERE approval_id = approvals.id ORDER BY created_at, voter) AS votes,
  reason, expires_at, decided_at, created_at"""
LISTING = Listing(
    COLUMNS,
    "approvals",
    "apr",
    filters={
        **{name: f"{name} = {{}}" for name in ("state", "certificate_id", "job_id", "profile_id")},
        "requested_by": "requested_by @> ARRAY[{}::text]",
    },
    sorts={"created_at": CREATED, "expires_at": Sort("expires_at", "timestamptz")},
    team="team_id",
    environment="environment",
    within="certificate_id IN (SELECT id FROM certificates WHERE {})",
)


async def insert(conn: Connection, approval: Mapping[str, Any], open_for: timedelta) -> None:
    """Store a new request for approval, open for so long."""
    names = list(approval)
    places = ", ".join(f"${place}" for place in range(2, len(names) + 2))
    await conn.execute(
        f"INSERT INTO approvals ({', '.join(names)}, expires_at) VALUES ({places}, now() + $1::interval)",
        open_for,
        *approval.values(),
    )


async def last_approved(conn: Connection, certificate_id: str, agent_id: str | None) -> dict[str, Any] | None:
    """Return what was approved last for a holder."""
    wanted: dict[str, Any] | None = await conn.fetchval(
        """
        SELECT wanted FROM approvals
        WHERE certificate_id = $1 AND agent_id IS NOT DISTINCT FROM $2 AND state = 'approved'
        ORDER BY created_at DESC, id DESC LIMIT 1
        """,
        certificate_id,
        agent_id,
    )
    return wanted


async def last_version(conn: Connection, certificate_id: str, agent_id: str) -> Row | None:
    """Return the newest version of a holder."""
    return await conn.fetchrow(
        """
        SELECT der, issuer_id, not_before, not_after FROM certificate_versions
        WHERE certificate_id = $1 AND holder = $2 ORDER BY generation DESC LIMIT 1
        """,
        certificate_id,
        agent_id,
    )


async def lock(conn: Connection, approval_id: str) -> Row | None:
    """Return an approval with all that was said, locked; ``run_out`` by the database's clock."""
    return await conn.fetchrow(
        f"SELECT {COLUMNS}, persons, expires_at <= now() AS run_out FROM approvals WHERE id = $1 FOR UPDATE",
        approval_id,
    )


async def voters(conn: Connection, approval_id: str) -> set[str]:
    """Return who has voted, in every way that is known."""
    rows = await conn.fetch("SELECT persons FROM approval_votes WHERE approval_id = $1", approval_id)
    return {person for row in rows for person in row["persons"]}


async def insert_vote(conn: Connection, vote: Mapping[str, Any]) -> None:
    """Store what somebody says."""
    await conn.execute(
        "INSERT INTO approval_votes (approval_id, voter, name, persons, vote, note) VALUES ($1, $2, $3, $4, $5, $6)",
        *vote.values(),
    )


async def count(conn: Connection, approval_id: str) -> None:
    """Count one more who agrees; enough of them are an approval."""
    await conn.execute(
        """
        UPDATE approvals SET approved = approved + 1,
          state = CASE WHEN approved + 1 >= required THEN 'approved' ELSE state END,
          decided_at = CASE WHEN approved + 1 >= required THEN now() END
        WHERE id = $1
        """,
        approval_id,
    )


async def end(conn: Connection, approval_id: str, state: str, reason: str) -> None:
    """End an approval otherwise."""
    await conn.execute(
        "UPDATE approvals SET state = $2, reason = $3, decided_at = now() WHERE id = $1", approval_id, state, reason
    )


async def run_out(conn: Connection, limit: int) -> list[str]:
    """Return open approvals whose time is over."""
    rows = await conn.fetch(
        "SELECT id FROM approvals WHERE state = 'pending' AND expires_at <= now() ORDER BY expires_at LIMIT $1", limit
    )
    return [row["id"] for row in rows]


async def seconds_to_next(conn: Connection) -> float | None:
    """Return the seconds until the next open approval runs out."""
    wait = await conn.fetchval(
        "SELECT extract(epoch FROM min(expires_at) - now())::float8 FROM approvals WHERE state = 'pending'"
    )
    return None if wait is None else max(0.0, float(wait))
