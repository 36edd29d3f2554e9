"""The rules of the queue: who holds what, which state may follow, who is woken.

Jobs are attempts: they end, and a retry is a new one. What should be is kept in ``holders`` and ``bindings``; this room
knows nothing of either.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec

from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Columns
from coordinator.database.driver import Record as Row
from coordinator.jobs import store
from core import tracing
from core.crash import crash_point
from core.errors import NotFound, StaleLease
from core.ids import new_id
from core.names import Name
from core.states import FINAL, FIRST, JobKind, JobState, check_transition
from core.wire import DeploymentItem, Failure, IssuanceItem, JobReport, SignedReport, Step

MOST_ITEMS_A_POLL = 64
MOST_HELD = 256
"""Jobs in the hands of one agent process at a time; the rest stays in the queue."""
NOW = timedelta()
NOT_LEASED = 0


def agent_topic(agent_id: str) -> str:
    """Return the wake-up topic of an agent's poll."""
    return f"agent:{agent_id}"


def run_topic(run_id: str) -> str:
    """Return the wake-up topic of those who follow a run."""
    return f"run:{run_id}"


async def queue_issuance(
    conn: Transaction,
    certificate_id: str,
    agent_id: str,
    trigger: str,
    *,
    run_id: str = "",
    attempt: int = 1,
    delay: timedelta = NOW,
) -> str | None:
    """Queue an issuance for one holder; return its id, or None when one is live already."""
    job_id = new_id("job")
    job = {
        "id": job_id,
        "kind": JobKind.ISSUANCE,
        "run_id": run_id or job_id,
        "certificate_id": certificate_id,
        "agent_id": agent_id,
        "state": FIRST[JobKind.ISSUANCE],
        "trigger": trigger,
        "attempt": attempt,
    }
    return await _queue(conn, job, delay)


async def queue_deployment(
    conn: Transaction,
    binding: Row,
    trigger: str,
    run_id: str,
    *,
    attempt: int = 1,
    delay: timedelta = NOW,
) -> str | None:
    """Queue the deployment of a binding's desired version; return its id, or None when one is live already."""
    job = {
        "id": new_id("job"),
        "kind": JobKind.DEPLOYMENT,
        "run_id": run_id,
        "certificate_id": binding["certificate_id"],
        "agent_id": binding["agent_id"],
        "target_id": binding["target_id"],
        "version_id": binding["desired_version_id"],
        "state": FIRST[JobKind.DEPLOYMENT],
        "trigger": trigger,
        "attempt": attempt,
    }
    return await _queue(conn, job, delay)


def begin_enrolment(conn: Transaction, certificate_id: str, *, waits: bool) -> dict[str, Any]:
    """Begin the issuance of what a foreign client brought a CSR for: no agent has a part in it; return the job.

    It is stored with what is gathered.
    """
    job_id = new_id("job")
    job = {
        "id": job_id,
        "kind": JobKind.ISSUANCE,
        "run_id": job_id,
        "certificate_id": certificate_id,
        "agent_id": None,
        "state": JobState.AWAITING_APPROVAL if waits else JobState.AWAITING_CA,
        "trigger": "requested",
        "attempt": 1,
        "traceparent": tracing.current(),
    }
    conn.later(*store.insertion(job, NOW))
    return job


async def _queue(conn: Transaction, job: dict[str, Any], delay: timedelta) -> str | None:
    # What follows without a request – a retry, a repair – belongs to the trace that its run began in.
    job["traceparent"] = tracing.current() or await trace_of(conn, job["run_id"])
    if not await store.insert(conn, job, delay):
        return None
    conn.wake(agent_topic(job["agent_id"]), run_topic(job["run_id"]))
    return str(job["id"])


async def trace_of(conn: Connection, run_id: str) -> str:
    """Return where the trace of a run goes on; empty when it is not traced."""
    return await store.trace_of_run(conn, run_id) if tracing.is_on() else ""


async def claim(
    conn: Transaction, agent_id: str, boot: str, held: Sequence[str], lease: timedelta
) -> tuple[IssuanceItem | DeploymentItem, ...]:
    """Lease what this agent's process should do next and does not hold yet, as much as its hands can take."""
    if held:
        await store.extend_leases(conn, agent_id, boot, held, lease)
        crash_point("lease.extended")
    rows = await store.claim(conn, agent_id, boot, held, lease, min(MOST_ITEMS_A_POLL, MOST_HELD - len(held)))
    conn.wake(*{run_topic(row["run_id"]) for row in rows})
    if rows:
        crash_point("lease.claimed")
    return tuple(_item(row) for row in rows)


async def seconds_to_next(conn: Connection, agent_id: str, boot: str, held: Sequence[str]) -> float | None:
    """Return the seconds until this agent's next job may start, or None when there is none but what it holds."""
    return await store.seconds_to_next(conn, agent_id, boot, held)


async def agents_with_unclaimed_work(conn: Connection) -> list[str]:
    """Return the agents for whom work lies ready that nobody has a lease on."""
    return await store.agents_with_unclaimed_work(conn)


def _item(row: Row) -> IssuanceItem | DeploymentItem:
    names = msgspec.convert(row["names"], tuple[Name, ...])
    if row["kind"] == JobKind.ISSUANCE:
        return IssuanceItem(
            row["id"],
            row["lease_epoch"],
            row["certificate_id"],
            row["common_name"],
            names,
            row["key_algorithm"],
            row["traceparent"],
        )
    return DeploymentItem(
        job_id=row["id"],
        lease_epoch=row["lease_epoch"],
        certificate_id=row["certificate_id"],
        version_id=row["version_id"],
        target_id=row["target_id"],
        target_type=row["target_type"],
        config=row["config"],
        chain=(row["der"], *row["issuers"]),
        fingerprint=row["fingerprint"],
        spki_sha256=row["spki_sha256"],
        names=names,
        traceparent=row["traceparent"],
        sealed={path: base64.b64decode(text) for path, text in row["sealed"].items()},
        root=row["top"] or b"",
    )


async def lock_for_worker(conn: Transaction, job_id: str, agent_id: str) -> Row:
    """Return the job, locked; raise ``NotFound`` unless it is this agent's."""
    job = await store.get(conn, job_id, lock=True)
    if job is None or job["agent_id"] != agent_id:
        detail = f"there is no job {job_id} for this agent"
        raise NotFound(detail)
    return job


def check_unfinished(job: Columns) -> None:
    """Raise ``StaleLease`` when the job has ended."""
    if JobState(job["state"]) in FINAL:
        detail = f"job {job['id']} is {job['state']} already; drop this work and poll again"
        raise StaleLease(detail)


def check_lease(job: Row, epoch: int) -> None:
    """Raise ``StaleLease`` when the job ended, was leased anew since the caller got it, or was never leased."""
    check_unfinished(job)
    if job["lease_epoch"] != epoch or epoch == NOT_LEASED:
        found = f"lease epoch {epoch} of job {job['id']} is not the newest ({job['lease_epoch']})"
        raise StaleLease(f"{found}; drop this work and poll again")


async def move(
    conn: Transaction, job: Columns, state: JobState, steps: Sequence[Step] = (), *, at_end: bool = False
) -> None:
    """Move a locked job to ``state``, or ``at_end`` with what is gathered.

    Raises ``Conflict`` when its machine does not allow that.
    """
    check_transition(JobKind(job["kind"]), JobState(job["state"]), state)
    marks = [{"step": step.name, "ms": step.ms, "detail": step.detail} for step in steps]
    marks.append({"step": state.lower()})
    change = store.state_change(job["id"], state, final=state in FINAL, steps=marks)
    if at_end:
        conn.later(*change)
    else:
        await conn.execute(*change)
    conn.wake(run_topic(job["run_id"]))


async def fail(conn: Transaction, job: Row, failure: Failure, steps: Sequence[Step] = ()) -> None:
    """End a locked job as failed, with its cause."""
    await move(conn, job, JobState.FAILED, steps)
    await store.set_failure(conn, job["id"], msgspec.to_builtins(failure))


async def complete(conn: Transaction, job: Columns, steps: Sequence[Step], *, at_end: bool = False) -> None:
    """End a locked job as completed; see ``move``."""
    await move(conn, job, JobState.COMPLETED, steps, at_end=at_end)


async def keep_report(conn: Transaction, job: Row, report: JobReport, signed: SignedReport) -> None:
    """Keep what the agent said of a job, with its signature as evidence."""
    await store.set_report(conn, job["id"], report.undo, report.served_fingerprint, msgspec.to_builtins(signed))


async def cancel_older_deployments(
    conn: Transaction, certificate_id: str, agent_id: str, newest_version_id: str
) -> None:
    """Cancel the live deployments that a newer version made pointless."""
    for job in await store.live_deployments(conn, certificate_id, agent_id, newest_version_id):
        await move(conn, job, JobState.CANCELLED, [Step("superseded", 0.0)])
        crash_point("lease.superseded")


async def cancel_live(conn: Transaction, failure: Failure, **where: str) -> list[Row]:
    """Cancel the live jobs whose columns have these values, and return them.

    A worker that has one in hand is told with its next word that it is over.
    """
    return await _cancel(conn, await store.live(conn, where), failure)


async def cancel_for(
    conn: Transaction, certificate_id: str, target_ids: Sequence[str], agent_ids: Sequence[str]
) -> None:
    """Cancel a certificate's live deployments to targets and its live issuances by agents that have gone."""
    failure = Failure("unbound", "its target or agent was taken from the certificate")
    await _cancel(conn, await store.live_for(conn, certificate_id, target_ids, agent_ids), failure)


async def cancel_issuances(conn: Transaction, certificate_id: str) -> None:
    """Cancel a certificate's live issuances: what they ask for is not wanted any more."""
    await _cancel(
        conn, await store.live_issuance(conn, certificate_id), Failure("outdated", "another certificate is wanted now")
    )


async def hold_live(conn: Transaction, **where: str) -> None:
    """Let the live jobs whose columns have these values end only after this transaction."""
    await store.live(conn, where)


async def cancel_of_the_retired(conn: Transaction, limit: int) -> int:
    """Cancel what was queued for an agent in the moment in which it was retired; return how many."""
    failure = Failure("retired", "the agent was retired", transient=False)
    return len(await _cancel(conn, await store.live_of_the_retired(conn, limit), failure))


async def _cancel(conn: Transaction, rows: list[Row], failure: Failure) -> list[Row]:
    for row in rows:
        check_transition(JobKind(row["kind"]), JobState(row["state"]), JobState.CANCELLED)
    if rows:
        await store.cancel(conn, [row["id"] for row in rows], msgspec.to_builtins(failure))
        conn.wake(*{run_topic(row["run_id"]) for row in rows})
    return rows


async def renewals_in_hand(conn: Transaction, certificate_id: str) -> dict[str, Row]:
    """Return the live issuance jobs of a certificate by agent; those that back off start now instead."""
    rows = await store.live_issuance(conn, certificate_id)
    waiting = [row for row in rows if row["waiting"]]
    if waiting:
        await store.start_now(conn, [row["id"] for row in waiting])
        conn.wake(*(agent_topic(row["agent_id"]) for row in waiting))
    return {row["agent_id"]: row for row in rows}


async def deployments_in_hand(conn: Transaction, certificate_id: str, target_ids: Sequence[str]) -> dict[str, str]:
    """Return the live deployment jobs of a certificate to these targets, by target; those that back off start now."""
    live = await store.live(conn, {"certificate_id": certificate_id, "kind": JobKind.DEPLOYMENT})
    rows = [row for row in live if row["target_id"] in target_ids]
    waiting = [row for row in rows if row["waiting"]]
    if waiting:
        await store.start_now(conn, [row["id"] for row in waiting])
        conn.wake(*(agent_topic(row["agent_id"]) for row in waiting))
    return {row["target_id"]: row["id"] for row in rows}


async def deploying(conn: Transaction, certificate_id: str, target_id: str) -> bool:
    """Say whether a deployment of a certificate to a target is live, and let it end only after this transaction."""
    where = {"certificate_id": certificate_id, "target_id": target_id, "kind": JobKind.DEPLOYMENT}
    return bool(await store.live(conn, where))


async def expired_leases(conn: Transaction, limit: int) -> list[Row]:
    """Return deployments, locked, whose agent stopped extending their lease."""
    return await store.expired(conn, limit)


async def seconds_to_next_expiry(conn: Connection) -> float | None:
    """Return the seconds until the next lease of a deployment runs out; None when none is held."""
    return await store.next_expiry(conn)


async def overdue_issuances(conn: Transaction, waited: timedelta, limit: int) -> list[Row]:
    """Return issuances, locked, whose agent has not handed in a CSR for so long."""
    return await store.overdue_issuances(conn, waited, limit)


async def new_run(conn: Transaction, binding: Row) -> str:
    """Return the run that a reconciled deployment belongs to: that of the issuance that made its version."""
    return await store.run_of_version(conn, binding["desired_version_id"]) or new_id("job")


async def run_of(conn: Connection, job_id: str) -> str:
    """Return the run that a job belongs to; raise ``NotFound``."""
    job = await store.get(conn, job_id)
    if job is None:
        detail = f"there is no job {job_id}"
        raise NotFound(detail)
    return str(job["run_id"])


async def lock(conn: Transaction, job_id: str) -> Row:
    """Return a job, locked until the transaction's end; raise ``NotFound``."""
    job = await store.get(conn, job_id, lock=True)
    if job is None:
        detail = f"there is no job {job_id}"
        raise NotFound(detail)
    return job
