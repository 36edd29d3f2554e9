"""SQL of the queue. Leases run on the database's ``now()``; every write of a worker is checked against its epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from coordinator.database.connection import Connection, Statement
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Listing, Scope

# A run as it is read from the table, without the agent's signed report.
COLUMNS = """id, kind, run_id, certificate_id, agent_id, target_id, version_id, state, trigger, attempt, not_before,
  lease_epoch, failure, undo, served_fingerprint, timeline, created_at, started_at, finished_at"""
_FILTERS = ("certificate_id", "agent_id", "state", "kind", "run_id", "target_id")
LISTING = Listing(
    COLUMNS,
    "jobs",
    "job",
    filters={name: f"{name} = {{}}" for name in _FILTERS},
    team="team_id",
    environment="environment",
    within="certificate_id IN (SELECT id FROM certificates WHERE {})",
)


def step(name: str) -> str:
    """Return the SQL of a timeline's step with the database's time."""
    return f"jsonb_build_object('step', '{name}', 'at', clock_timestamp())"


def insertion(job: dict[str, Any], delay: timedelta) -> Statement:
    """Return what queues a job unless one like it is live."""
    sql = f"""
      INSERT INTO jobs (id, kind, run_id, certificate_id, agent_id, target_id, version_id, state, trigger, attempt,
                        not_before, traceparent, timeline)
      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, now() + $11::interval, $12,
              jsonb_build_array({step("queued")}))
      ON CONFLICT DO NOTHING RETURNING true"""
    names = ("id", "kind", "run_id", "certificate_id", "agent_id", "target_id", "version_id", "state", "trigger")
    whole = {"target_id": None, "version_id": None, **job}
    return sql, *(whole[name] for name in names), job["attempt"], delay, job["traceparent"]


async def insert(conn: Connection, job: dict[str, Any], delay: timedelta) -> bool:
    """Queue a job unless one like it is live; say whether it was inserted."""
    return bool(await conn.fetchval(*insertion(job, delay)))


async def claim(
    conn: Connection, agent_id: str, boot: str, held: Sequence[str], lease: timedelta, limit: int
) -> list[Row]:
    """Lease this agent's due jobs that its running process does not hold, each under a new epoch.

    What the process holds is known from its own words (``held``), so an answer lost on the way costs one poll, and a
    restarted process gets its predecessor's jobs at once.
    """
    return await conn.fetch(
        f"""
        WITH due AS (
          SELECT id FROM jobs
          WHERE agent_id = $1 AND state IN ('AwaitingCSR', 'Pending', 'Running') AND not_before <= now()
            AND NOT (lease_owner = $2 AND id = ANY($3))
          ORDER BY not_before, id LIMIT $5 FOR UPDATE SKIP LOCKED
        ), leased AS (
          UPDATE jobs SET lease_epoch = lease_epoch + 1, lease_owner = $2, lease_until = now() + $4::interval,
            state = CASE kind WHEN 'deployment' THEN 'Running' ELSE state END,
            started_at = coalesce(started_at, now()), timeline = timeline || {step("delivered")}
          FROM due WHERE jobs.id = due.id RETURNING jobs.*
        )
        SELECT leased.id, leased.kind, leased.lease_epoch, leased.certificate_id, leased.version_id, leased.target_id,
          leased.run_id, leased.traceparent, certificates.common_name, certificates.names, certificates.key_algorithm,
          targets.type AS target_type, targets.config, targets.sealed,
          versions.der, versions.fingerprint, versions.spki_sha256,
          (SELECT keys.chain[cardinality(keys.chain)] FROM issuer_keys AS keys
           WHERE keys.issuer_id = versions.issuer_id AND keys.ski = versions.issuer_ski) AS top,
          array(SELECT issuers.der FROM unnest(versions.chain) WITH ORDINALITY AS link(fingerprint, place)
                JOIN issuer_certificates AS issuers USING (fingerprint) ORDER BY place) AS issuers
        FROM leased JOIN certificates ON certificates.id = leased.certificate_id
        LEFT JOIN targets ON targets.id = leased.target_id
        LEFT JOIN certificate_versions AS versions ON versions.id = leased.version_id
        ORDER BY leased.not_before, leased.id
        """,
        agent_id,
        boot,
        held,
        lease,
        limit,
    )


async def extend_leases(conn: Connection, agent_id: str, boot: str, held: Sequence[str], lease: timedelta) -> None:
    """Lengthen the leases that the agent's process says it still works on.

    Whoever has one of the jobs locked is about to end it; to wait for that with others in hand can be a deadlock.
    """
    await conn.execute(
        """
        WITH working AS (
          SELECT id FROM jobs
          WHERE agent_id = $1 AND lease_owner = $2 AND id = ANY($3) AND state IN ('AwaitingCSR', 'Running')
          FOR UPDATE SKIP LOCKED
        )
        UPDATE jobs SET lease_until = now() + $4::interval FROM working WHERE jobs.id = working.id
        """,
        agent_id,
        boot,
        held,
        lease,
    )


async def seconds_to_next(conn: Connection, agent_id: str, boot: str, held: Sequence[str]) -> float | None:
    """Return the seconds until this agent's next job may start, or None when there is none but what it holds.

    Zero means that a job is due and was passed over, because another transaction has it locked at this moment.
    """
    wait = await conn.fetchval(
        """
        SELECT extract(epoch FROM min(not_before) - now())::float8 FROM jobs
        WHERE agent_id = $1 AND state IN ('AwaitingCSR', 'Pending', 'Running')
          AND NOT (lease_owner = $2 AND id = ANY($3))
        """,
        agent_id,
        boot,
        held,
    )
    return None if wait is None else max(0.0, float(wait))


async def agents_with_unclaimed_work(conn: Connection) -> list[str]:
    """Return the agents for whom jobs are due that have no lease, or one that ran out."""
    rows = await conn.fetch(
        """
        SELECT DISTINCT agent_id FROM jobs
        WHERE state IN ('AwaitingCSR', 'Pending') AND not_before <= now()
          AND (lease_until IS NULL OR lease_until < now())
        """
    )
    return [row["agent_id"] for row in rows]


async def get(conn: Connection, job_id: str, *, lock: bool = False) -> Row | None:
    """Return one job, locked until the transaction's end when asked."""
    return await conn.fetchrow(f"SELECT {COLUMNS} FROM jobs WHERE id = $1 {'FOR UPDATE' if lock else ''}", job_id)


def state_change(job_id: str, state: str, *, final: bool, steps: Sequence[dict[str, Any]]) -> Statement:
    """Return what moves a job to ``state`` and appends ``steps`` to its timeline, stamped with the database's time."""
    sql = """
      UPDATE jobs SET state = $2, finished_at = CASE WHEN $3 THEN now() ELSE finished_at END,
        lease_until = CASE WHEN $3 THEN NULL ELSE lease_until END,
        timeline = timeline || (
          SELECT coalesce(jsonb_agg(step || jsonb_build_object('at', clock_timestamp()) ORDER BY place), '[]')
          FROM jsonb_array_elements($4::jsonb) WITH ORDINALITY AS steps(step, place))
      WHERE id = $1"""
    return sql, job_id, state, final, list(steps)


async def set_failure(conn: Connection, job_id: str, failure: dict[str, Any]) -> None:
    """Store why a job failed."""
    await conn.execute("UPDATE jobs SET failure = $2 WHERE id = $1", job_id, failure)


async def set_report(conn: Connection, job_id: str, undo: str, served_fingerprint: str, signed: dict[str, Any]) -> None:
    """Store what the agent reported, and its signed words."""
    await conn.execute(
        "UPDATE jobs SET undo = $2, served_fingerprint = $3, report = $4 WHERE id = $1",
        job_id,
        undo,
        served_fingerprint,
        signed,
    )


async def live_issuance(conn: Connection, certificate_id: str) -> list[Row]:
    """Return the certificate's live issuance jobs, locked."""
    return await conn.fetch(
        """
        SELECT id, kind, agent_id, run_id, state, not_before > now() AS waiting FROM jobs
        WHERE certificate_id = $1 AND kind = 'issuance' AND state IN ('AwaitingCSR', 'AwaitingApproval', 'AwaitingCA')
        FOR UPDATE
        """,
        certificate_id,
    )


async def live_for(
    conn: Connection, certificate_id: str, target_ids: Sequence[str], agent_ids: Sequence[str]
) -> list[Row]:
    """Return the certificate's live deployments to these targets and live issuances of these agents, locked."""
    return await conn.fetch(
        """
        SELECT id, kind, run_id, state FROM jobs
        WHERE certificate_id = $1 AND (
          kind = 'deployment' AND state IN ('Pending', 'Running') AND target_id = ANY($2)
          OR kind = 'issuance' AND state IN ('AwaitingCSR', 'AwaitingApproval', 'AwaitingCA') AND agent_id = ANY($3))
        ORDER BY id FOR UPDATE
        """,
        certificate_id,
        target_ids,
        agent_ids,
    )


async def start_now(conn: Connection, job_ids: Sequence[str]) -> None:
    """End the waiting time of jobs that back off."""
    await conn.execute("UPDATE jobs SET not_before = now() WHERE id = ANY($1)", job_ids)


async def live_deployments(conn: Connection, certificate_id: str, agent_id: str, except_version_id: str) -> list[Row]:
    """Return the live deployment jobs of a certificate on one agent, but those of one version; locked."""
    return await conn.fetch(
        f"""
        SELECT {COLUMNS} FROM jobs
        WHERE certificate_id = $1 AND agent_id = $2 AND kind = 'deployment' AND state IN ('Pending', 'Running')
          AND version_id <> $3
        FOR UPDATE
        """,
        certificate_id,
        agent_id,
        except_version_id,
    )


async def live(conn: Connection, where: Mapping[str, str]) -> list[Row]:
    """Return the live jobs whose columns have these values, locked; issuances first, as everywhere else."""
    conditions = " AND ".join(f"{column} = ${place}" for place, column in enumerate(where, 1))
    return await conn.fetch(
        f"""
        SELECT id, kind, state, run_id, agent_id, certificate_id, target_id,
          state IN ('AwaitingCSR', 'Pending') AND not_before > now() AS waiting
        FROM jobs WHERE {conditions}
          AND state IN ('AwaitingCSR', 'AwaitingApproval', 'AwaitingCA', 'Pending', 'Running')
        ORDER BY kind DESC, id FOR UPDATE
        """,
        *where.values(),
    )


async def live_of_the_retired(conn: Connection, limit: int) -> list[Row]:
    """Return live jobs of agents that were retired, locked."""
    return await conn.fetch(
        """
        SELECT jobs.id, kind, state, run_id, agent_id, certificate_id
        FROM agents JOIN jobs ON jobs.agent_id = agents.id
        WHERE retired_at IS NOT NULL
          AND state IN ('AwaitingCSR', 'AwaitingApproval', 'AwaitingCA', 'Pending', 'Running')
        LIMIT $1 FOR UPDATE OF jobs SKIP LOCKED
        """,
        limit,
    )


async def cancel(conn: Connection, job_ids: Sequence[str], failure: dict[str, Any]) -> None:
    """Cancel jobs, with the reason."""
    await conn.execute(
        f"""
        UPDATE jobs SET state = 'Cancelled', finished_at = now(), lease_until = NULL, failure = $2,
          timeline = timeline || {step("cancelled")}
        WHERE id = ANY($1)
        """,
        job_ids,
        failure,
    )


async def expired(conn: Connection, limit: int) -> list[Row]:
    """Return deployments whose agent stopped extending the lease, locked."""
    return await conn.fetch(
        f"""
        SELECT {COLUMNS} FROM jobs WHERE state = 'Running' AND lease_until < now()
        ORDER BY lease_until LIMIT $1 FOR UPDATE SKIP LOCKED
        """,
        limit,
    )


async def next_expiry(conn: Connection) -> float | None:
    """Return the seconds until the next lease of a deployment runs out."""
    wait: float | None = await conn.fetchval(
        "SELECT extract(epoch FROM min(lease_until) - now())::float8 FROM jobs WHERE state = 'Running'"
    )
    return wait


async def overdue_issuances(conn: Connection, waited: timedelta, limit: int) -> list[Row]:
    """Return issuances, locked, that could have begun so long ago and have no CSR yet."""
    return await conn.fetch(
        f"""
        SELECT {COLUMNS} FROM jobs
        WHERE state = 'AwaitingCSR' AND created_at < now() - $1::interval AND not_before < now() - $1::interval
        ORDER BY created_at, id LIMIT $2 FOR UPDATE SKIP LOCKED
        """,
        waited,
        limit,
    )


async def of_run(conn: Connection, run_id: str, scope: Scope) -> list[Row]:
    """Return all jobs of a run, oldest first, as far as somebody with this scope may see them."""
    matching, values = LISTING.matching({"run_id": run_id}, scope)
    return await conn.fetch(f"SELECT {COLUMNS} FROM jobs WHERE {matching} ORDER BY created_at, id", *values)


async def trace_of_run(conn: Connection, run_id: str) -> str:
    """Return where the trace of a run goes on; empty when it is not traced."""
    found = await conn.fetchval(
        "SELECT traceparent FROM jobs WHERE run_id = $1 AND traceparent <> '' ORDER BY created_at, id LIMIT 1", run_id
    )
    return str(found or "")


async def proofs_of_run(conn: Connection, run_id: str) -> list[Row]:
    """Return what proves the steps of a run's jobs: request, version, and the agent's report as it was signed."""
    return await conn.fetch(
        """
        SELECT jobs.id, requests.spki_sha256, versions.id AS version_id, versions.fingerprint, versions.serial,
          versions.issuer_id, versions.issuer_ski, served_fingerprint, report ->> 'payload' AS report,
          report ->> 'signature' AS signature, approvals.id AS approval_id, approvals.approved AS votes
        FROM jobs LEFT JOIN issuance_requests AS requests ON requests.job_id = jobs.id
        LEFT JOIN approvals ON approvals.job_id = jobs.id
        LEFT JOIN certificate_versions AS versions ON versions.id = coalesce(requests.version_id, jobs.version_id)
        WHERE run_id = $1
        """,
        run_id,
    )


async def run_of_version(conn: Connection, version_id: str) -> str | None:
    """Return the run in which a version was issued."""
    run_id: str | None = await conn.fetchval(
        """
        SELECT run_id FROM issuance_requests JOIN jobs ON jobs.id = issuance_requests.job_id
        WHERE issuance_requests.version_id = $1
        """,
        version_id,
    )
    return run_id
