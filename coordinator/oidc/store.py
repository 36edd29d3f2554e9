"""SQL of sign-ins: what came back from the provider once does not do so a second time."""

from __future__ import annotations

from datetime import timedelta

from coordinator.database.connection import Connection


async def use_state(conn: Connection, digest: bytes, kept: timedelta) -> bool:
    """Remember that a sign-in came back; False when it has done so before."""
    return bool(
        await conn.fetchval(
            """
            INSERT INTO oidc_states (digest, expires_at) VALUES ($1, now() + $2)
            ON CONFLICT DO NOTHING RETURNING true
            """,
            digest,
            kept,
        )
    )


async def purge(conn: Connection) -> None:
    """Forget those that are too old to come back."""
    await conn.execute("DELETE FROM oidc_states WHERE expires_at < now()")
