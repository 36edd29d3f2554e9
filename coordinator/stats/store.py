"""SQL of the numbers. They are kept with every change (see the migration ``views``), so none of this counts a fleet.

What the clock decides within the present day is counted in the certificates themselves, by their indexes.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import EVERYTHING, Scope, within

MOST = 10_000
"""What is counted row by row is exact up to here."""
_LIVE = "('AwaitingCSR', 'AwaitingApproval', 'AwaitingCA', 'Pending', 'Running')"


def _tallies(about: str, scope: Scope, values: list[object], extra: str = "true") -> str:
    """Return all rows of a tally within a scope, as SQL. Without one the sums over all teams are read."""
    seen = within(scope, values)
    # All of them at once are one row of many, and the sums by team lie behind the same index.
    sums = "team_id = '*' AND environment = '*'" if scope == EVERYTHING else f"team_id <> '*' AND {seen}"
    columns = f"day, due_on, what, service, number FROM {{}} WHERE about = '{about}' AND {extra} AND {{}}"
    return f"(SELECT {columns.format('tallies', sums)} UNION ALL SELECT {columns.format('tally_changes', seen)})"


async def standing(conn: Connection, scope: Scope, now: datetime) -> list[Row]:
    """Return how many certificates there are of each life and service."""
    today = datetime(now.year, now.month, now.day, tzinfo=now.tzinfo)
    values: list[object] = [now, today, today + timedelta(days=1), today.date()]
    tallies, seen = _tallies("certificate", scope, values), within(scope, values)
    certificate = "life_at(standing, expires_at, renew_at, $1) AS life, service, 1 AS number FROM certificates"
    issued = f"NOT archived AND standing = 'issued' AND {seen}"
    return await conn.fetch(
        f"""
        SELECT life, service, sum(number)::bigint AS number FROM (
          SELECT life_at(what, day::timestamptz, due_on::timestamptz, $1) AS life, service, number
          FROM {tallies} AS tallied
          WHERE what <> 'issued' OR day < $4 OR (day > $4 AND due_on <> $4)
          UNION ALL SELECT {certificate} WHERE {issued} AND expires_at >= $2 AND expires_at < $3
          UNION ALL SELECT {certificate} WHERE {issued} AND renew_at >= $2 AND renew_at < $3 AND expires_at >= $3
        ) AS counted GROUP BY life, service HAVING sum(number) <> 0
        """,
        *values,
    )


async def ending(conn: Connection, scope: Scope, first: date, last: date) -> list[Row]:
    """Return how many issued certificates end on each day of these, by service and the day on which they fall due."""
    values: list[object] = [first, last]
    tallies = _tallies("certificate", scope, values, "what = 'issued' AND day >= $1 AND day <= $2")
    return await conn.fetch(
        f"""
        SELECT day, due_on, service, sum(number)::bigint AS number FROM {tallies} AS tallied
        GROUP BY day, due_on, service HAVING sum(number) <> 0 ORDER BY day
        """,
        *values,
    )


async def happened(conn: Connection, about: str, scope: Scope, first: date, last: date) -> list[Row]:
    """Return how much of what happened on each day of these."""
    values: list[object] = [first, last]
    tallies = _tallies(about, scope, values, "day >= $1 AND day <= $2")
    return await conn.fetch(
        f"SELECT day, what, sum(number)::bigint AS number FROM {tallies} AS tallied GROUP BY day, what ORDER BY day",
        *values,
    )


async def ended_jobs(conn: Connection, scope: Scope) -> list[Row]:
    """Return how many jobs ended in each state, ever."""
    values: list[object] = []
    tallies = _tallies("job", scope, values)
    return await conn.fetch(
        f"SELECT split_part(what, ' ', 2) AS state, sum(number)::bigint AS number FROM {tallies} AS tallied GROUP BY 1",
        *values,
    )


async def live_jobs(conn: Connection, scope: Scope) -> list[Row]:
    """Return how many jobs are in hand in each state, exact up to a limit, and since when the oldest could be."""
    values: list[object] = []
    own = f"AND certificate_id IN (SELECT id FROM certificates WHERE {within(scope, values)})"
    seen = "" if scope == EVERYTHING else own
    return await conn.fetch(
        f"""
        SELECT state, number, extract(epoch FROM now() - oldest)::float8 AS age_s
        FROM unnest(ARRAY['AwaitingCSR', 'AwaitingApproval', 'AwaitingCA', 'Pending', 'Running']) AS states (state)
        CROSS JOIN LATERAL (
          SELECT count(*) AS number, min(not_before) FILTER (WHERE not_before <= now()) AS oldest FROM (
            SELECT not_before FROM jobs WHERE jobs.state = states.state AND jobs.state IN {_LIVE} {seen}
            ORDER BY not_before LIMIT {MOST + 1}
          ) AS live
        ) AS counted
        """,
        *values,
    )


async def failing(conn: Connection, scope: Scope) -> int:
    """Return for how many certificates retries are used up somewhere, at most one more than is exact."""
    values: list[object] = []
    seen = within(scope, values)
    return int(
        await conn.fetchval(
            f"""
            SELECT count(*) FROM (
              SELECT certificates.id FROM (
                SELECT certificate_id, failures FROM holders WHERE failures > 0
                UNION ALL SELECT certificate_id, failures FROM bindings WHERE failures > 0
              ) AS failed
              JOIN certificates ON certificates.id = certificate_id
              JOIN renewal_policies ON renewal_policies.id = renewal_policy_id
              WHERE failures > max_retries AND NOT archived AND {seen}
              GROUP BY certificates.id LIMIT {MOST + 1}
            ) AS found
            """,
            *values,
        )
    )


async def agents(conn: Connection) -> Row:
    """Return how many agents there are, and how many of them were seen lately."""
    row = await conn.fetchrow(
        """
        SELECT count(*) AS total, count(*) FILTER (WHERE last_seen_at > now() - interval '2 minutes') AS online
        FROM agents WHERE retired_at IS NULL
        """
    )
    assert row is not None  # noqa: S101 - an aggregate has one row
    return row


async def today(conn: Connection) -> date:
    """Return the day of UTC by the database's clock."""
    day: date = await conn.fetchval("SELECT utc_day(now())")
    return day


async def fold(conn: Connection, most: int) -> int:
    """Move changes into the sums; return how many."""
    return int(await conn.fetchval("SELECT fold_tallies($1)", most))
