"""SQL of the answers that are kept for repetitions."""

from __future__ import annotations

from datetime import timedelta

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row


async def claim(conn: Connection, actor: str, key: str, request: bytes, kept: timedelta) -> bool:
    """Take a key for a request; False when it is taken. Waits for a transaction that is just taking it."""
    taken = await conn.fetchval(
        """
        INSERT INTO idempotency_keys (actor, key, request, expires_at) VALUES ($1, $2, $3, now() + $4)
        ON CONFLICT (actor, key) DO UPDATE SET request = excluded.request, expires_at = excluded.expires_at
        WHERE idempotency_keys.expires_at < now()
        RETURNING true
        """,
        actor,
        key,
        request,
        kept,
    )
    return bool(taken)


async def get(conn: Connection, actor: str, key: str) -> Row | None:
    """Return what was answered under a key: the request's digest, and the sealed answer."""
    return await conn.fetchrow("SELECT request, answer FROM idempotency_keys WHERE actor = $1 AND key = $2", actor, key)


async def keep(conn: Connection, actor: str, key: str, answer: bytes) -> None:
    """Store the answer under a key that was claimed in this transaction."""
    await conn.execute("UPDATE idempotency_keys SET answer = $3 WHERE actor = $1 AND key = $2", actor, key, answer)


async def purge(conn: Connection) -> None:
    """Forget what was kept long enough."""
    await conn.execute("DELETE FROM idempotency_keys WHERE expires_at < now()")
