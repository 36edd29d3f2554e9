"""SQL of holders and bindings."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row


async def bind(conn: Connection, certificate_id: str, target_ids: Sequence[str], agent_ids: Sequence[str]) -> None:
    """Say that these targets want the certificate, and that these agents hold a key for it."""
    await conn.execute(
        "INSERT INTO holders (certificate_id, agent_id) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING",
        certificate_id,
        agent_ids,
    )
    await conn.execute(
        """
        INSERT INTO bindings (certificate_id, target_id) SELECT $1, unnest($2::text[])
        ON CONFLICT (certificate_id, target_id) DO NOTHING
        """,
        certificate_id,
        target_ids,
    )


async def holder_agents(conn: Connection, certificate_id: str) -> list[str]:
    """Return the agents that hold a key for the certificate, in a fixed order."""
    rows = await conn.fetch("SELECT agent_id FROM holders WHERE certificate_id = $1 ORDER BY agent_id", certificate_id)
    return [row["agent_id"] for row in rows]


async def set_version(
    conn: Connection, certificate_id: str, agent_id: str, version_id: str, renew_at: datetime | None
) -> list[Row]:
    """Make a version the holder's newest and what its targets want; return those bindings."""
    await conn.execute(
        """
        UPDATE holders SET version_id = $3, renew_at = $4, failures = 0, reason = ''
        WHERE certificate_id = $1 AND agent_id = $2
        """,
        certificate_id,
        agent_id,
        version_id,
        renew_at,
    )
    return await conn.fetch(
        """
        UPDATE bindings SET desired_version_id = $3, failures = 0,
          reason = CASE WHEN targets.enabled THEN 'deployment is queued' ELSE 'the target is switched off' END
        FROM targets WHERE targets.id = bindings.target_id AND certificate_id = $1 AND targets.agent_id = $2
        RETURNING certificate_id, target_id, agent_id, desired_version_id, enabled
        """,
        certificate_id,
        agent_id,
        version_id,
    )


async def set_served(conn: Connection, certificate_id: str, target_id: str, version_id: str) -> None:
    """Note that a target was seen to serve a version."""
    await conn.execute(
        """
        UPDATE bindings SET served_version_id = $3, served_at = now(), failures = 0,
          reason = CASE WHEN desired_version_id = $3 THEN '' ELSE reason END
        WHERE certificate_id = $1 AND target_id = $2
        """,
        certificate_id,
        target_id,
        version_id,
    )


async def binding_failed(conn: Connection, certificate_id: str, target_id: str, reason: str) -> Row | None:
    """Count a failed deployment; return the binding with its certificate's lifetime and its policy's retries."""
    return await conn.fetchrow(
        """
        UPDATE bindings SET failures = failures + 1, reason = $3
        FROM targets, certificates JOIN renewal_policies ON renewal_policies.id = renewal_policy_id
        WHERE targets.id = bindings.target_id AND certificates.id = bindings.certificate_id
          AND certificate_id = $1 AND target_id = $2
        RETURNING certificate_id, target_id, targets.agent_id, desired_version_id, targets.enabled, failures,
          lifetime_s, max_retries, retry_interval_s
        """,
        certificate_id,
        target_id,
        reason,
    )


async def holder_failed(conn: Connection, certificate_id: str, agent_id: str, reason: str) -> Row | None:
    """Count a failed issuance; return the holder with the certificate's lifetime and its policy's retries."""
    return await conn.fetchrow(
        """
        UPDATE holders SET failures = failures + 1, reason = $3
        FROM certificates JOIN renewal_policies ON renewal_policies.id = renewal_policy_id
        WHERE certificates.id = holders.certificate_id AND certificate_id = $1 AND agent_id = $2
        RETURNING failures, lifetime_s, max_retries, retry_interval_s
        """,
        certificate_id,
        agent_id,
        reason,
    )


async def due_holders(conn: Connection, now: datetime, limit: int) -> list[Row]:
    """Return holders whose certificate is due and that no live issuance job serves, locked."""
    return await conn.fetch(
        """
        SELECT certificate_id, agent_id FROM holders
        WHERE renew_at <= $1 AND NOT EXISTS (
          SELECT FROM jobs WHERE jobs.certificate_id = holders.certificate_id AND jobs.agent_id = holders.agent_id
            AND kind = 'issuance' AND state IN ('AwaitingCSR', 'AwaitingApproval', 'AwaitingCA'))
        ORDER BY renew_at LIMIT $2 FOR UPDATE SKIP LOCKED
        """,
        now,
        limit,
    )


async def next_due(conn: Connection) -> datetime | None:
    """Return the earliest moment at which a holder without a live issuance job falls due."""
    moment: datetime | None = await conn.fetchval(
        """
        SELECT renew_at FROM holders
        WHERE renew_at IS NOT NULL AND NOT EXISTS (
          SELECT FROM jobs WHERE jobs.certificate_id = holders.certificate_id AND jobs.agent_id = holders.agent_id
            AND kind = 'issuance' AND state IN ('AwaitingCSR', 'AwaitingApproval', 'AwaitingCA'))
        ORDER BY renew_at LIMIT 1
        """
    )
    return moment


async def unissued_holders(conn: Connection, limit: int) -> list[Row]:
    """Return holders that have nothing yet and that no live issuance job serves, locked."""
    return await conn.fetch(
        """
        SELECT certificate_id, agent_id FROM holders
        WHERE version_id IS NULL AND NOT EXISTS (
          SELECT FROM jobs WHERE jobs.certificate_id = holders.certificate_id AND jobs.agent_id = holders.agent_id
            AND kind = 'issuance' AND state IN ('AwaitingCSR', 'AwaitingApproval', 'AwaitingCA'))
        LIMIT $1 FOR UPDATE SKIP LOCKED
        """,
        limit,
    )


async def unserved_bindings(conn: Connection, limit: int) -> list[Row]:
    """Return bindings that want another version than they serve and that no live job serves, locked."""
    return await conn.fetch(
        """
        SELECT bindings.certificate_id, bindings.target_id, targets.agent_id, desired_version_id
        FROM bindings JOIN targets ON targets.id = bindings.target_id
        WHERE desired_version_id IS NOT NULL AND desired_version_id IS DISTINCT FROM served_version_id
          AND targets.enabled AND NOT EXISTS (
          SELECT FROM jobs WHERE jobs.certificate_id = bindings.certificate_id AND jobs.target_id = bindings.target_id
            AND kind = 'deployment' AND state IN ('Pending', 'Running'))
        LIMIT $1 FOR UPDATE OF bindings SKIP LOCKED
        """,
        limit,
    )


async def bindings_of(conn: Connection, certificate_ids: Sequence[str]) -> list[Row]:
    """Return the bindings of some certificates."""
    return await conn.fetch(
        """
        SELECT certificate_id, target_id, targets.name AS target_name, targets.agent_id, desired_version_id,
          served_version_id, served_at, failures, reason, failures > max_retries AS failing
        FROM bindings JOIN targets ON targets.id = bindings.target_id
        JOIN certificates ON certificates.id = certificate_id
        JOIN renewal_policies ON renewal_policies.id = renewal_policy_id
        WHERE certificate_id = ANY($1) ORDER BY certificate_id, target_id
        """,
        certificate_ids,
    )


async def holders_of(conn: Connection, certificate_ids: Sequence[str]) -> list[Row]:
    """Return the holders of some certificates with what their newest version says."""
    return await conn.fetch(
        """
        SELECT holders.certificate_id, holders.agent_id, holders.version_id, renew_at, failures, reason, generation,
          serial, fingerprint, not_before, not_after, revoked_at, failures > max_retries AS failing,
          greatest(not_before, versions.created_at) AS issued_at,
          alert_thresholds_days, alert_severity_map, alert_channels
        FROM holders LEFT JOIN certificate_versions AS versions ON versions.id = holders.version_id
        JOIN certificates ON certificates.id = holders.certificate_id
        JOIN renewal_policies ON renewal_policies.id = renewal_policy_id
        WHERE holders.certificate_id = ANY($1) ORDER BY holders.certificate_id, holders.agent_id
        """,
        certificate_ids,
    )


async def fingerprint_of(conn: Connection, version_id: str) -> str:
    """Return the fingerprint that a target serving this version shows."""
    return str(await conn.fetchval("SELECT fingerprint FROM certificate_versions WHERE id = $1", version_id))


async def binding_of(conn: Connection, target_id: str, agent_id: str) -> Row | None:
    """Return a target's binding, and how many other targets of an agent should serve the same certificate."""
    return await conn.fetchrow(
        """
        SELECT certificate_id, target_id, desired_version_id, targets.agent_id, targets.enabled,
          desired_version_id IS NOT DISTINCT FROM served_version_id AS served,
          (SELECT count(*) FROM bindings AS others JOIN targets AS beside ON beside.id = others.target_id
           WHERE others.certificate_id = bindings.certificate_id AND beside.agent_id = $2
             AND others.target_id <> $1) AS beside
        FROM bindings JOIN targets ON targets.id = bindings.target_id WHERE target_id = $1
        """,
        target_id,
        agent_id,
    )


async def certificates_of(conn: Connection, target_ids: Sequence[str]) -> dict[str, str]:
    """Return target → certificate for those of some targets that should serve one."""
    rows = await conn.fetch("SELECT target_id, certificate_id FROM bindings WHERE target_id = ANY($1)", target_ids)
    return {row["target_id"]: row["certificate_id"] for row in rows}


async def end_binding(conn: Connection, target_id: str) -> None:
    """Forget what a target should serve."""
    await conn.execute("DELETE FROM bindings WHERE target_id = $1", target_id)


async def forget_served(conn: Connection, target_id: str) -> None:
    """Forget what a target was seen to serve."""
    await conn.execute(
        """
        UPDATE bindings SET served_version_id = NULL, served_at = NULL, failures = 0, reason = ''
        WHERE target_id = $1
        """,
        target_id,
    )


async def set_desired(conn: Connection, target_id: str, version_id: str | None) -> None:
    """Say what a target should serve: its new agent's version, or nothing until that has one."""
    await conn.execute(
        """
        UPDATE bindings SET desired_version_id = $2, served_version_id = NULL, served_at = NULL, failures = 0,
          reason = 'waits for the key of its new agent'
        WHERE target_id = $1
        """,
        target_id,
        version_id,
    )


async def set_reason(conn: Connection, target_id: str, reason: str) -> None:
    """Say why a target does not serve what it should, or nothing when it does."""
    await conn.execute(
        """
        UPDATE bindings SET failures = 0,
          reason = CASE WHEN desired_version_id IS DISTINCT FROM served_version_id THEN $2 ELSE '' END
        WHERE target_id = $1
        """,
        target_id,
        reason,
    )


async def end_holder(conn: Connection, certificate_id: str, agent_id: str) -> None:
    """Let an agent hold a certificate no longer."""
    await conn.execute("DELETE FROM holders WHERE certificate_id = $1 AND agent_id = $2", certificate_id, agent_id)


async def holder_version(conn: Connection, certificate_id: str, agent_id: str) -> str | None:
    """Make an agent a holder unless it is one; return its newest version."""
    version_id: str | None = await conn.fetchval(
        """
        INSERT INTO holders (certificate_id, agent_id) VALUES ($1, $2)
        ON CONFLICT (certificate_id, agent_id) DO UPDATE SET agent_id = excluded.agent_id RETURNING version_id
        """,
        certificate_id,
        agent_id,
    )
    return version_id


async def end_bindings_of(conn: Connection, agent_id: str) -> list[str]:
    """Forget what the targets of an agent should serve; return those targets."""
    rows = await conn.fetch(
        """
        DELETE FROM bindings USING targets WHERE targets.id = bindings.target_id AND targets.agent_id = $1
        RETURNING target_id
        """,
        agent_id,
    )
    return sorted(row["target_id"] for row in rows)


async def end_holders_of(conn: Connection, agent_id: str) -> list[str]:
    """Let an agent hold nothing any more; return the certificates."""
    rows = await conn.fetch("DELETE FROM holders WHERE agent_id = $1 RETURNING certificate_id", agent_id)
    return sorted(row["certificate_id"] for row in rows)


async def without_holder(conn: Connection, certificate_ids: Sequence[str]) -> list[str]:
    """Return those of some certificates that nobody holds."""
    rows = await conn.fetch(
        """
        SELECT id FROM unnest($1::text[]) AS asked (id)
        WHERE NOT EXISTS (SELECT FROM holders WHERE certificate_id = asked.id) ORDER BY id
        """,
        certificate_ids,
    )
    return [row["id"] for row in rows]
