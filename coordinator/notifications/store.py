"""SQL of notifications. Attempts run on the database's ``now()``, alerts on the business clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import CREATED, Listing

COLUMNS = """id, type, severity, certificate_id, channel, recipient, subject, message, status, retry_count,
  next_retry_at, last_error, sent_at, read_at, created_at"""
LISTING = Listing(
    COLUMNS,
    "notifications",
    "ntf",
    filters={
        **{name: f"{name} = {{}}" for name in ("status", "type", "severity", "channel", "certificate_id")},
        "unread": "(read_at IS NULL) = {}",
    },
    sorts={"created_at": CREATED},
    team="team_id",
    environment="environment",
    within="certificate_id IN (SELECT id FROM certificates WHERE {})",
)


async def set_channels(conn: Connection, there: Mapping[str, Sequence[str]]) -> None:
    """Make these the channels that there are, each with its recipients."""
    await conn.execute("DELETE FROM notification_channels WHERE NOT name = ANY($1)", list(there))
    await conn.executemany(
        """
        INSERT INTO notification_channels (name, recipients) VALUES ($1, $2)
        ON CONFLICT (name) DO UPDATE SET recipients = excluded.recipients
        """,
        [(name, list(recipients)) for name, recipients in there.items()],
    )


async def channels(conn: Connection) -> dict[str, list[str]]:
    """Return the channels that there are with their recipients, in a fixed order."""
    rows = await conn.fetch("SELECT name, recipients FROM notification_channels ORDER BY name")
    return {row["name"]: row["recipients"] for row in rows}


async def addresses(conn: Connection, certificate_ids: Sequence[str]) -> dict[str, str]:
    """Return the e-mail addresses of the owners of certificates."""
    rows = await conn.fetch(
        """
        SELECT certificates.id, email FROM certificates JOIN owners ON owners.id = owner_id
        WHERE certificates.id = ANY($1)
        """,
        list(certificate_ids),
    )
    return {row["id"]: row["email"] for row in rows}


async def insert(conn: Connection, notifications: Sequence[Mapping[str, Any]]) -> None:
    """Queue notifications, but none that has been told."""
    await conn.executemany(
        """
        INSERT INTO notifications (id, key, type, severity, certificate_id, channel, recipient, subject, message,
                                   status, last_error, next_retry_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, CASE WHEN $10 = 'pending' THEN now() END)
        ON CONFLICT (key, channel, recipient) DO NOTHING
        """,
        [
            tuple(row[name] for name in ("id", "key", "type", "severity", "certificate_id", "channel", "recipient",
                                         "subject", "message", "status", "last_error"))
            for row in notifications
        ],
    )  # fmt: skip


async def take(conn: Connection, channel: str, limit: int, lease: timedelta) -> list[Row]:
    """Count one more attempt at what is due on a channel, and return it; nobody else tries it during the lease."""
    return await conn.fetch(
        f"""
        UPDATE notifications SET retry_count = retry_count + 1, next_retry_at = now() + $3::interval
        WHERE id IN (
          SELECT id FROM notifications WHERE channel = $1 AND next_retry_at <= now()
          ORDER BY next_retry_at LIMIT $2 FOR UPDATE SKIP LOCKED)
        RETURNING {COLUMNS}
        """,
        channel,
        limit,
        lease,
    )


async def sent(conn: Connection, notification_id: str) -> None:
    """Note that a notification has arrived."""
    await conn.execute(
        """
        UPDATE notifications SET status = 'sent', sent_at = now(), next_retry_at = NULL, last_error = ''
        WHERE id = $1 AND status IN ('pending', 'failed')
        """,
        notification_id,
    )


async def failed(conn: Connection, notification_id: str, error: str, pause: timedelta | None) -> None:
    """Note that an attempt was in vain, and how long to wait before the next; None when there is none."""
    await conn.execute(
        """
        UPDATE notifications SET status = CASE WHEN $3::interval IS NULL THEN 'dead' ELSE 'failed' END,
          next_retry_at = now() + $3::interval, last_error = $2
        WHERE id = $1 AND status IN ('pending', 'failed')
        """,
        notification_id,
        error,
        pause,
    )


async def seconds_to_next(conn: Connection, channel: str) -> float | None:
    """Return the seconds until something is due on a channel."""
    wait = await conn.fetchval(
        """
        SELECT extract(epoch FROM min(next_retry_at) - now())::float8 FROM notifications
        WHERE channel = $1 AND next_retry_at IS NOT NULL
        """,
        channel,
    )
    return None if wait is None else max(0.0, float(wait))


async def set_read(conn: Connection, notification_id: str) -> bool:
    """Note that a notification was seen; say whether that is new."""
    return bool(
        await conn.execute(
            "UPDATE notifications SET read_at = now() WHERE id = $1 AND read_at IS NULL", notification_id
        )
    )


async def requeue(conn: Connection, notification_id: str, recipient: str) -> None:
    """Have a notification sent from the first attempt on."""
    await conn.execute(
        """
        UPDATE notifications SET status = 'pending', retry_count = 0, next_retry_at = now(), recipient = $2
        WHERE id = $1
        """,
        notification_id,
        recipient,
    )


async def looked_until(conn: Connection, now: datetime) -> datetime:
    """Return up to when ends were looked at, locked; the first look ever begins now."""
    await conn.execute("INSERT INTO alerts_watch (looked_until) VALUES ($1) ON CONFLICT DO NOTHING", now)
    moment: datetime = await conn.fetchval("SELECT looked_until FROM alerts_watch FOR UPDATE")
    return moment


async def look_on(conn: Connection, until: datetime) -> None:
    """Note up to when ends were looked at."""
    await conn.execute("UPDATE alerts_watch SET looked_until = $1", until)


async def crossings(conn: Connection, since: datetime, until: datetime, limit: int) -> list[Row]:
    """Return which current versions crossed a threshold of their policy in a span of time, the earliest first.

    All of one moment come together, so that there may be more than ``limit``.
    """
    return await conn.fetch(
        """
        SELECT days, not_after - days * interval '1 day' AS at, versions.id AS version_id, not_after,
          versions.created_at AS issued_at, holders.agent_id, holders.reason, certificates.id AS certificate_id,
          certificates.name, alert_channels, alert_severity_map
        FROM (SELECT DISTINCT unnest(alert_thresholds_days) AS days FROM renewal_policies) AS thresholds
        CROSS JOIN LATERAL (
          SELECT id, certificate_id, holder, not_after, created_at FROM certificate_versions
          WHERE not_after > $1::timestamptz + days * interval '1 day'
            AND not_after <= $2::timestamptz + days * interval '1 day' AND revoked_at IS NULL) AS versions
        JOIN holders ON holders.certificate_id = versions.certificate_id AND holders.agent_id = versions.holder
          AND holders.version_id = versions.id
        JOIN certificates ON certificates.id = versions.certificate_id AND NOT archived
        JOIN renewal_policies ON renewal_policies.id = renewal_policy_id AND days = ANY(alert_thresholds_days)
        ORDER BY at FETCH FIRST $3 ROWS WITH TIES
        """,
        since,
        until,
        limit,
    )
