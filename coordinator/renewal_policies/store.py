"""SQL of renewal policies and of the renewal times that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import CREATED, Listing, Sort
from coordinator.database.table import Table

TABLE = Table(
    "renewal_policies",
    (
        "name",
        "description",
        "auto_renew",
        "days_before",
        "max_retries",
        "retry_interval_s",
        "alert_thresholds_days",
        "alert_channels",
        "alert_severity_map",
        "agent_group_id",
        "on_drift",
    ),
)
LISTING = Listing(
    TABLE.reads,
    "renewal_policies",
    "rp",
    filters={
        "name": "name = {}",
        "auto_renew": "auto_renew = {}",
        "agent_group_id": "agent_group_id = {}",
    },
    sorts={"created_at": CREATED, "name": Sort("name")},
)
_IN_SCOPE = """(agent_group_id IS NULL OR EXISTS (
  SELECT FROM group_agents WHERE group_id = agent_group_id AND group_agents.agent_id = {})) AS in_scope"""


async def rule_for(conn: Connection, policy_id: str, agent_id: str) -> Row | None:
    """Return when a policy renews what an agent holds.

    The policy stays as it is until the transaction's end, so that who changes it finds all that was issued before.
    """
    return await conn.fetchrow(
        f"""
        SELECT auto_renew, days_before, {_IN_SCOPE.format("$2")} FROM renewal_policies WHERE id = $1
        FOR SHARE OF renewal_policies
        """,
        policy_id,
        agent_id,
    )


async def hold_policy_of(conn: Connection, certificate_id: str) -> None:
    """Keep a certificate's policy as it is until the transaction's end, as ``rule_for`` does."""
    await conn.execute(
        """
        SELECT FROM renewal_policies WHERE id = (SELECT renewal_policy_id FROM certificates WHERE id = $1) FOR SHARE
        """,
        certificate_id,
    )


async def lock_certificates(conn: Connection, certificate_ids: Sequence[str]) -> None:
    """Lock certificates before their holders, as whoever changes one does."""
    await conn.execute("SELECT FROM certificates WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE", certificate_ids)


async def mark_policy(conn: Connection, policy_id: str) -> None:
    """Say that renewal times under a policy have to be computed anew, from the beginning."""
    await conn.execute(
        """
        INSERT INTO renewal_replans (scope, id) VALUES ('policy', $1)
        ON CONFLICT (scope, id) DO UPDATE SET after_id = ''
        """,
        policy_id,
    )


async def mark_group(conn: Connection, group_id: str) -> int:
    """Say so of the policies that are about a group; return how many there are."""
    return await conn.execute(
        """
        INSERT INTO renewal_replans (scope, id) SELECT 'policy', id FROM renewal_policies WHERE agent_group_id = $1
        ORDER BY id ON CONFLICT (scope, id) DO UPDATE SET after_id = ''
        """,
        group_id,
    )


async def mark_agent(conn: Connection, agent_id: str) -> int:
    """Say so of what an agent holds, if any policy is about a group; return 0 when none is."""
    return await conn.execute(
        """
        INSERT INTO renewal_replans (scope, id)
        SELECT 'agent', $1 WHERE EXISTS (SELECT FROM renewal_policies WHERE agent_group_id IS NOT NULL)
        ON CONFLICT (scope, id) DO UPDATE SET after_id = ''
        """,
        agent_id,
    )


async def next_replan(conn: Connection) -> Row | None:
    """Return something to compute anew, locked, if there is anything that nobody else works on."""
    return await conn.fetchrow(
        "SELECT scope, id, after_id FROM renewal_replans ORDER BY scope, id LIMIT 1 FOR UPDATE SKIP LOCKED"
    )


async def certificates_of(conn: Connection, replan: Row, limit: int) -> list[str]:
    """Return the next certificates that a replan is about."""
    rows = await conn.fetch(
        """
        SELECT id FROM certificates WHERE renewal_policy_id = $1 AND id > $2 ORDER BY id LIMIT $3
        """
        if replan["scope"] == "policy"
        else """
        SELECT certificate_id AS id FROM holders WHERE agent_id = $1 AND certificate_id > $2 ORDER BY 1 LIMIT $3
        """,
        replan["id"],
        replan["after_id"],
        limit,
    )
    return [row["id"] for row in rows]


async def holders_to_plan(conn: Connection, certificate_ids: Sequence[str]) -> list[Row]:
    """Return who holds some certificates, with the newest version's times and what the policy says."""
    return await conn.fetch(
        f"""
        SELECT certificate_id, held.agent_id, version_id, not_before, not_after, issued_at, auto_renew, days_before,
          {_IN_SCOPE.format("held.agent_id")}
        FROM (
          SELECT holders.certificate_id, holders.agent_id, version_id, not_before, not_after,
            versions.created_at AS issued_at
          FROM holders JOIN certificate_versions AS versions ON versions.id = holders.version_id
          WHERE holders.certificate_id = ANY($1) AND revoked_at IS NULL
        ) AS held
        JOIN certificates ON certificates.id = certificate_id AND archived_at IS NULL
        JOIN renewal_policies ON renewal_policies.id = renewal_policy_id
        ORDER BY certificate_id, held.agent_id
        """,
        certificate_ids,
    )


async def set_renewal_times(conn: Connection, times: Sequence[tuple[Row, datetime | None]]) -> None:
    """Store when holders are due, unless they have got a newer version meanwhile."""
    await conn.execute(
        """
        WITH planned AS (
          SELECT certificate_id, agent_id, version_id,
            -- Where it is renewed at all, the moment that its authority wants counts more.
            CASE WHEN planned.renew_at IS NOT NULL THEN coalesce(wanted.renew_at, planned.renew_at) END AS renew_at
          FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[])
            AS planned (certificate_id, agent_id, version_id, renew_at)
          LEFT JOIN ca_renewals AS wanted USING (certificate_id, agent_id, version_id)
        )
        UPDATE holders SET renew_at = planned.renew_at FROM planned
        WHERE holders.certificate_id = planned.certificate_id AND holders.agent_id = planned.agent_id
          AND holders.version_id = planned.version_id AND holders.renew_at IS DISTINCT FROM planned.renew_at
        """,
        *([row[name] for row, _ in times] for name in ("certificate_id", "agent_id", "version_id")),
        [moment for _, moment in times],
    )


async def set_renew_at(conn: Connection, certificate_id: str, agent_id: str, version_id: str, moment: datetime) -> bool:
    """Change when a holder's version is renewed, if it is at all; say whether that is news."""
    return bool(
        await conn.fetchval(
            """
            UPDATE holders SET renew_at = $4 WHERE certificate_id = $1 AND agent_id = $2 AND version_id = $3
              AND renew_at IS NOT NULL AND renew_at <> $4 RETURNING true
            """,
            certificate_id,
            agent_id,
            version_id,
            moment,
        )
    )


async def replanned(conn: Connection, replan: Row, after_id: str | None) -> None:
    """Note how far a replan has come; None when it is done."""
    if after_id is None:
        await conn.execute("DELETE FROM renewal_replans WHERE scope = $1 AND id = $2", replan["scope"], replan["id"])
        return
    await conn.execute(
        "UPDATE renewal_replans SET after_id = $3 WHERE scope = $1 AND id = $2", replan["scope"], replan["id"], after_id
    )
