"""SQL of operations and their items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import CREATED, Listing, Sort

_COLUMNS = """id, kind, state, actor, teams, environments, request_id, criteria, options, total, succeeded, skipped,
  failed, cancelled, total - succeeded - skipped - failed - cancelled AS waiting, created_at, expires_at, started_at,
  finished_at"""
# Seen by whoever may see all that its maker could see.
LISTING = Listing(
    _COLUMNS,
    "operations",
    "op",
    filters={
        "kind": "kind = {}",
        "state": "state = {}",
        "actor": "actor = {}",
        "within_teams": "teams <@ {}",
        "within_environments": "environments <@ {}",
    },
    sorts={"created_at": CREATED},
)
ITEMS = Listing(
    "certificate_id AS id, certificate_id, outcome, detail, job_ids, finished_at",
    "operation_items",
    "mc",
    filters={"operation_id": "operation_id = {}", "outcome": "outcome = {}"},
    sorts={"certificate_id": Sort("certificate_id")},
    id="certificate_id",
)
_ADD = "INSERT INTO operation_items (operation_id, certificate_id"


class Outcome(NamedTuple):
    """What became of one item."""

    certificate_id: str
    outcome: str
    detail: str = ""
    job_ids: Sequence[str] = ()


async def insert(conn: Connection, operation: Mapping[str, Any]) -> None:
    """Store a new operation without items."""
    await conn.execute(
        """
        INSERT INTO operations (id, kind, state, actor, teams, environments, request_id, criteria, options)
        VALUES ($1, $2, 'planned', $3, $4, $5, $6, $7, $8)
        """,
        *(operation[name] for name in ("id", "kind", "actor", "teams", "environments")),
        *(operation[name] for name in ("request_id", "criteria", "options")),
    )


async def add_matching(conn: Connection, operation_id: str, matching: str, values: Sequence[object]) -> int:
    """Make the certificates that match at this moment the items; return how many there are."""
    place = len(values) + 1
    return await conn.execute(f"{_ADD}) SELECT ${place}, id FROM certificates WHERE {matching}", *values, operation_id)


async def add_named(
    conn: Connection, operation_id: str, ids: Sequence[str], matching: str, values: Sequence[object]
) -> int:
    """Make these certificates the items, those failed that do not match; return how many there are."""
    ids_place, place = len(values) + 1, len(values) + 2
    return await conn.execute(
        f"""
        {_ADD}, outcome, detail, finished_at)
        SELECT ${place}, asked.id, CASE WHEN found.id IS NULL THEN 'failed' ELSE 'waiting' END,
          CASE WHEN found.id IS NULL THEN 'there is no certificate ' || asked.id ELSE '' END,
          CASE WHEN found.id IS NULL THEN now() END
        FROM (SELECT DISTINCT id FROM unnest(${ids_place}::text[]) AS named (id)) AS asked
        LEFT JOIN (SELECT id FROM certificates WHERE id = ANY(${ids_place}) AND {matching}) AS found USING (id)
        """,
        *values,
        ids,
        operation_id,
    )


async def chosen(conn: Connection, operation_id: str, total: int, lifetime: timedelta) -> None:
    """Say how many items an operation has; as a plan it may be started for ``lifetime``."""
    await conn.execute(
        """
        UPDATE operations SET total = $2, expires_at = now() + $3::interval,
          failed = (SELECT count(*) FROM operation_items WHERE operation_id = $1 AND outcome = 'failed')
        WHERE id = $1
        """,
        operation_id,
        total,
        lifetime,
    )


async def start(conn: Connection, operation: Mapping[str, Any]) -> bool:
    """Start a plan; return False unless it is the actor's, of this kind, and neither started nor expired."""
    changed = await conn.execute(
        """
        UPDATE operations SET options = $4, teams = $5, environments = $6, request_id = $7, started_at = now(),
          expires_at = NULL, state = CASE WHEN failed = total THEN 'completed' ELSE 'running' END,
          finished_at = CASE WHEN failed = total THEN now() END
        WHERE id = $1 AND kind = $2 AND actor = $3 AND state = 'planned' AND expires_at > now()
        """,
        *(operation[name] for name in ("id", "kind", "actor", "options", "teams", "environments", "request_id")),
    )
    return changed == 1


async def get(conn: Connection, operation_id: str, *, lock: bool = False) -> Row | None:
    """Return an operation, locked until the transaction's end when asked."""
    tail = "FOR NO KEY UPDATE" if lock else ""
    return await conn.fetchrow(f"SELECT {_COLUMNS} FROM operations WHERE id = $1 {tail}", operation_id)


async def sample(conn: Connection, operation_id: str, limit: int) -> list[Row]:
    """Return a few of the certificates among the items, by id."""
    return await conn.fetch(
        """
        SELECT id, name, common_name, expires_at, standing FROM certificates WHERE id IN (
          SELECT certificate_id FROM operation_items WHERE operation_id = $1 AND outcome = 'waiting'
          ORDER BY certificate_id LIMIT $2)
        ORDER BY id
        """,
        operation_id,
        limit,
    )


async def cancel(conn: Connection, operation_id: str) -> None:
    """Have what waits of a locked operation left undone."""
    await conn.execute(
        """
        UPDATE operations SET expires_at = NULL,
          state = CASE WHEN failed = total THEN 'cancelled' ELSE 'cancelling' END,
          finished_at = CASE WHEN failed = total THEN now() END
        WHERE id = $1
        """,
        operation_id,
    )


async def live(conn: Connection) -> list[Row]:
    """Return the operations that there is something to do for, oldest first."""
    return await conn.fetch(
        f"SELECT {_COLUMNS} FROM operations WHERE state IN ('running', 'cancelling') ORDER BY created_at, id"
    )


async def take(conn: Connection, operation_id: str, limit: int) -> list[str]:
    """Return the next items that wait, locked; what another worker has in hand is passed over."""
    rows = await conn.fetch(
        """
        SELECT certificate_id FROM operation_items WHERE operation_id = $1 AND outcome = 'waiting'
        ORDER BY certificate_id LIMIT $2 FOR UPDATE SKIP LOCKED
        """,
        operation_id,
        limit,
    )
    return [row["certificate_id"] for row in rows]


async def finish(conn: Connection, operation_id: str, outcomes: Sequence[Outcome]) -> None:
    """Store what became of items that are locked."""
    await conn.execute(
        """
        UPDATE operation_items SET outcome = told.outcome, detail = told.detail, finished_at = now(),
          job_ids = string_to_array(told.job_ids, ' ')
        FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]) AS told (certificate_id, outcome, detail, job_ids)
        WHERE operation_id = $1 AND operation_items.certificate_id = told.certificate_id
        """,
        operation_id,
        [each.certificate_id for each in outcomes],
        [each.outcome for each in outcomes],
        [each.detail for each in outcomes],
        [" ".join(each.job_ids) for each in outcomes],
    )


async def count(conn: Connection, operation_id: str, outcomes: Mapping[str, int]) -> Row:
    """Add to an operation's counts; with the last item it ends. Return it."""
    row = await conn.fetchrow(
        f"""
        UPDATE operations SET succeeded = succeeded + $2, skipped = skipped + $3, failed = failed + $4,
          cancelled = cancelled + $5,
          state = CASE WHEN succeeded + skipped + failed + cancelled + $2 + $3 + $4 + $5 < total THEN state
            WHEN cancelled + $5 > 0 THEN 'cancelled' ELSE 'completed' END,
          finished_at = CASE WHEN succeeded + skipped + failed + cancelled + $2 + $3 + $4 + $5 = total THEN now() END
        WHERE id = $1 RETURNING {_COLUMNS}
        """,
        operation_id,
        *(outcomes.get(name, 0) for name in ("succeeded", "skipped", "failed", "cancelled")),
    )
    assert row is not None  # noqa: S101 - live operations are not removed
    return row


async def forgettable(conn: Connection, kept: timedelta) -> str | None:
    """Return a plan that has expired or an operation that ended long ago, locked."""
    operation_id: str | None = await conn.fetchval(
        """
        SELECT id FROM operations
        WHERE state = 'planned' AND expires_at < now() OR finished_at < now() - $1::interval
        LIMIT 1 FOR UPDATE SKIP LOCKED
        """,
        kept,
    )
    return operation_id


async def forget(conn: Connection, operation_id: str, limit: int) -> None:
    """Remove some of an operation's items, and with the last of them the operation."""
    removed = await conn.execute(
        """
        DELETE FROM operation_items WHERE operation_id = $1 AND certificate_id IN (
          SELECT certificate_id FROM operation_items WHERE operation_id = $1 LIMIT $2)
        """,
        operation_id,
        limit,
    )
    if removed < limit:
        await conn.execute("DELETE FROM operations WHERE id = $1", operation_id)
