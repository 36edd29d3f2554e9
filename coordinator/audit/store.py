"""SQL of the audit trail: events, the batches that seal them, and the months that they are kept in.

Tables and partitions refuse changes and removals. What needs the rights of the schema's owner – making and dropping
months, beginning an era – is done by functions of the database that allow no more than that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any

from coordinator.database.connection import Connection, Statement, Transaction
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Listing, Sort
from core.trail import Batch, Event

_SEALED = "id, at, era, xact, actor, action, resource_type, resource_id, request_id, details::text AS details"
_BATCH = "number, era, from_xact, to_xact, leaves, previous, head, key_id, signature, sealed_at"
_CHAIN_LOCK = 0x6175646974
LISTING = Listing(
    "id, at, actor, action, resource_type, resource_id, request_id, details",
    "audit_events",
    "",
    filters={
        **{name: f"{name} = {{}}" for name in ("actor", "action", "resource_type", "resource_id")},
        "request_id": "request_id = {} AND request_id <> ''",
        "since": "at >= {}",
        "until": "at < {}",
    },
    sorts={"at": Sort("at", "timestamptz"), "id": Sort("id", "bigint")},
    id_type="bigint",
)


def insertion(events: Sequence[tuple[Any, ...]]) -> Statement:
    """Return what appends events in their order: actor, action, resource type, resource id, request id, details."""
    sql = """
      INSERT INTO audit_events (actor, action, resource_type, resource_id, request_id, details)
      SELECT actor, action, resource_type, resource_id, request_id, details
      FROM ROWS FROM (unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]), jsonb_array_elements($6))
        WITH ORDINALITY AS events (actor, action, resource_type, resource_id, request_id, details, place)
      ORDER BY place"""
    return sql, *(list(column) for column in zip(*events, strict=True))


async def get(conn: Connection, event_id: int) -> Row | None:
    """Return one event."""
    return await conn.fetchrow(f"SELECT {LISTING.columns} FROM audit_events WHERE id = $1", event_id)


# Sealing ---------------------------------------------------------------------------------------------------------


async def begin_era(conn: Connection) -> int:
    """Return the number of the present era, which is a new one when transaction ids have begun anew."""
    return int(await conn.fetchval("SELECT audit_begin_era()"))


async def lock_chain(conn: Connection) -> bool:
    """Have the end of the chain to oneself until the transaction's end; say whether it was free."""
    return bool(await conn.fetchval("SELECT pg_try_advisory_xact_lock($1)", _CHAIN_LOCK))


async def era(conn: Connection) -> int:
    """Return the number of the present era."""
    return int(await conn.fetchval("SELECT max(era) FROM audit_eras"))


async def newest_batch(conn: Connection) -> Row | None:
    """Return the end of the chain."""
    return await conn.fetchrow(f"SELECT {_BATCH} FROM audit_batches ORDER BY number DESC LIMIT 1")


async def newest_head(conn: Connection) -> Row | None:
    """Return what others are told of the newest batch."""
    return await conn.fetchrow(
        """
        SELECT number, encode(head, 'hex') AS head, events, key_id, signature, sealed_at
        FROM audit_batches ORDER BY number DESC LIMIT 1
        """
    )


async def settled(conn: Connection) -> int:
    """Return the transaction id below which every transaction has ended."""
    return int(await conn.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())"))


async def xact_of(conn: Connection, era_number: int, from_xact: int, place: int) -> int | None:
    """Return the transaction id of the event at a ``place``, counted from 0, among those from ``from_xact`` on."""
    found = await conn.fetchval(
        "SELECT xact FROM audit_events WHERE era = $1 AND xact >= $2 ORDER BY xact OFFSET $3 LIMIT 1",
        era_number,
        from_xact,
        place,
    )
    return None if found is None else int(found)


async def last_xact(conn: Connection, era_number: int, from_xact: int) -> int | None:
    """Return the highest transaction id of the events from ``from_xact`` on."""
    found = await conn.fetchval(
        "SELECT xact FROM audit_events WHERE era = $1 AND xact >= $2 ORDER BY xact DESC LIMIT 1", era_number, from_xact
    )
    return None if found is None else int(found)


async def events_in(tx: Transaction, era_number: int, from_xact: int, to_xact: int) -> AsyncIterator[Event]:
    """Yield the events of a half-open range of transaction ids, in the order in which they are sealed."""
    rows = tx.stream(
        f"SELECT {_SEALED} FROM audit_events WHERE era = $1 AND xact >= $2 AND xact < $3 ORDER BY xact, id",
        era_number,
        from_xact,
        to_xact,
    )
    async for row in rows:
        yield Event(*row)


async def insert_batch(conn: Connection, batch: Batch, head: bytes, signature: bytes) -> None:
    """Append a batch."""
    await conn.execute(
        """
        INSERT INTO audit_batches
          (number, era, from_xact, to_xact, events, leaves, previous, key_id, sealed_at, head, signature)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        """,
        *batch[:4],
        batch.events,
        *batch[4:],
        head,
        signature,
    )


async def now(conn: Connection) -> datetime:
    """Return the database's time."""
    moment: datetime = await conn.fetchval("SELECT clock_timestamp()")
    return moment


# Keys --------------------------------------------------------------------------------------------------------------


async def keys(conn: Connection) -> list[Row]:
    """Return the sealing keys, the one in use first."""
    return await conn.fetch("SELECT id, public_key, sealed_key FROM audit_keys ORDER BY created_at DESC, id")


async def insert_key(conn: Connection, key_id: str, public_key: bytes, sealed_key: bytes) -> None:
    """Store a sealing key."""
    await conn.execute(
        "INSERT INTO audit_keys (id, public_key, sealed_key) VALUES ($1, $2, $3)", key_id, public_key, sealed_key
    )


async def save_sealed_key(conn: Connection, key_id: str, sealed_key: bytes) -> None:
    """Store a key that was sealed anew."""
    await conn.execute("UPDATE audit_keys SET sealed_key = $2 WHERE id = $1", key_id, sealed_key)


# Months ------------------------------------------------------------------------------------------------------------


async def make_month(conn: Connection, month: date) -> bool:
    """Make the partition of a month; say whether it was not there."""
    return bool(await conn.fetchval("SELECT audit_make_month($1)", month))


async def expired_months(conn: Connection) -> list[date]:
    """Return the months that retention lets go, the oldest first."""
    return [row["month"] for row in await conn.fetch("SELECT audit_expired_months() AS month")]


async def drop_month(conn: Connection, month: date, dropped_at: datetime, key_id: str, signature: bytes) -> bool:
    """Drop a month and store who had it dropped; say whether it was there."""
    if not await conn.fetchval("SELECT audit_drop_month($1)", month):
        return False
    await conn.execute(
        "INSERT INTO audit_dropped_months (month, dropped_at, key_id, signature) VALUES ($1, $2, $3, $4)",
        month,
        dropped_at,
        key_id,
        signature,
    )
    return True


async def dropped_months(conn: Connection) -> list[Row]:
    """Return the months that retention removed."""
    return await conn.fetch("SELECT month, dropped_at, key_id, signature FROM audit_dropped_months ORDER BY month")


# Checking ----------------------------------------------------------------------------------------------------------


async def freeze(tx: Transaction) -> None:
    """See one state of everything until the transaction's end; call it first."""
    await tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


async def batches(conn: Connection, after: int, most: int) -> list[Row]:
    """Return batches by number."""
    return await conn.fetch(
        f"SELECT {_BATCH}, events FROM audit_batches WHERE number > $1 ORDER BY number LIMIT $2", after, most
    )


async def strays(conn: Connection, covered: Mapping[int, int], current: int) -> list[int]:
    """Return events of eras that are over which lie beyond what is sealed of them (era → transaction id)."""
    rows = await conn.fetch(
        """
        SELECT id FROM audit_events LEFT JOIN unnest($1::int[], $2::xid8[]) AS sealed (era, to_xact) USING (era)
        WHERE audit_events.era <> $3 AND (sealed.era IS NULL OR xact >= sealed.to_xact) ORDER BY id LIMIT 1000
        """,
        list(covered),
        list(covered.values()),
        current,
    )
    return [row["id"] for row in rows]


async def unsealed(conn: Connection, era_number: int, from_xact: int) -> int:
    """Count the events of an era that no batch holds yet."""
    return int(
        await conn.fetchval("SELECT count(*) FROM audit_events WHERE era = $1 AND xact >= $2", era_number, from_xact)
    )
