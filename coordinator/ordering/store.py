"""SQL of orders at authorities elsewhere, their challenges and accounts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import CREATED, Listing

_ORDER = """id, certificate_id, job_id, issuer_id, status, state, replaces, next_at, failures, problem, created_at,
  finished_at"""
ORDERS = Listing(
    _ORDER,
    "ca_orders",
    "cao",
    filters={name: f"{name} = {{}}" for name in ("certificate_id", "job_id", "issuer_id", "status")},
    sorts={"created_at": CREATED},
    team="team_id",
    environment="environment",
    within="certificate_id IN (SELECT id FROM certificates WHERE {})",
)


async def insert_order(
    conn: Connection, order_id: str, request_id: str, job_id: str, certificate_id: str, issuer_id: str
) -> None:
    """Store an order that nobody has begun with; it replaces the version that its holder has from the same issuer."""
    await conn.execute(
        """
        INSERT INTO ca_orders (id, request_id, job_id, certificate_id, issuer_id) VALUES ($1, $2, $3, $4, $5)
        """,
        order_id,
        request_id,
        job_id,
        certificate_id,
        issuer_id,
    )


async def holders(conn: Connection) -> list[str]:
    """Return the coordinators that have orders in hand."""
    statement = "SELECT DISTINCT held_by FROM ca_orders WHERE status = 'open' AND held_until > now()"
    return [row["held_by"] for row in await conn.fetch(statement)]


async def release(conn: Connection, holders: Sequence[str]) -> None:
    """Let others go on with the orders of coordinators that are gone."""
    statement = "UPDATE ca_orders SET held_until = '-infinity' WHERE status = 'open' AND held_by = ANY($1)"
    await conn.execute(statement, holders)


async def claim(conn: Connection, limit: int, holder: str, hold: timedelta) -> list[Row]:
    """Take open orders whose time has come; each is its taker's for a while, under a new epoch."""
    return await conn.fetch(
        """
        WITH due AS (
          SELECT id FROM ca_orders WHERE status = 'open' AND next_at <= now() AND held_until <= now()
          ORDER BY next_at LIMIT $1 FOR UPDATE SKIP LOCKED
        )
        UPDATE ca_orders SET epoch = epoch + 1, held_until = now() + $2::interval, held_by = $3 FROM due
        WHERE ca_orders.id = due.id RETURNING ca_orders.id, epoch
        """,
        limit,
        hold,
        holder,
    )


async def seconds_to_next(conn: Connection) -> float | None:
    """Return the seconds until the next open order's time comes, None when there is none."""
    wait: float | None = await conn.fetchval(
        """
        SELECT extract(epoch FROM min(greatest(next_at, held_until)) - now())::float8 FROM ca_orders
        WHERE status = 'open'
        """
    )
    return None if wait is None else max(0.0, wait)


async def order(conn: Connection, order_id: str, epoch: int) -> Row | None:
    """Return a taken order with its request and job; None for one that another has taken meanwhile, or that ended."""
    return await conn.fetchrow(
        """
        SELECT orders.id, orders.job_id, orders.certificate_id, orders.issuer_id, orders.state, orders.replaces,
          orders.failures, orders.created_at, orders.epoch, requests.csr, requests.issuer_id AS first_issuer_id,
          jobs.state AS job_state, jobs.agent_id,
          (SELECT versions.der FROM holders JOIN certificate_versions AS versions ON versions.id = holders.version_id
           WHERE holders.certificate_id = orders.certificate_id AND holders.agent_id = jobs.agent_id
             AND versions.issuer_id = orders.issuer_id) AS replaced
        FROM ca_orders AS orders JOIN issuance_requests AS requests ON requests.id = orders.request_id
        JOIN jobs ON jobs.id = orders.job_id
        WHERE orders.id = $1 AND orders.epoch = $2 AND orders.status = 'open'
        """,
        order_id,
        epoch,
    )


async def hold(conn: Connection, order_id: str, epoch: int, hold: timedelta) -> bool:
    """Keep a taken order for longer; say whether it is still this taker's."""
    return bool(
        await conn.fetchval(
            """
            UPDATE ca_orders SET held_until = now() + $3::interval
            WHERE id = $1 AND epoch = $2 AND status = 'open' RETURNING true
            """,
            order_id,
            epoch,
            hold,
        )
    )


async def save_state(
    conn: Connection, order_id: str, epoch: int, issuer_id: str, state: Mapping[str, Any], replaces: str
) -> bool:
    """Keep how far an order is; say whether it is still this taker's."""
    return bool(
        await conn.fetchval(
            """
            UPDATE ca_orders SET issuer_id = $3, state = $4, replaces = $5 WHERE id = $1 AND epoch = $2
              AND status = 'open' RETURNING true
            """,
            order_id,
            epoch,
            issuer_id,
            state,
            replaces,
        )
    )


async def postpone(conn: Connection, order_id: str, epoch: int, delay: timedelta, problem: str, failed: int) -> None:
    """Give an order back until later; ``failed`` is 1 for an attempt that failed, 0 for a wait."""
    await conn.execute(
        """
        UPDATE ca_orders SET next_at = now() + $3::interval, held_until = '-infinity', problem = $4,
          failures = failures + $5
        WHERE id = $1 AND epoch = $2 AND status = 'open'
        """,
        order_id,
        epoch,
        delay,
        problem,
        failed,
    )


async def end(conn: Connection, order_id: str, epoch: int, status: str, problem: str) -> bool:
    """End an order; say whether it was still this taker's."""
    return bool(
        await conn.fetchval(
            """
            UPDATE ca_orders SET status = $3, problem = $4, finished_at = now() WHERE id = $1 AND epoch = $2
              AND status = 'open' RETURNING true
            """,
            order_id,
            epoch,
            status,
            problem,
        )
    )


async def hurry(conn: Connection, order_id: str) -> None:
    """Let an order that waits go on at once."""
    await conn.execute("UPDATE ca_orders SET next_at = least(next_at, now()) WHERE id = $1", order_id)


# Accounts ---------------------------------------------------------------------------------------------------------


async def account(conn: Connection, issuer_id: str, directory_url: str, state: str) -> Row | None:
    """Return an issuer's account at a directory."""
    return await conn.fetchrow(
        """
        SELECT id, issuer_id, directory_url, state, sealed_key, url, contact, blocked_until, blocked_reason, created_at
        FROM issuer_accounts WHERE issuer_id = $1 AND directory_url = $2 AND state = $3
        """,
        issuer_id,
        directory_url,
        state,
    )


async def insert_account(
    conn: Connection, account_id: str, issuer_id: str, directory_url: str, state: str, sealed_key: bytes
) -> bool:
    """Store the key of an account unless there is one; say whether it was stored."""
    return bool(
        await conn.fetchval(
            """
            INSERT INTO issuer_accounts (id, issuer_id, directory_url, state, sealed_key) VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT DO NOTHING RETURNING true
            """,
            account_id,
            issuer_id,
            directory_url,
            state,
            sealed_key,
        )
    )


async def set_account(conn: Connection, account_id: str, url: str, contact: str) -> None:
    """Note where an account is at its authority, and whom that may write to; nothing when it is not there."""
    await conn.execute("UPDATE issuer_accounts SET url = $2, contact = $3 WHERE id = $1", account_id, url, contact)


async def rolled_over(conn: Connection, former_id: str, next_id: str) -> None:
    """Make the next key of an account its current one."""
    await conn.execute("UPDATE issuer_accounts SET state = 'former' WHERE id = $1", former_id)
    await conn.execute(
        """
        UPDATE issuer_accounts AS new SET state = 'current', url = old.url, contact = old.contact,
          blocked_until = old.blocked_until, blocked_reason = old.blocked_reason
        FROM issuer_accounts AS old WHERE new.id = $2 AND old.id = $1
        """,
        former_id,
        next_id,
    )


async def block(conn: Connection, issuer_id: str, delay: timedelta, reason: str) -> None:
    """Leave an issuer's account alone for a while."""
    await conn.execute(
        """
        UPDATE issuer_accounts SET blocked_until = now() + $2::interval, blocked_reason = $3
        WHERE issuer_id = $1 AND state = 'current'
        """,
        issuer_id,
        delay,
        reason,
    )


async def blocked(conn: Connection, issuer_ids: Sequence[str]) -> dict[str, datetime]:
    """Return until when some issuers are to be left alone, as far as they are."""
    rows = await conn.fetch(
        """
        SELECT issuer_id, max(blocked_until) AS until FROM issuer_accounts
        WHERE issuer_id = ANY($1) AND state = 'current' AND blocked_until > now() GROUP BY issuer_id
        """,
        issuer_ids,
    )
    return {row["issuer_id"]: row["until"] for row in rows}


async def accounts(conn: Connection, issuer_id: str) -> list[Row]:
    """Return the accounts of an issuer, the current one first."""
    return await conn.fetch(
        """
        SELECT id, issuer_id, directory_url, state, url, contact, blocked_until, blocked_reason, created_at
        FROM issuer_accounts WHERE issuer_id = $1 ORDER BY state = 'current' DESC, created_at DESC
        """,
        issuer_id,
    )


async def issuers_to_roll(conn: Connection) -> list[str]:
    """Return the issuers whose account has a next key."""
    rows = await conn.fetch("SELECT issuer_id FROM issuer_accounts WHERE state = 'next' ORDER BY created_at")
    return [row["issuer_id"] for row in rows]


# Revocations and renewal information ------------------------------------------------------------------------------


async def insert_revocations(conn: Connection, version_ids: Sequence[str], reason: str) -> int:
    """Note which of these versions an authority elsewhere has to be told of; return how many."""
    rows = await conn.fetch(
        """
        INSERT INTO ca_revocations (version_id, issuer_id, reason)
        SELECT versions.id, issuer_id, $2 FROM certificate_versions AS versions
        JOIN issuers ON issuers.id = issuer_id WHERE versions.id = ANY($1) AND issuers.type = 'acme'
        ON CONFLICT DO NOTHING RETURNING version_id
        """,
        version_ids,
        reason,
    )
    return len(rows)


async def claim_revocations(conn: Connection, limit: int, hold: timedelta) -> list[Row]:
    """Take revocations that an authority was not told of; each is its taker's for a while."""
    return await conn.fetch(
        """
        WITH due AS (
          SELECT version_id FROM ca_revocations WHERE done_at IS NULL AND next_at <= now() ORDER BY next_at LIMIT $1
          FOR UPDATE SKIP LOCKED
        )
        UPDATE ca_revocations AS told SET next_at = now() + $2::interval
        FROM due JOIN certificate_versions AS versions ON versions.id = due.version_id
        WHERE told.version_id = due.version_id
        RETURNING told.version_id, told.issuer_id, reason, failures, der, certificate_id
        """,
        limit,
        hold,
    )


async def end_revocation(conn: Connection, version_id: str) -> None:
    """Note that the authority knows."""
    await conn.execute("UPDATE ca_revocations SET done_at = now(), problem = '' WHERE version_id = $1", version_id)


async def postpone_revocation(conn: Connection, version_id: str, delay: timedelta, problem: str) -> None:
    """Try a revocation again later."""
    await conn.execute(
        """
        UPDATE ca_revocations SET next_at = now() + $2::interval, failures = failures + 1, problem = $3
        WHERE version_id = $1
        """,
        version_id,
        delay,
        problem,
    )


async def seconds_to_revocation(conn: Connection) -> float | None:
    """Return the seconds until the next revocation is to be told, None when there is none."""
    statement = "SELECT extract(epoch FROM min(next_at) - now())::float8 FROM ca_revocations WHERE done_at IS NULL"
    wait: float | None = await conn.fetchval(statement)
    return None if wait is None else max(0.0, wait)


async def watch_renewal(conn: Connection, certificate_id: str, agent_id: str, version_id: str, issuer_id: str) -> None:
    """Have an authority asked when a holder's new version should be renewed; the last version's window is over."""
    await conn.execute(
        """
        INSERT INTO ca_renewals (certificate_id, agent_id, version_id, issuer_id) VALUES ($1, $2, $3, $4)
        ON CONFLICT (certificate_id, agent_id) DO UPDATE SET version_id = $3, issuer_id = $4, window_start = NULL,
          window_end = NULL, renew_at = NULL, explanation_url = '', problem = '', check_at = now()
        """,
        certificate_id,
        agent_id,
        version_id,
        issuer_id,
    )


async def forget_outdated(conn: Connection) -> None:
    """Forget due windows of versions that their holders have replaced, for instance by those of an issuer here."""
    await conn.execute(
        """
        DELETE FROM ca_renewals AS watched WHERE check_at <= now() AND NOT EXISTS (
          SELECT FROM holders WHERE holders.certificate_id = watched.certificate_id
            AND holders.agent_id = watched.agent_id AND holders.version_id = watched.version_id)
        """
    )


async def renewals_to_check(conn: Connection, limit: int, hold: timedelta) -> list[Row]:
    """Take windows that are to be asked for again; each is its taker's for a while."""
    return await conn.fetch(
        """
        WITH due AS (
          SELECT certificate_id, agent_id FROM ca_renewals WHERE check_at <= now() ORDER BY check_at LIMIT $1
          FOR UPDATE SKIP LOCKED
        )
        UPDATE ca_renewals AS watched SET check_at = now() + $2::interval
        FROM due JOIN holders USING (certificate_id, agent_id)
        JOIN certificate_versions AS versions ON versions.id = holders.version_id
        WHERE watched.certificate_id = due.certificate_id AND watched.agent_id = due.agent_id
          AND holders.version_id = watched.version_id
        RETURNING watched.certificate_id, watched.agent_id, watched.version_id, watched.issuer_id, window_start,
          window_end, watched.renew_at, der
        """,
        limit,
        hold,
    )


async def set_window(conn: Connection, watched: Row, window: dict[str, Any], delay: timedelta) -> bool:
    """Keep a window with the moment that was chosen of it; say whether it is still about the holder's version."""
    return bool(
        await conn.fetchval(
            """
            UPDATE ca_renewals SET window_start = $4, window_end = $5, renew_at = $6, explanation_url = $7,
              problem = $8, check_at = now() + $9::interval
            WHERE certificate_id = $1 AND agent_id = $2 AND version_id = $3 RETURNING true
            """,
            watched["certificate_id"],
            watched["agent_id"],
            watched["version_id"],
            window.get("start"),
            window.get("end"),
            window.get("renew_at"),
            window.get("explanation_url", ""),
            window.get("problem", ""),
            delay,
        )
    )


async def seconds_to_check(conn: Connection) -> float | None:
    """Return the seconds until the next window is to be asked for, None when there is none."""
    statement = "SELECT extract(epoch FROM min(check_at) - now())::float8 FROM ca_renewals"
    wait: float | None = await conn.fetchval(statement)
    return None if wait is None else max(0.0, wait)
