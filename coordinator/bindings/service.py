"""Intent and its pursuit: what each holder and target should have, turned into jobs until they have it.

``holders`` say which agent keeps a key and when its certificate is due; ``bindings`` say what each target should serve
and what it was seen to serve. Every change queues the jobs that follow from it in its own transaction; ``reconcile`` is
the net beneath, which finds any gap that no live job is closing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import structlog

from coordinator.access.service import SYSTEM
from coordinator.agents import service as agents
from coordinator.audit import service as audit
from coordinator.bindings import store
from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row
from coordinator.jobs import service as jobs
from coordinator.metrics import service as metrics
from coordinator.notifications import service as notifications
from coordinator.notifications.service import Event
from coordinator.renewal_policies.service import RENEWALS_TOPIC
from coordinator.web.table import Actor
from core import tracing
from core.crash import crash_point
from core.decoding import wrong_field
from core.errors import InvalidInput, Refused
from core.identity import verify
from core.renewal import LAST_DEPLOYMENT_RETRY, LAST_RETRY, is_failing, retry_delay
from core.states import JobKind
from core.wire import REPORT_CONTEXT, Failure, JobReport, SignedReport

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger()
DEPLOYMENTS = store.DEPLOYMENTS
"""The list of a certificate's bindings with their targets and versions."""
CHANGED = "changed"
_BATCH = 200
_ONLY_STORED = "it is stored there, and nobody looks whether it is served: give the target a probe"


@dataclass(frozen=True)
class IssuedVersion:
    """What this room needs to know of a new version."""

    id: str
    certificate_id: str
    agent_id: str
    run_id: str
    renew_at: datetime | None


@dataclass(frozen=True)
class Wanted:
    """Who shall serve a certificate, and who shall hold a key for it."""

    certificate_id: str
    target_ids: tuple[str, ...]
    agent_ids: tuple[str, ...]


@dataclass(frozen=True)
class Moved:
    """What a change brought about: issuance jobs, and for the audit trail, who came and who went."""

    job_ids: list[str]
    told: dict[str, list[str]]


async def bind(conn: Transaction, certificate_id: str, target_ids: Sequence[str], agent_ids: Sequence[str]) -> None:
    """Say who wants the certificate; raise ``InvalidInput`` for an agent that was retired."""
    if agent_ids:
        await agents.check_in_service(conn, agent_ids)
        await store.hold(conn, certificate_id, agent_ids)
    if target_ids:
        await store.bind(conn, certificate_id, target_ids)


async def rebind(tx: Transaction, actor: Actor, wanted: Wanted, *, outdated_since: datetime | None) -> Moved:
    """Make targets and holders of a locked certificate those that are wanted.

    With ``outdated_since`` nothing that was issued is what is wanted any more: issuances in hand are cancelled and
    every holder gets a new one. Otherwise new holders get one, and new targets are sent what their agent holds already.
    """
    certificate_id = wanted.certificate_id
    targets = {row["target_id"] for row in await store.bindings_of(tx, [certificate_id])}
    holders = set(await store.holder_agents(tx, certificate_id))
    gone, left = sorted(targets - {*wanted.target_ids}), sorted(holders - {*wanted.agent_ids})
    came = [target_id for target_id in wanted.target_ids if target_id not in targets]
    new = [agent_id for agent_id in wanted.agent_ids if agent_id not in holders]
    await _end(tx, certificate_id, gone, left)
    await bind(tx, certificate_id, came, new)
    if outdated_since is not None:
        await jobs.cancel_issuances(tx, certificate_id)
        # The loops look at this moment too, should a job be lost.
        await store.outdate(tx, certificate_id, outdated_since)
        job_ids = await request_issuance(tx, actor, certificate_id, CHANGED)
    else:
        job_ids = await request_issuance(tx, actor, certificate_id, CHANGED, new) if new else []
        for binding in await store.want_what_is_held(tx, certificate_id):
            await jobs.queue_deployment(tx, binding, CHANGED, await jobs.new_run(tx, binding))
    tx.wake(RENEWALS_TOPIC)
    told = {"bound": came, "unbound": gone, "no_holders": left, "job_ids": job_ids}
    return Moved(job_ids, {name: ids for name, ids in told.items() if ids})


async def release(tx: Transaction, certificate_id: str) -> None:
    """End the bindings and jobs of a locked certificate. Who holds a version stays known and does not renew it."""
    targets = [row["target_id"] for row in await store.bindings_of(tx, [certificate_id])]
    await _end(tx, certificate_id, targets, await store.unissued_agents(tx, certificate_id))
    await jobs.cancel_issuances(tx, certificate_id)
    await store.set_renewals(tx, certificate_id, dict.fromkeys(await store.holder_agents(tx, certificate_id)))


async def _end(tx: Transaction, certificate_id: str, target_ids: Sequence[str], agent_ids: Sequence[str]) -> None:
    """End bindings and holders with their live jobs."""
    if not target_ids and not agent_ids:
        return
    # Jobs before bindings, as in a report; and again, since a loop may just have queued one for what ends here.
    await jobs.cancel_for(tx, certificate_id, target_ids, agent_ids)
    await store.unbind(tx, certificate_id, target_ids)
    await store.drop_holders(tx, certificate_id, agent_ids)
    await jobs.cancel_for(tx, certificate_id, target_ids, agent_ids)


async def request_issuance(
    conn: Transaction, actor: Actor, certificate_id: str, trigger: str, agent_ids: Sequence[str] = ()
) -> list[str]:
    """Queue an issuance for every holder, or for these; return the job ids. One whose issuance is in hand keeps that.

    All belong to one run: that of an issuance in hand, or the first new job's. Who asks is kept until there is a
    version: should it need an approval, it is not this actor's to give.
    """
    holders = agent_ids or await store.holder_agents(conn, certificate_id)
    await store.asked(conn, certificate_id, holders, str(actor))
    in_hand = await jobs.renewals_in_hand(conn, certificate_id)
    run_id = next((str(job["run_id"]) for job in in_hand.values()), "")
    while missing := [agent_id for agent_id in holders if agent_id not in in_hand]:
        for agent_id in missing:
            job_id = await jobs.queue_issuance(conn, certificate_id, agent_id, trigger, run_id=run_id)
            run_id = run_id or job_id or ""
        # Those just queued, and whatever a loop has queued in the same moment.
        in_hand = await jobs.renewals_in_hand(conn, certificate_id)
    return [in_hand[agent_id]["id"] for agent_id in holders]


async def renew_revoked(tx: Transaction, actor: Actor, certificate_id: str, now: datetime) -> list[str]:
    """Replace what the holders of a locked certificate have, all of which was revoked; return the issuance jobs."""
    job_ids = await request_issuance(tx, actor, certificate_id, "revoked")
    # The loops look at this moment too, should a job be lost.
    await store.outdate(tx, certificate_id, now)
    tx.wake(RENEWALS_TOPIC)
    return job_ids


async def stop_renewing(tx: Transaction, certificate_id: str, reason: str) -> None:
    """Issue nothing for a locked certificate until somebody asks; ``reason`` is told to people."""
    await jobs.cancel_issuances(tx, certificate_id)
    await store.set_renewals(tx, certificate_id, dict.fromkeys(await store.holder_agents(tx, certificate_id)))
    await store.set_holders_reason(tx, certificate_id, reason)


async def hold_holders(tx: Transaction, certificate_ids: Sequence[str]) -> None:
    """Lock who holds some locked certificates, so that no loop queues an issuance for one meanwhile."""
    await store.lock_holders(tx, certificate_ids)


async def send_again(tx: Transaction, certificate_id: str, target_id: str | None) -> list[str]:
    """Queue a deployment of what each target of a locked certificate should serve, or one of them; return the jobs.

    One whose deployment is in hand keeps that. Targets that are switched off, or have nothing to serve yet, have none.
    """
    wanted = {
        binding["target_id"]: binding
        for binding in await store.bindings_to_send(tx, certificate_id)
        if target_id in {None, binding["target_id"]}
    }
    in_hand = await jobs.deployments_in_hand(tx, certificate_id, list(wanted))
    while missing := [binding for target, binding in wanted.items() if target not in in_hand]:
        for binding in missing:
            await jobs.queue_deployment(tx, binding, "requested", await jobs.new_run(tx, binding))
        in_hand = await jobs.deployments_in_hand(tx, certificate_id, list(wanted))
    return [in_hand[target] for target in wanted]


async def asked_by(conn: Connection, certificate_id: str, agent_id: str) -> list[str]:
    """Return the actors who asked for what this holder has not got yet; none when nobody did."""
    return await store.asked_by(conn, certificate_id, agent_id)


async def explain(tx: Transaction, certificate_id: str, agent_id: str, reason: str, *, declined: bool = False) -> None:
    """Say why a holder has no newer version; ``declined``: and that there will be none until somebody asks again."""
    await store.explain(tx, certificate_id, agent_id, reason, declined=declined)


async def version_issued(conn: Transaction, version: IssuedVersion) -> None:
    """Make a new version what its holder's targets want, and queue their deployments."""
    # Jobs before bindings, as in a report: locks in two orders would meet in a deadlock.
    await jobs.cancel_older_deployments(conn, version.certificate_id, version.agent_id, version.id)
    bindings = await store.set_version(conn, version.certificate_id, version.agent_id, version.id, version.renew_at)
    for binding in bindings:
        if binding["enabled"] and not await jobs.queue_deployment(conn, binding, "issued", version.run_id):
            # A retry of an older version, queued while this waited for the binding that is locked now.
            await jobs.cancel_older_deployments(conn, version.certificate_id, version.agent_id, version.id)
            await jobs.queue_deployment(conn, binding, "issued", version.run_id)
    conn.wake(RENEWALS_TOPIC)


async def take_report(ctx: Context, actor: Actor, job_id: str, signed: SignedReport, request_id: str) -> str:
    """Store how a job ended, as its agent signed it, and queue what follows; return the job's state.

    Raises ``Unauthenticated`` for a signature that does not fit, ``InvalidInput`` for a report about something else,
    ``StaleLease`` when the job ended or was leased anew meanwhile.
    """
    async with ctx.db.transaction() as conn:
        await store.lock_certificate_of(conn, job_id)  # before the job, as whoever changes the certificate does
        job = await jobs.lock_for_worker(conn, job_id, actor.id)
        report = await _verified(conn, actor, job_id, signed)
        jobs.check_lease(job, report.lease_epoch)
        if report.failure is None:
            await _served(conn, job, report)
        else:
            await jobs.fail(conn, job, report.failure, report.steps)
            await _try_again(conn, job, report.failure)
        await jobs.keep_report(conn, job, report, signed)
        details = {"job_id": job_id, "target_id": job["target_id"], "outcome": report.outcome}
        if report.failure:
            details |= {"step": report.failure.step, "cause": report.failure.cause, "undo": report.undo}
        tracing.note(failed=report.failure is not None, job_id=job_id, outcome=report.outcome)
        end = "failed" if report.failure else "stored" if report.outcome == "stored" else "served"
        action = f"{job['kind']}.{end}"
        await audit.record(conn, actor, action, "certificate", job["certificate_id"], details, request_id)
        crash_point("report.stored")
    crash_point("report.committed")
    if job["kind"] == JobKind.DEPLOYMENT:
        metrics.deployed(report.outcome, sum(step.ms for step in report.steps) / 1000)
    return "Failed" if report.failure else "Completed"


async def _verified(conn: Transaction, actor: Actor, job_id: str, signed: SignedReport) -> JobReport:
    verify(await agents.identity_key(conn, actor.id), signed.signature, REPORT_CONTEXT + signed.payload)
    try:
        # PostgreSQL stores no NUL, and what a failing program printed may hold some.
        report = msgspec.json.decode(signed.payload.replace(b"\\u0000", b"\\ufffd"), type=JobReport)
    except msgspec.ValidationError as error:
        wrong = wrong_field(error, "payload")
        raise InvalidInput.of(wrong.field, wrong.problem) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidInput.of("payload", f"is not a job report: {error}") from error
    if (report.agent_id, report.job_id) != (actor.id, job_id):
        raise InvalidInput.of("payload", "reports another job or another agent than the path names")
    if (report.outcome == "failed") != (report.failure is not None):
        raise InvalidInput.of("payload", "must hold a failure exactly when its outcome is 'failed'")
    return report


async def _served(conn: Transaction, job: Row, report: JobReport) -> None:
    if job["kind"] != JobKind.DEPLOYMENT:
        detail = "an issuance ends with a certificate, not with a report of success; submit the CSR"
        raise Refused(detail)
    if report.outcome == "stored":
        if report.served_fingerprint:
            raise InvalidInput.of("payload.served_fingerprint", "must be empty: what is only stored was not seen")
        await jobs.complete(conn, job, report.steps)
        await store.set_stored(conn, job["certificate_id"], job["target_id"], job["version_id"], _ONLY_STORED)
        return
    wanted = await store.fingerprint_of(conn, job["version_id"])
    if report.served_fingerprint != wanted:
        raise InvalidInput.of("payload.served_fingerprint", f"is not that of the version to be served ({wanted})")
    await jobs.complete(conn, job, report.steps)
    await store.set_served(conn, job["certificate_id"], job["target_id"], job["version_id"])


async def issuance_failed(conn: Transaction, job: Row, failure: Failure) -> None:
    """End a locked issuance that no agent reports on, and queue the next attempt; its certificate is locked as well."""
    await jobs.fail(conn, job, failure)
    if job["agent_id"] is not None:  # a client asks again by itself
        await _try_again(conn, job, failure)


async def _try_again(conn: Transaction, job: Row, failure: Failure) -> None:
    """Queue the next attempt; it waits longer with every failure in a row."""
    attempt = job["attempt"] + 1
    if job["kind"] == JobKind.ISSUANCE:
        holder = await store.holder_failed(conn, job["certificate_id"], job["agent_id"], failure.cause)
        if holder is not None:
            delay = await _pause(conn, job, holder, failure)
            certificate_id, agent_id = job["certificate_id"], job["agent_id"]
            await jobs.queue_issuance(
                conn, certificate_id, agent_id, "retry", run_id=job["run_id"], attempt=attempt, delay=delay
            )
        return
    binding = await store.binding_failed(conn, job["certificate_id"], job["target_id"], failure.cause)
    if binding is not None and binding["enabled"]:
        delay = await _pause(conn, job, binding, failure, LAST_DEPLOYMENT_RETRY)
        await jobs.queue_deployment(conn, binding, "retry", job["run_id"], attempt=attempt, delay=delay)


async def _pause(
    conn: Transaction, job: Row, tried: Row, failure: Failure, longest: timedelta = LAST_RETRY
) -> timedelta:
    """Return how long to wait by the renewal policy; say it loudly when its retries have just been used up."""
    failures, most = tried["failures"], tried["max_retries"]
    if is_failing(failures, most) and not is_failing(failures - 1, most):
        about = {"agent_id": job["agent_id"], "target_id": job["target_id"], "failures": failures}
        details = {**about, "job_id": job["id"], "step": failure.step, "cause": failure.cause}
        await audit.record(conn, SYSTEM, f"{job['kind']}.failing", "certificate", job["certificate_id"], details)
        where = "is not issued" if job["kind"] == JobKind.ISSUANCE else f"is not served by {job['target_id']}"
        event = Event(
            key=f"failing:{job['id']}",
            type="certificate_failing",
            severity="error",
            subject=f"{job['certificate_id']} {where}",
            message=f"Tried {failures} times in vain, at last in the step {failure.step}: {failure.cause}",
            certificate_id=job["certificate_id"],
        )
        await notifications.tell(conn, event)
        log.warning("certificate_failing", kind=job["kind"], certificate_id=job["certificate_id"], **about)
    lifetime, first = timedelta(seconds=tried["lifetime_s"]), timedelta(seconds=tried["retry_interval_s"])
    return retry_delay(failures, lifetime, longest, first=first, most=most)


async def renew_due(ctx: Context) -> int:
    """Queue issuances for certificates that fell due; return how many. Any replica may run it at any time."""
    async with ctx.db.transaction() as conn:
        queued = 0
        for holder in await store.due_holders(conn, ctx.clock.now(), _BATCH):
            with tracing.span("renewal due", certificate_id=holder["certificate_id"]):
                job_id = await jobs.queue_issuance(conn, holder["certificate_id"], holder["agent_id"], "due")
            if job_id is None:
                continue  # another replica was faster between this one's look and its lock
            queued += 1
            details = {"agent_id": holder["agent_id"], "job_id": job_id}
            await audit.record(conn, SYSTEM, "certificate.due", "certificate", holder["certificate_id"], details)
            crash_point("renewal.queued")
    return queued


async def next_due(conn: Connection) -> datetime | None:
    """Return when the next certificate falls due."""
    return await store.next_due(conn)


async def reconcile(ctx: Context) -> int:
    """Queue a job for every gap that none is closing, and end attempts whose agent went silent; return how many."""
    async with ctx.db.transaction() as conn:
        silent = await _end_silent(conn)
        orphans = await jobs.cancel_of_the_retired(conn, _BATCH)
        unissued = await store.unissued_holders(conn, _BATCH)
        for holder in unissued:
            await jobs.queue_issuance(conn, holder["certificate_id"], holder["agent_id"], "reconciled")
            crash_point("reconcile.issuance_queued")
        unserved = await store.unserved_bindings(conn, _BATCH)
        for binding in unserved:
            await jobs.queue_deployment(conn, binding, "reconciled", await jobs.new_run(conn, binding))
            crash_point("reconcile.deployment_queued")
    return silent + orphans + len(unissued) + len(unserved)


async def end_overdue(ctx: Context) -> int:
    """End attempts whose agent went silent, and issuances that wait for a CSR for too long; return how many.

    Each is tried again, and counts as a failure: an agent that stays away makes its certificates louder.
    """
    async with ctx.db.transaction() as conn:
        silent = await _end_silent(conn)
        overdue = await jobs.overdue_issuances(conn, ctx.settings.loops.csr_timeout, _BATCH)
        for job in overdue:
            cause = "the agent has not handed in a certificate request in time; is it running and connected?"
            await _end_attempt(conn, job, Failure("csr", cause))
            crash_point("issuance.overdue")
    return silent + len(overdue)


async def seconds_to_silence(ctx: Context) -> float | None:
    """Return the seconds until the next lease runs out; its agent extends it meanwhile, if it is there."""
    async with ctx.db.connection() as conn:
        return await jobs.seconds_to_next_expiry(conn)


async def _end_silent(conn: Transaction) -> int:
    silent = await jobs.expired_leases(conn, _BATCH)
    for job in silent:
        cause = "the agent stopped reporting while it worked on this; is it running and connected?"
        await _end_attempt(conn, job, Failure("report", cause))
        crash_point("lease.expired")
    return len(silent)


async def _end_attempt(conn: Transaction, job: Row, failure: Failure) -> None:
    """End a locked job as failed and queue the next attempt."""
    await jobs.fail(conn, job, failure)
    await _try_again(conn, job, failure)
    details = {"job_id": job["id"], "cause": failure.cause}
    await audit.record(conn, SYSTEM, f"{job['kind']}.failed", "certificate", job["certificate_id"], details)


async def bindings_of(conn: Connection, certificate_ids: Sequence[str]) -> list[Row]:
    """Return the bindings of some certificates."""
    return await store.bindings_of(conn, certificate_ids)


async def lock_certificate_of(tx: Transaction, job_id: str) -> None:
    """Lock the certificate that a job is about: whoever locks the job and changes holders or bindings does so first."""
    await store.lock_certificate_of(tx, job_id)
