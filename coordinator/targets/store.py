"""SQL of targets. A target that is removed is archived: jobs and the audit trail go on naming it."""

from __future__ import annotations

from collections.abc import Sequence

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
