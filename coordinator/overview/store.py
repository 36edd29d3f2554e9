"""SQL of what pages show. Each statement follows an index and takes no more rows than are shown.

How a certificate stands is never computed here: ids are found by what its row says, and its room says the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Listing, Scope, Sort, within

MOST_TARGETS = 20
"""Targets of one agent on the map."""
LOOKED_AT, MOST_AT_RISK = 200, 100
"""Certificates of each kind of trouble that are looked at, and of all kinds that are shown."""
AGENTS = Listing(
    """id, name, os, last_seen_at, enrolled_at,
      last_seen_at > now() - interval '2 minutes' AS online,
      (SELECT count(*) FROM targets WHERE agent_id = agents.id AND archived_at IS NULL) AS targets_total""",
    "agents",
    "ag",
    filters={"online": "(last_seen_at > now() - interval '2 minutes') = {}"},
    sorts={"name": Sort("name"), "enrolled_at": Sort("enrolled_at", "timestamptz")},
    always="retired_at IS NULL",
)


async def next_due(conn: Connection, scope: Scope, limit: int) -> list[str]:
    """Return the certificates that fall due first, those that are due already before all."""
    values: list[object] = []
    seen = within(scope, values, "certificates")
    rows = await conn.fetch(
        f"""
        SELECT id FROM certificates WHERE NOT archived AND standing = 'issued' AND renew_at < 'infinity' AND {seen}
        ORDER BY archived, renew_at, id LIMIT {limit}
        """,
        *values,
    )
    return [row["id"] for row in rows]


async def newest_failures(conn: Connection, scope: Scope, limit: int) -> list[Row]:
    """Return the newest jobs that failed, of the newest thousand those within the scope."""
    values: list[object] = []
    seen = within(scope, values, "certificates")
    return await conn.fetch(
        f"""
        SELECT jobs.id AS job_id, kind, run_id, certificate_id, certificates.name AS certificate_name, jobs.agent_id,
          target_id, attempt, failure ->> 'step' AS step, failure ->> 'cause' AS cause, finished_at AS at
        FROM (SELECT * FROM jobs WHERE state = 'Failed' ORDER BY created_at DESC, id DESC LIMIT 1000) AS jobs
        JOIN certificates ON certificates.id = certificate_id
        WHERE {seen} ORDER BY jobs.created_at DESC, jobs.id DESC LIMIT {limit}
        """,
        *values,
    )


async def pending_approvals(conn: Connection, scope: Scope) -> int:
    """Return how many approvals are waited for, up to 10,000."""
    values: list[object] = []
    seen = within(scope, values, "certificates")
    return int(
        await conn.fetchval(
            f"""
            SELECT count(*) FROM (
              SELECT FROM approvals JOIN certificates ON certificates.id = certificate_id
              WHERE state = 'pending' AND {seen} LIMIT 10000
            ) AS pending
            """,
            *values,
        )
    )


async def troubled(conn: Connection, scope: Scope, now: datetime, until: datetime) -> list[str]:
    """Return certificates at risk, what ends first before all: the worst of each kind, by the index of each."""
    values: list[object] = [now, until]
    seen = within(scope, values, "certificates")
    issued = f"SELECT id FROM certificates WHERE NOT archived AND standing = 'issued' AND {seen}"
    unserved = " UNION ALL ".join(
        f"(SELECT id FROM certificates WHERE service = '{service}' AND NOT archived AND {seen} "
        f"ORDER BY created_at DESC, id DESC LIMIT {LOOKED_AT})"
        for service in ("not served", "partly", "drifted", "outdated")
    )
    rows = await conn.fetch(
        f"""
        SELECT id FROM certificates WHERE (expires_at < $2 OR expires_at = 'infinity') AND id IN (
          ({issued} AND expires_at <= $1 ORDER BY archived, expires_at DESC, id DESC LIMIT {LOOKED_AT})
          UNION ALL
          ({issued} AND renew_at <= $1 AND expires_at > $1 ORDER BY archived, renew_at, id LIMIT {LOOKED_AT})
          UNION ALL
          ({issued} AND renew_at = 'infinity' AND expires_at > $1 AND expires_at < $2
           ORDER BY archived, renew_at, id LIMIT {LOOKED_AT})
          UNION ALL {unserved}
          UNION ALL
          (SELECT certificate_id FROM holders JOIN certificates ON certificates.id = certificate_id
           JOIN renewal_policies ON renewal_policies.id = renewal_policy_id
           WHERE failures > 0 AND failures > max_retries AND NOT archived AND {seen} LIMIT {LOOKED_AT})
        ) ORDER BY expires_at, id LIMIT {MOST_AT_RISK}
        """,
        *values,
    )
    return [row["id"] for row in rows]


async def away(conn: Connection, agent_ids: Sequence[str]) -> set[str]:
    """Return which of these agents were not seen lately."""
    rows = await conn.fetch(
        "SELECT id FROM agents WHERE id = ANY($1) AND last_seen_at <= now() - interval '2 minutes'", agent_ids
    )
    return {row["id"] for row in rows}


async def targets_of(conn: Connection, agent_ids: Sequence[str], scope: Scope, now: datetime) -> list[Row]:
    """Return the first targets of some agents by name, with the certificate that may be seen there."""
    values: list[object] = [list(agent_ids), now]
    seen = within(scope, values, "certificates")
    return await conn.fetch(
        f"""
        SELECT owned.*, certificates.id AS certificate_id, certificates.name AS certificate_name,
          life_at(standing, certificates.expires_at, renew_at, $2) AS life,
          nullif(certificates.expires_at, 'infinity') AS expires_at,
          served_version_id IS NOT NULL AND served_version_id = desired_version_id AS served, bindings.reason
        FROM unnest($1::text[]) AS wanted (agent_id)
        CROSS JOIN LATERAL (
          SELECT id, name, type, enabled, agent_id FROM targets
          WHERE targets.agent_id = wanted.agent_id AND archived_at IS NULL ORDER BY name LIMIT {MOST_TARGETS}
        ) AS owned
        LEFT JOIN (bindings JOIN certificates ON certificates.id = bindings.certificate_id AND {seen})
          ON bindings.target_id = owned.id
        ORDER BY owned.agent_id, owned.name
        """,
        *values,
    )


_LAST = chr(0x10FFFF)
_IN_SERVICE = {"targets": "archived_at IS NULL", "agents": "retired_at IS NULL", "issuers": "true"}


async def named(conn: Connection, table: str, extra: str, scope: Scope, text: str, limit: int) -> list[Row]:
    """Return rows of a table whose id a text is, or whose name begins with it, one more than the limit if there is.

    ``extra`` is what more they are told by. People are found within a scope's teams, other things belong to none.
    """
    values: list[object] = [text, _LAST]
    teams = within(Scope(scope.teams), values) if table == "owners" else _IN_SERVICE[table]
    rows = f"SELECT id, name, {extra} AS detail FROM {table} WHERE {teams}"
    # Compared byte by byte, as in the index, whatever the database's collation says of the order of letters.
    return await conn.fetch(
        f"""
        SELECT id, name, detail FROM (
          (SELECT *, 0 AS place, '' AS key FROM ({rows} AND id = $1) AS exact)
          UNION ALL
          (SELECT *, 1, lower(name) FROM (
            {rows} AND lower(name) ~>=~ lower($1) AND lower(name) ~<~ (lower($1) || $2) AND id <> $1
            ORDER BY lower(name) USING ~<~ LIMIT {limit + 1}) AS beginning)
        ) AS found ORDER BY place, key, id LIMIT {limit + 1}
        """,
        *values,
    )


async def certificate_of(conn: Connection, scope: Scope, text: str) -> Row | None:
    """Return the certificate with this id, or one of whose versions has this fingerprint."""
    values: list[object] = [text]
    seen = within(scope, values, "certificates")
    return await conn.fetchrow(
        f"""
        SELECT id, name FROM certificates
        WHERE id = coalesce((SELECT certificate_id FROM certificate_versions WHERE fingerprint = $1), $1) AND {seen}
        """,
        *values,
    )
