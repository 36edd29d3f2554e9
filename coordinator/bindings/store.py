"""SQL of holders and bindings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Listing, Sort

DEPLOYMENTS = Listing(
    """target_id AS id, target_id, targets.name AS target_name, type AS target_type, targets.agent_id,
      desired_version_id, desired.generation AS desired_generation, served_version_id,
      served.generation AS served_generation, served.not_after AS served_until, served_at, drift, drift_since,
      failures, reason""",
    """bindings JOIN targets ON targets.id = target_id
      LEFT JOIN certificate_versions AS desired ON desired.id = desired_version_id
      LEFT JOIN certificate_versions AS served ON served.id = served_version_id""",
    "tgt",
    filters={"certificate_id": "bindings.certificate_id = {}"},
    sorts={"target_name": Sort("targets.name")},
    id="target_id",
)


async def lock_certificate_of(conn: Connection, job_id: str) -> None:
    """Lock the certificate that a job is about; jobs that name it may still come in."""
    await conn.execute(
        "SELECT FROM certificates WHERE id = (SELECT certificate_id FROM jobs WHERE id = $1) FOR NO KEY UPDATE", job_id
    )


async def lock_certificate_of_target(conn: Connection, target_id: str) -> None:
    """Lock the certificate that a target should serve, if any."""
    await conn.execute(
        """
        SELECT FROM certificates WHERE id = (SELECT certificate_id FROM bindings WHERE target_id = $1)
        FOR NO KEY UPDATE
        """,
        target_id,
    )


async def lock_certificates_of_agent(conn: Connection, agent_id: str) -> None:
    """Lock the certificates that an agent holds or that one of its targets should serve."""
    await conn.execute(
        """
        SELECT FROM certificates WHERE id IN (
          SELECT certificate_id FROM holders WHERE agent_id = $1
          UNION SELECT certificate_id FROM bindings JOIN targets ON targets.id = target_id
          WHERE targets.agent_id = $1)
        ORDER BY id FOR NO KEY UPDATE
        """,
        agent_id,
    )


async def no_longer_asked(conn: Connection, certificate_ids: Sequence[str], agent_id: str) -> None:
    """Forget that certificates name an agent that holds them whatever their targets are."""
    await conn.execute(
        "UPDATE certificates SET agent_id = NULL WHERE id = ANY($1) AND agent_id = $2", certificate_ids, agent_id
    )


async def hold(conn: Connection, certificate_id: str, agent_ids: Sequence[str]) -> None:
    """Say that these agents hold a key for the certificate."""
    await conn.execute(
        "INSERT INTO holders (certificate_id, agent_id) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING",
        certificate_id,
        agent_ids,
    )


async def drop_holders(conn: Connection, certificate_id: str, agent_ids: Sequence[str]) -> None:
    """Say that these agents hold no key for the certificate any more."""
    await conn.execute(
        "DELETE FROM holders WHERE certificate_id = $1 AND agent_id = ANY($2)", certificate_id, agent_ids
    )


async def unbind(conn: Connection, certificate_id: str, target_ids: Sequence[str]) -> None:
    """Say that these targets do not want the certificate any more."""
    await conn.execute(
        "DELETE FROM bindings WHERE certificate_id = $1 AND target_id = ANY($2)", certificate_id, target_ids
    )


async def outdate(conn: Connection, certificate_id: str, now: datetime) -> None:
    """Have whatever is held of the certificate be due now; what failed before says nothing of what is wanted now."""
    await conn.execute(
        """
        UPDATE holders SET failures = 0, reason = '',
          renew_at = CASE WHEN version_id IS NOT NULL THEN $2::timestamptz END
        WHERE certificate_id = $1
        """,
        certificate_id,
        now,
    )


async def want_what_is_held(conn: Connection, certificate_id: str) -> list[Row]:
    """Make the agent's newest version what its targets without one want; return those bindings."""
    return await conn.fetch(
        """
        UPDATE bindings SET desired_version_id = holders.version_id, reason = 'deployment is queued'
        FROM targets, holders
        WHERE bindings.certificate_id = $1 AND targets.id = bindings.target_id AND holders.certificate_id = $1
          AND holders.agent_id = targets.agent_id AND desired_version_id IS NULL AND holders.version_id IS NOT NULL
        RETURNING bindings.certificate_id, target_id, targets.agent_id, desired_version_id
        """,
        certificate_id,
    )


async def set_renewals(conn: Connection, certificate_id: str, due: Mapping[str, datetime | None]) -> None:
    """Say when holders of the certificate are due; None is never."""
    await conn.execute(
        """
        UPDATE holders SET renew_at = wanted.due FROM unnest($2::text[], $3::timestamptz[]) AS wanted (agent_id, due)
        WHERE certificate_id = $1 AND holders.agent_id = wanted.agent_id
        """,
        certificate_id,
        list(due),
        list(due.values()),
    )


async def set_holders_reason(conn: Connection, certificate_id: str, reason: str) -> None:
    """Say of all holders of a certificate why there is no newer version."""
    await conn.execute("UPDATE holders SET reason = $2 WHERE certificate_id = $1", certificate_id, reason)


async def lock_holders(conn: Connection, certificate_ids: Sequence[str]) -> None:
    """Lock the holders of some certificates."""
    await conn.execute(
        """
        SELECT FROM holders WHERE certificate_id = ANY($1) ORDER BY certificate_id, agent_id FOR NO KEY UPDATE
        """,
        certificate_ids,
    )


async def bindings_to_send(conn: Connection, certificate_id: str) -> list[Row]:
    """Return the bindings of a certificate whose target is switched on and should serve a version."""
    return await conn.fetch(
        """
        SELECT bindings.certificate_id, target_id, targets.agent_id, desired_version_id
        FROM bindings JOIN targets ON targets.id = bindings.target_id
        WHERE certificate_id = $1 AND targets.enabled AND desired_version_id IS NOT NULL ORDER BY target_id
        """,
        certificate_id,
    )


async def bind(conn: Connection, certificate_id: str, target_ids: Sequence[str]) -> None:
    """Say that these targets want the certificate."""
    await conn.execute(
        """
        INSERT INTO bindings (certificate_id, target_id) SELECT $1, unnest($2::text[])
        ON CONFLICT (certificate_id, target_id) DO NOTHING
        """,
        certificate_id,
        target_ids,
    )


async def asked(conn: Connection, certificate_id: str, agent_ids: Sequence[str], actor: str) -> None:
    """Note who asks for new versions of some holders; what was declined before is asked for again."""
    await conn.execute(
        """
        UPDATE holders SET asked_by = array_append(array_remove(asked_by, $3), $3), declined_at = NULL,
          reason = CASE WHEN declined_at IS NULL THEN reason ELSE '' END
        WHERE certificate_id = $1 AND agent_id = ANY($2)
        """,
        certificate_id,
        agent_ids,
        actor,
    )


async def asked_by(conn: Connection, certificate_id: str, agent_id: str) -> list[str]:
    """Return who asked for a holder's next version."""
    statement = "SELECT asked_by FROM holders WHERE certificate_id = $1 AND agent_id = $2"
    return list(await conn.fetchval(statement, certificate_id, agent_id) or ())


async def explain(conn: Connection, certificate_id: str, agent_id: str, reason: str, *, declined: bool) -> None:
    """Store why a holder has no newer version, and whether it has to be asked for again."""
    await conn.execute(
        """
        UPDATE holders SET reason = $3, declined_at = CASE WHEN $4 THEN now() ELSE declined_at END
        WHERE certificate_id = $1 AND agent_id = $2
        """,
        certificate_id,
        agent_id,
        reason,
        declined,
    )


async def unissued_agents(conn: Connection, certificate_id: str) -> list[str]:
    """Return the agents that shall hold a key for the certificate and have nothing yet, in a fixed order."""
    rows = await conn.fetch(
        "SELECT agent_id FROM holders WHERE certificate_id = $1 AND version_id IS NULL ORDER BY agent_id",
        certificate_id,
    )
    return [row["agent_id"] for row in rows]


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
        UPDATE holders SET version_id = $3, renew_at = $4, failures = 0, reason = '', asked_by = '{}',
          declined_at = NULL
        WHERE certificate_id = $1 AND agent_id = $2
        """,
        certificate_id,
        agent_id,
        version_id,
        renew_at,
    )
    return await conn.fetch(
        """
        UPDATE bindings SET desired_version_id = $3, failures = 0, drift = '', drift_since = NULL,
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
        UPDATE bindings SET served_version_id = $3, served_at = now(), stored_version_id = NULL, failures = 0,
          drift = '', drift_since = NULL,
          reason = CASE WHEN desired_version_id = $3 THEN '' ELSE reason END
        WHERE certificate_id = $1 AND target_id = $2
        """,
        certificate_id,
        target_id,
        version_id,
    )


async def set_stored(conn: Connection, certificate_id: str, target_id: str, version_id: str, reason: str) -> None:
    """Note that a version was read back at a target, and why nobody knows whether it is served."""
    await conn.execute(
        """
        UPDATE bindings SET stored_version_id = $3, failures = 0, drift = '', drift_since = NULL,
          reason = CASE WHEN desired_version_id = $3 THEN $4 ELSE reason END
        WHERE certificate_id = $1 AND target_id = $2
        """,
        certificate_id,
        target_id,
        version_id,
        reason,
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
        WHERE certificates.id = holders.certificate_id AND certificate_id = $1 AND holders.agent_id = $2
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
        WHERE renew_at <= $1 AND declined_at IS NULL AND NOT EXISTS (
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
        WHERE renew_at IS NOT NULL AND declined_at IS NULL AND NOT EXISTS (
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
        WHERE version_id IS NULL AND declined_at IS NULL AND NOT EXISTS (
          SELECT FROM jobs WHERE jobs.certificate_id = holders.certificate_id AND jobs.agent_id = holders.agent_id
            AND kind = 'issuance' AND state IN ('AwaitingCSR', 'AwaitingApproval', 'AwaitingCA'))
        LIMIT $1 FOR UPDATE SKIP LOCKED
        """,
        limit,
    )


async def unserved_bindings(conn: Connection, limit: int) -> list[Row]:
    """Return bindings that want another version than they serve or hold and that no live job serves, locked.

    What has drifted is looked at again by its agent, and repaired then or left as it is.
    """
    return await conn.fetch(
        """
        SELECT bindings.certificate_id, bindings.target_id, targets.agent_id, desired_version_id
        FROM bindings JOIN targets ON targets.id = bindings.target_id
        WHERE desired_version_id IS NOT NULL AND desired_version_id IS DISTINCT FROM served_version_id
          AND desired_version_id IS DISTINCT FROM stored_version_id AND drift = '' AND targets.enabled AND NOT EXISTS (
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
          served_version_id, served_at, drift, drift_since, failures, reason, failures > max_retries AS failing
        FROM bindings JOIN targets ON targets.id = bindings.target_id
        JOIN certificates ON certificates.id = certificate_id
        JOIN renewal_policies ON renewal_policies.id = renewal_policy_id
        WHERE certificate_id = ANY($1) ORDER BY certificate_id, target_id
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


async def of_targets(conn: Connection, ids: Sequence[str]) -> list[Row]:
    """Return the bindings of some targets: which certificate each should serve, and its drift."""
    return await conn.fetch("SELECT target_id, certificate_id, drift FROM bindings WHERE target_id = ANY($1)", ids)


async def end_binding(conn: Connection, target_id: str) -> None:
    """Forget what a target should serve."""
    await conn.execute("DELETE FROM bindings WHERE target_id = $1", target_id)


async def forget_served(conn: Connection, target_id: str) -> None:
    """Forget what a target was seen to serve."""
    await conn.execute(
        """
        UPDATE bindings SET served_version_id = NULL, served_at = NULL, stored_version_id = NULL, failures = 0,
          drift = '', drift_since = NULL, reason = ''
        WHERE target_id = $1
        """,
        target_id,
    )


async def set_desired(conn: Connection, target_id: str, version_id: str | None) -> None:
    """Say what a target should serve: its new agent's version, or nothing until that has one."""
    await conn.execute(
        """
        UPDATE bindings SET desired_version_id = $2, served_version_id = NULL, served_at = NULL,
          stored_version_id = NULL, failures = 0, drift = '', drift_since = NULL,
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
