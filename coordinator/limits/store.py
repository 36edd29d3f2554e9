"""SQL of the buckets that all replicas share. The table is not logged: after a crash of the server they are full again.

A row is the moment at which its bucket is full, as in ``buckets``. The database's clock decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from coordinator.database.connection import Connection


async def take(conn: Connection, name: str, subject: str, step: timedelta, whole: timedelta) -> float:
    """Take one; return 0, or the seconds until there is one. The row is locked until the transaction's end."""
    taken = await conn.fetchval(
        """
        INSERT INTO limit_buckets AS b (name, subject, full_at) VALUES ($1, $2, clock_timestamp() + $3::interval)
        ON CONFLICT (name, subject) DO UPDATE SET full_at = greatest(b.full_at, clock_timestamp()) + $3::interval
        WHERE greatest(b.full_at, clock_timestamp()) + $3::interval <= clock_timestamp() + $4::interval
        RETURNING true
        """,
        name,
        subject,
        step,
        whole,
    )
    if taken:
        return 0.0
    wait_s = await conn.fetchval(
        """
        SELECT extract(epoch FROM full_at + $3::interval - $4::interval - clock_timestamp())::float8
        FROM limit_buckets WHERE name = $1 AND subject = $2
        """,
        name,
        subject,
        step,
        whole,
    )
    return max(float(wait_s or 0.0), 0.001)


async def waits(
    conn: Connection, name: str, subjects: Sequence[str], step: timedelta, whole: timedelta
) -> dict[str, float]:
    """Return the seconds until there is one to take, for those that have none now."""
    rows = await conn.fetch(
        """
        SELECT subject, extract(epoch FROM full_at + $3::interval - $4::interval - clock_timestamp())::float8 AS wait_s
        FROM limit_buckets
        WHERE name = $1 AND subject = ANY ($2) AND full_at + $3::interval > clock_timestamp() + $4::interval
        """,
        name,
        list(subjects),
        step,
        whole,
    )
    return {row["subject"]: row["wait_s"] for row in rows}


async def give_back(conn: Connection, name: str, subject: str, step: timedelta) -> None:
    """Put one back."""
    await conn.execute(
        "UPDATE limit_buckets SET full_at = full_at - $3::interval WHERE name = $1 AND subject = $2",
        name,
        subject,
        step,
    )


async def purge(conn: Connection) -> None:
    """Remove buckets that are full."""
    await conn.execute("DELETE FROM limit_buckets WHERE full_at <= clock_timestamp()")
