"""SQL of targets. A target that is removed is archived: jobs and the audit trail go on naming it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import CREATED, Listing, Sort
from coordinator.database.table import Table

TABLE = Table("targets", ("name", "type", "agent_id", "config", "enabled", "sealed", "sealed_to"))
COLUMNS = f"{TABLE.reads}, archived_at, archived_reason"
_BOUND = "EXISTS (SELECT FROM bindings WHERE target_id = targets.id{})"
LISTING = Listing(
    COLUMNS,
    "targets",
    "tgt",
    filters={
        "name": "name = {}",
        "type": "type = lower({})",
        "agent_id": "agent_id = {}",
        "enabled": "enabled = {}",
        "archived": "(archived_at IS NOT NULL) = {}",
        "bound": f"{_BOUND.format('')} = {{}}",
        "drifted": _BOUND.format(" AND drift <> ''") + " = {}",
        "certificate_id": _BOUND.format(" AND certificate_id = {}"),
        "q": "strpos(lower(concat_ws(' ', id, name, config::text)), lower({})) > 0",
    },
    sorts={
        "created_at": CREATED,
        "updated_at": Sort("updated_at", "timestamptz"),
        "name": Sort("name"),
        "type": Sort("type"),
    },
)


async def get(conn: Connection, target_id: str, *, lock: bool = False) -> Row | None:
    """Return one target, locked until the transaction's end when asked; jobs that name it may still come in."""
    tail = "FOR NO KEY UPDATE" if lock else ""
    return await conn.fetchrow(f"SELECT {COLUMNS} FROM targets WHERE id = $1 {tail}", target_id)


async def archive(conn: Connection, target_id: str, reason: str) -> None:
    """Archive a target; its secrets go at once."""
    await conn.execute(
        """
        UPDATE targets SET archived_at = now(), archived_reason = $2, revision = revision + 1, updated_at = now(),
          sealed = '{}', sealed_to = ''
        WHERE id = $1
        """,
        target_id,
        reason,
    )


async def archive_all(conn: Connection, agent_id: str, reason: str) -> list[str]:
    """Archive the targets of an agent; return their ids."""
    rows = await conn.fetch(
        """
        UPDATE targets SET archived_at = now(), archived_reason = $2, revision = revision + 1, updated_at = now(),
          sealed = '{}', sealed_to = ''
        WHERE agent_id = $1 AND archived_at IS NULL RETURNING id
        """,
        agent_id,
        reason,
    )
    return sorted(row["id"] for row in rows)


async def agents_of(conn: Connection, target_ids: Sequence[str]) -> dict[str, str]:
    """Return target → agent for those of ``target_ids`` that exist; they stay so until the transaction ends."""
    rows = await conn.fetch(
        "SELECT id, agent_id FROM targets WHERE id = ANY($1) AND archived_at IS NULL FOR SHARE", target_ids
    )
    return {row["id"]: row["agent_id"] for row in rows}


async def begin_trial(conn: Connection, target_id: str, agent_id: str, trial_id: str) -> bool:
    """Put a new trial in the place of one that has ended or is another agent's; say whether there was none to await."""
    begun = await conn.fetchval(
        """
        INSERT INTO target_trials (target_id, id, agent_id) VALUES ($1, $3, $2)
        ON CONFLICT (target_id) DO UPDATE SET id = $3, agent_id = $2, requested_at = now(), offered_to = '',
          offered_at = NULL, finished_at = NULL, steps = '[]', failure = NULL
        WHERE target_trials.finished_at IS NOT NULL OR target_trials.agent_id <> $2 RETURNING true
        """,
        target_id,
        agent_id,
        trial_id,
    )
    return bool(begun)


async def trials(conn: Connection, target_ids: Sequence[str]) -> list[Row]:
    """Return the last trials of these targets."""
    return await conn.fetch("SELECT * FROM target_trials WHERE target_id = ANY($1)", target_ids)


_OFFERED = "finished_at IS NULL AND (offered_to <> $2 OR offered_at < now() - $3::interval)"


async def trials_wait(conn: Connection, agent_id: str, boot: str, again: timedelta) -> bool:
    """Say whether an agent's process has a trial to come."""
    found = f"SELECT EXISTS (SELECT FROM target_trials WHERE agent_id = $1 AND {_OFFERED})"
    return bool(await conn.fetchval(found, agent_id, boot, again))


async def offer_trials(conn: Connection, agent_id: str, boot: str, again: timedelta, limit: int) -> list[Row]:
    """Note that trials are offered to an agent's process and return them with what they need."""
    return await conn.fetch(
        f"""
        WITH due AS (
          SELECT id FROM target_trials WHERE agent_id = $1 AND {_OFFERED} LIMIT $4 FOR UPDATE SKIP LOCKED
        ), offered AS (
          UPDATE target_trials SET offered_to = $2, offered_at = now() FROM due
          WHERE target_trials.id = due.id RETURNING target_trials.*
        )
        SELECT offered.id, targets.id AS target_id, targets.type, targets.config, targets.sealed,
          coalesce((SELECT certificates.names FROM bindings JOIN certificates ON certificates.id = certificate_id
                    WHERE bindings.target_id = targets.id LIMIT 1), '[]') AS names
        FROM offered JOIN targets ON targets.id = offered.target_id AND targets.archived_at IS NULL
        """,
        agent_id,
        boot,
        again,
        limit,
    )


async def trial_of_agent(conn: Connection, trial_id: str, agent_id: str) -> Row | None:
    """Return a trial of an agent, locked."""
    return await conn.fetchrow(
        "SELECT * FROM target_trials WHERE id = $1 AND agent_id = $2 FOR UPDATE", trial_id, agent_id
    )


async def end_trial(conn: Connection, trial_id: str, steps: object, failure: object) -> None:
    """Store how a trial ended."""
    await conn.execute(
        "UPDATE target_trials SET finished_at = now(), steps = $2, failure = $3 WHERE id = $1", trial_id, steps, failure
    )
