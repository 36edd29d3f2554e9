"""SQL of the coordinators that run, with the encryption keys that each of them knows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row

_START_LOCK = 0x63657274


async def alone(tx: Transaction) -> None:
    """Let nobody else start or seal anew until this transaction ends."""
    await tx.execute("SELECT pg_advisory_xact_lock($1)", _START_LOCK)


async def say(conn: Connection, coordinator_id: str, keys: Sequence[str], ttl: timedelta) -> None:
    """Say that a coordinator runs and which keys it knows."""
    await conn.execute(
        """
        INSERT INTO coordinators (id, keys, until) VALUES ($1, $2, now() + $3::interval)
        ON CONFLICT (id) DO UPDATE SET keys = excluded.keys, until = excluded.until
        """,
        coordinator_id,
        list(keys),
        ttl,
    )


async def leave(conn: Connection, coordinator_id: str) -> None:
    """Say that a coordinator has ended; forget those that died."""
    await conn.execute("DELETE FROM coordinators WHERE id = $1 OR until < now()", coordinator_id)


async def running(conn: Connection) -> list[Row]:
    """Return the coordinators that run, with the keys that they know."""
    return await conn.fetch("SELECT id, keys FROM coordinators WHERE until > now() ORDER BY id")
