"""From a CSR to a certificate, once.

1. One transaction checks who asks and what for (lease, names, key, profile), chooses the serial number and stores the
   intent; the job becomes AwaitingCA.
   Where persons have to agree, it becomes AwaitingApproval instead, until they have (see ``coordinator.approvals``).
2. The authority signs exactly that. Of the CSR nothing but the public key comes through.
3. One transaction stores the version, answers the request, ends the job and makes the version wanted by its targets.

An authority elsewhere takes step 2 in its own time: the job stays AwaitingCA with an order that is worked off beside
the requests (see ``coordinator.ordering``), and step 3 is the same.

A crash after step 1 is finished by the agent's repeated submission or by the recovery loop, with the same serial
number, so one request never has two released versions, and every signature ever made has a known serial number.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import structlog

from connectors.issuers.base import Order
from connectors.issuers.constraints import check_names
from connectors.issuers.local import LocalIssuer, usage_oids
from coordinator.access.service import SYSTEM
from coordinator.approvals import service as approvals
from coordinator.audit import service as audit
from coordinator.bindings import service as bindings
from coordinator.database.connection import Transaction
from coordinator.database.driver import Columns
from coordinator.database.driver import Record as Row
from coordinator.issuance import store
from coordinator.issuers import service as issuers
from coordinator.jobs import service as jobs
from coordinator.metrics import service as metrics
from coordinator.ordering import queue
from coordinator.policies import service as policies
from coordinator.profiles.service import Profile
from coordinator.renewal_policies import service as renewal_policies
from coordinator.web.table import Actor
from core import tracing
from core.certificates import authority_key_id, fingerprint, new_serial, read_certificate, serial_hex
from core.crash import crash_point
from core.csr import CSRFacts, read_csr
from core.errors import CertctlError, Conflict, FieldError, NotFound, Refused, StaleLease
from core.ids import new_id
from core.names import Name
from core.renewal import backdating
from core.states import JobKind, JobState
from core.wire import CSRAnswer, CSRSubmission, Failure, Step

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger()
_BATCH = 100
OUTDATED = Failure("approval", "the certificate or its profile has changed since this was asked for", transient=False)
LOCAL = "local"
"""The type of authorities that sign here."""
CLIENT = "client"
"""The holder of versions whose key is a foreign client's."""


class Intent(NamedTuple):
    """A checked request before anything is chosen for it; ``validity`` None is the certificate's lifetime from now."""

    source: str
    requester: str
    facts: CSRFacts
    csr: bytes
    waits: bool
    validity: tuple[datetime, datetime] | None = None


class Enrolment(NamedTuple):
    """What a foreign client asks the gate for; ``on_behalf_of`` are actors who may not approve it either."""

    source: str
    certificate_id: str
    facts: CSRFacts
    csr: bytes
    validity: tuple[datetime, datetime] | None = None
    on_behalf_of: Sequence[str] = ()


class _Signed(NamedTuple):
    """What step 2 hands to step 3; ``chain`` are the certificates above it, without the root."""

    der: bytes
    chain: tuple[bytes, ...]
    issuer_id: str
    issuer_ski: str
    renewal_policy_id: str
    ms: float


async def submit(ctx: Context, actor: Actor, job_id: str, submission: CSRSubmission, request_id: str) -> CSRAnswer:
    """Take an agent's CSR for a job and return the certificate; the same CSR again gets the same answer.

    While persons are asked the answer is ``pending``.

    Raises ``NotFound`` for a job that is not this agent's, ``StaleLease``, ``InvalidInput`` for an unreadable CSR or a
    weak key, ``Refused`` for names or a key other than wanted and for what the profile forbids. None of these changes
    anything.
    """
    try:
        return await _submit(ctx, actor, job_id, submission, request_id)
    except (NotFound, Conflict):  # nothing was asked of the authority
        raise
    except CertctlError as error:
        metrics.not_issued(LOCAL, error)
        raise


async def _submit(ctx: Context, actor: Actor, job_id: str, submission: CSRSubmission, request_id: str) -> CSRAnswer:
    async with ctx.db.transaction() as tx:
        job = await jobs.lock_for_worker(tx, job_id, actor.id)
        request = await store.request_of_job(tx, job_id)
        facts, _ = read_csr(submission.csr)
        if request is None:
            await _accept(ctx, tx, actor, job, submission, facts, request_id)
            crash_point("issuance.accepted")
        elif request["spki_sha256"] != facts.spki_sha256:
            detail = f"job {job_id} was answered with another key already; use the key that was submitted first"
            raise Conflict(detail)
    crash_point("issuance.intent")
    version_id = await _finish(ctx, actor, job_id, request_id)
    if version_id is None:
        return CSRAnswer("pending")
    async with ctx.db.connection() as conn:
        return CSRAnswer("issued", version_id, await store.chain_of(conn, version_id))


async def _accept(
    ctx: Context, tx: Transaction, actor: Actor, job: Row, submission: CSRSubmission, facts: CSRFacts, request_id: str
) -> None:
    """Step 1 for a new request."""
    jobs.check_lease(job, submission.lease_epoch)
    if job["kind"] != JobKind.ISSUANCE:
        detail = f"job {job['id']} is a {job['kind']} and takes no CSR"
        raise Conflict(detail)
    certificate, profile = await _order_of(tx, job["certificate_id"], facts.spki_sha256)
    await _check(tx, certificate, profile, job["agent_id"], facts)
    asked = approvals.wanted(certificate, profile, facts.spki_sha256, submission.csr)
    waits = await approvals.needed(tx, job, profile, asked)
    serial = await _intend(ctx, tx, job, certificate, Intent("agent", str(actor), facts, submission.csr, waits))
    steps = [Step("key", submission.key_ms), Step("csr", submission.csr_ms)]
    await jobs.move(tx, job, JobState.AWAITING_APPROVAL if waits else JobState.AWAITING_CA, steps)
    await _accepted(tx, actor, job, facts, serial, request_id)
    if waits:
        requested_by = await bindings.asked_by(tx, certificate["id"], job["agent_id"])
        question = approvals.Question(actor, job, profile, asked, requested_by)
        await approvals.ask(tx, question, ctx.settings.approval_timeout, request_id)


async def enroll(ctx: Context, tx: Transaction, actor: Actor, enrolment: Enrolment, request_id: str) -> str:
    """Take the CSR of a foreign client for a locked certificate; return the job, which ``finish`` carries out.

    Raises ``Refused`` for names or a key other than wanted and for what the profile forbids.
    """
    facts, csr = enrolment.facts, enrolment.csr
    certificate, profile = await _order_of(tx, enrolment.certificate_id, facts.spki_sha256)
    _check_wanted(certificate, facts, certificate["key_refused"])
    asked = approvals.wanted(certificate, profile, facts.spki_sha256, csr)
    about = {"certificate_id": certificate["id"], "agent_id": None}
    waits = await approvals.needed(tx, about, profile, asked)
    job = jobs.begin_enrolment(tx, certificate["id"], waits=waits)
    intent = Intent(enrolment.source, str(actor), facts, csr, waits, enrolment.validity)
    serial = await _intend(ctx, tx, job, certificate, intent)
    await _accepted(tx, actor, job, facts, serial, request_id)
    if waits:
        await tx.store_gathered()
        question = approvals.Question(actor, job, profile, asked, [str(actor), *enrolment.on_behalf_of])
        await approvals.ask(tx, question, ctx.settings.approval_timeout, request_id)
    return str(job["id"])


async def _intend(ctx: Context, tx: Transaction, job: Columns, certificate: Row, intent: Intent) -> str:
    """Choose serial number, dates and the authority's key, store all that will be signed; return the serial number.

    What is signed elsewhere has none of these yet.
    """
    request: dict[str, Any] = {
        "id": new_id("req"),
        "source": intent.source,
        "requester": intent.requester,
        "certificate_id": certificate["id"],
        "job_id": job["id"],
        "issuer_id": certificate["issuer_id"],
        "spki_sha256": intent.facts.spki_sha256,
        "csr": intent.csr,
        "state": "waiting" if intent.waits else "signing",
    }
    if certificate["issuer_type"] != LOCAL:
        _check_enabled(certificate)
        request["state"] = "waiting" if intent.waits else "ordering"
        store.insert_request(tx, request)
        if not intent.waits:
            await tx.store_gathered()
            await queue.add(tx, request["id"], job["id"], certificate["id"], certificate["issuer_id"])
        return ""
    authority = issuers.signer_of(ctx, certificate["issuer_id"], certificate)
    check_names(msgspec.convert(certificate["names"], tuple[Name, ...]), authority.chain)
    not_before, not_after = intent.validity or _validity(ctx, certificate["lifetime_s"], authority)
    request |= {
        "issuer_ski": authority.ski,
        "serial": serial_hex(new_serial()),
        "not_before": not_before,
        "not_after": min(not_after, authority.certificate.not_valid_after_utc),
    }
    store.insert_request(tx, request)
    return str(request["serial"])


def _check_enabled(certificate: Row) -> None:
    if not certificate["issuer_enabled"]:
        detail = f"issuer {certificate['issuer_id']} is switched off; choose another issuer for the certificate"
        raise Refused(detail)


async def _accepted(tx: Transaction, actor: Actor, job: Columns, facts: CSRFacts, serial: str, request_id: str) -> None:
    details = {"job_id": job["id"], "serial": serial, "spki_sha256": facts.spki_sha256, "ignored": facts.ignored}
    await audit.record(tx, actor, "certificate.csr_accepted", "certificate", job["certificate_id"], details, request_id)


async def _check(tx: Transaction, certificate: Row, profile: Profile, holder: str | None, facts: CSRFacts) -> None:
    """Raise ``Refused`` unless exactly what is wanted is asked for, and profile and rules agree."""
    taken = certificate["key_refused"]
    if holder is not None:
        taken = await store.key_in_use(tx, facts.spki_sha256, certificate["id"], holder)
    _check_wanted(certificate, facts, taken)
    names = msgspec.convert(certificate["names"], tuple[Name, ...])
    profile.check(names, facts.key_algorithm, certificate["lifetime_s"], certificate["issuer_id"])
    await policies.check(tx, certificate["id"])


def _check_wanted(certificate: Row, facts: CSRFacts, key_taken: bool) -> None:  # noqa: FBT001 - one more finding
    """Raise ``Refused`` that names everything in which a CSR is not what is wanted."""
    names = msgspec.convert(certificate["names"], tuple[Name, ...])
    wrong = [
        *(
            FieldError("csr", f"asks for {name}, which the certificate does not have")
            for name in sorted(facts.names - {*names})
        ),
        *(FieldError("csr", f"lacks the name {name}") for name in names if name not in facts.names),
    ]
    if facts.common_name and facts.common_name not in {name.value for name in names}:
        wrong.append(
            FieldError("csr", f"has the common name {facts.common_name[:80]}, which the certificate does not have")
        )
    if facts.key_algorithm != certificate["key_algorithm"]:
        wrong.append(
            FieldError("csr", f"holds a key of {facts.key_algorithm}; wanted is {certificate['key_algorithm']}")
        )
    if key_taken:
        wrong.append(
            FieldError(
                "csr", "holds a key that another certificate or agent uses, or that was compromised; make a new one"
            )
        )
    if wrong:
        raise Refused("; ".join(f"the CSR {error.problem}" for error in wrong), errors=tuple(wrong))


async def still_wanted(tx: Transaction, job: Row, asked: approvals.Wanted) -> bool:
    """Say whether what a locked job of a locked certificate was to be approved for is still what would be signed."""
    request = await store.request_of_job(tx, job["id"], lock=True)
    assert request is not None  # noqa: S101 - a job that waits for approval has one
    certificate, profile = await _order_of(tx, request["certificate_id"], request["spki_sha256"])
    return approvals.wanted(certificate, profile, request["spki_sha256"], request["csr"]) == asked


async def _order_of(tx: Transaction, certificate_id: str, spki_sha256: str) -> tuple[Row, Profile]:
    certificate = await store.wanted(tx, certificate_id, spki_sha256, CLIENT)
    assert certificate is not None  # noqa: S101 - the request's foreign key
    return certificate, msgspec.convert(certificate["profile"], Profile)


async def release(ctx: Context, tx: Transaction, job: Row, approved: approvals.Wanted) -> None:
    """Let a job of a locked certificate go on that has just been approved: its lifetime begins now.

    Raises ``Refused`` when the profile, a rule or the authority forbids by now what was allowed when it was asked for.
    """
    request = await store.request_of_job(tx, job["id"], lock=True)
    assert request is not None  # noqa: S101 - a job that waits for approval has one
    certificate, profile = await _order_of(tx, request["certificate_id"], request["spki_sha256"])
    facts, _ = read_csr(request["csr"])
    await _check(tx, certificate, profile, job["agent_id"], facts)
    if certificate["issuer_type"] != LOCAL:
        _check_enabled(certificate)
        await store.order_request(tx, request["id"], msgspec.to_builtins(approved))
        await jobs.move(tx, job, JobState.AWAITING_CA)
        await queue.add(tx, request["id"], job["id"], certificate["id"], certificate["issuer_id"])
        return
    authority = await issuers.signer(ctx, tx, request["issuer_id"])
    validity = _validity(ctx, approved.lifetime_s, authority)
    await store.release_request(tx, request["id"], authority.ski, validity, msgspec.to_builtins(approved))
    await jobs.move(tx, job, JobState.AWAITING_CA)


async def finish(ctx: Context, actor: Actor, job_id: str, request_id: str) -> str | None:
    """Sign what was released and return the version; what cannot be signed now is told, and a loop tries again."""
    try:
        return await _finish(ctx, actor, job_id, request_id)
    except CertctlError as error:
        log.warning("approved_issuance_not_finished", job_id=job_id, detail=error.detail)
        return None


def _validity(ctx: Context, lifetime_s: int, authority: LocalIssuer) -> tuple[datetime, datetime]:
    """Return notBefore, set back a little, and notAfter, never past the authority's own end."""
    now, lifetime = ctx.clock.now().replace(microsecond=0), timedelta(seconds=lifetime_s)
    end = min(now + lifetime, authority.certificate.not_valid_after_utc)
    if end <= now:
        detail = "the issuing authority has expired; renew it before it can sign again"
        raise Refused(detail)
    return now - timedelta(seconds=int(backdating(lifetime).total_seconds())), end


async def _finish(ctx: Context, actor: Actor, job_id: str, request_id: str) -> str | None:
    """Take steps 2 and 3, from the stored intent alone; return the version, None while persons are asked.

    Whoever comes second finds the first one's version.
    """
    started = time.perf_counter()
    async with ctx.db.transaction() as tx:
        request = await store.request_to_finish(tx, job_id)
        if request is None:
            detail = f"job {job_id} has no request"
            raise NotFound(detail)
        version_id: str | None = request["version_id"]
        fresh = request["state"] != "issued"
        if fresh:
            job = request["job"]
            jobs.check_unfinished(job)
            if request["state"] in {"waiting", "ordering"}:
                return None
            with tracing.rejoined(await jobs.trace_of(tx, job["run_id"])):  # an approver's request is not of it
                version_id = await _issue(ctx, tx, actor, job, request, request_id)
    if version_id is None:
        detail = f"job {job_id} is cancelled: {OUTDATED.cause}"
        raise StaleLease(detail)
    crash_point("issuance.stored")
    if fresh:
        metrics.issued(LOCAL, time.perf_counter() - started)
    return version_id


async def _issue(
    ctx: Context, tx: Transaction, actor: Actor, job: Columns, request: Row, request_id: str
) -> str | None:
    """Sign and store; return the version. None, and the job is cancelled, where something else was approved."""
    certificate: Columns = request["certificate"]
    profile = msgspec.convert(certificate["profile"], Profile)
    if not await _is_still_approved(tx, job, request, certificate, profile):
        return None
    signed = await _sign(ctx, request, certificate, profile)
    crash_point("issuance.signed")
    return await _record(ctx, tx, actor, job, request, signed, request_id)


async def _is_still_approved(
    tx: Transaction, job: Columns, request: Row, certificate: Columns, profile: Profile
) -> bool:
    """Say whether what would be issued was approved, where it has to be; cancel the job if not."""
    asked = approvals.wanted(certificate, profile, request["spki_sha256"], request["csr"])
    if request["approved"] is not None and approvals.read_wanted(request["approved"]) != asked:
        await jobs.cancel_live(tx, OUTDATED, id=job["id"])
        return False
    return True


async def _record(
    ctx: Context, tx: Transaction, actor: Actor, job: Columns, request: Row, signed: _Signed, request_id: str
) -> str:
    version_id, serial = await _store(ctx, tx, job, request, signed)
    details = {"job_id": job["id"], "version_id": version_id, "serial": serial}
    await audit.record(tx, actor, "certificate.issued", "certificate", job["certificate_id"], details, request_id)
    crash_point("issuance.recorded")
    return version_id


async def ordered(ctx: Context, tx: Transaction, job: Row, chain: tuple[bytes, ...], issuer_id: str) -> str | None:
    """Take step 3 with what another authority has issued for a locked job of a locked certificate; return the version.

    The chain is in DER, leaf first, without the root, and is for the request's key and names. None, and the job is
    cancelled, where something else was approved meanwhile.
    """
    request = await store.request_of_job(tx, job["id"], lock=True)
    assert request is not None  # noqa: S101 - an order has one
    certificate, profile = await _order_of(tx, request["certificate_id"], request["spki_sha256"])
    if not await _is_still_approved(tx, job, request, certificate, profile):
        return None
    ms = (ctx.clock.now() - request["created_at"]).total_seconds() * 1000
    leaf, policy = chain[0], certificate["renewal_policy_id"]
    signed = _Signed(leaf, chain[1:], issuer_id, authority_key_id(leaf), policy, max(0.0, ms))
    with tracing.rejoined(await jobs.trace_of(tx, job["run_id"])):
        version_id = await _record(ctx, tx, SYSTEM, job, request, signed, "")
    metrics.issued(certificate["issuer_type"], max(0.0, ms) / 1000)
    return version_id


async def _sign(ctx: Context, request: Row, certificate: Columns, profile: Profile) -> _Signed:
    issuer_id, ski = request["issuer_id"], request["issuer_ski"]
    authority = issuers.signer_of(ctx, issuer_id, request)
    facts, public_key = read_csr(request["csr"])
    order = Order(
        serial=int(request["serial"], 16),
        # A client knows its certificate again by the name that it put there, which is one of those that it ordered.
        common_name=(request["source"] != "agent" and facts.common_name.lower()) or certificate["common_name"],
        names=tuple(name for name in msgspec.convert(certificate["names"], tuple[Name, ...]) if name in facts.names),
        public_key=public_key,
        not_before=request["not_before"],
        not_after=request["not_after"],
        extended_key_usages=usage_oids(profile.extended_key_usages),
        aia_url=issuers.certificate_url(ctx.settings.pki_url, issuer_id, ski),
        cdp_url=issuers.crl_url(ctx.settings.pki_url, issuer_id, ski),
        must_staple=profile.must_staple,
    )
    started = time.perf_counter()
    with tracing.span("sign", job_id=request["job_id"], issuer_id=issuer_id, serial=request["serial"]):
        der = authority.sign(order) if authority.is_quick else await asyncio.to_thread(authority.sign, order)
    ms = (time.perf_counter() - started) * 1000
    # The record of signatures that does not rest on the database: also of one whose transaction is lost after this.
    log.info(
        "certificate_signed",
        serial=request["serial"],
        fingerprint=fingerprint(der),
        issuer_id=issuer_id,
        issuer_ski=ski,
        request_id=request["id"],
        job_id=request["job_id"],
    )
    return _Signed(der, authority.served_chain, issuer_id, ski, certificate["renewal_policy_id"], ms)


async def _store(ctx: Context, tx: Transaction, job: Columns, request: Row, signed: _Signed) -> tuple[str, str]:
    """Step 3: the version, the answered request, the ended job, what the targets want now; return id and serial."""
    facts, version_id = read_certificate(signed.der), new_id("cv")
    await store.save_issuer_certificates(tx, [(fingerprint(der), der) for der in signed.chain])
    version = {
        "id": version_id,
        "certificate_id": job["certificate_id"],
        "holder": job["agent_id"] or CLIENT,
        "issuer_id": signed.issuer_id,
        "issuer_ski": signed.issuer_ski,
        "serial": facts.serial,
        "fingerprint": facts.fingerprint,
        "spki_sha256": facts.spki_sha256,
        "key_algorithm": facts.key_algorithm,
        "not_before": facts.not_before,
        "not_after": facts.not_after,
        "der": signed.der,
        "chain": [fingerprint(der) for der in signed.chain],
    }
    generation = await store.answer(tx, request["id"], version)
    await jobs.complete(tx, job, [Step("signed", round(signed.ms, 3))], at_end=job["agent_id"] is None)
    if job["agent_id"] is None:  # its holder renews it by itself
        # A first version that outlives the loops' interval is theirs when they look by themselves.
        if generation > 1 or facts.not_after < ctx.clock.now() + ctx.settings.loops.renewal_check:
            tx.wake(renewal_policies.RENEWALS_TOPIC)
        return version_id, facts.serial
    validity = facts.not_before, facts.not_after
    due = await renewal_policies.renewal_time(tx, signed.renewal_policy_id, job["agent_id"], validity, ctx.clock.now())
    issued = bindings.IssuedVersion(version_id, job["certificate_id"], job["agent_id"], job["run_id"], due)
    await bindings.version_issued(tx, issued)
    return version_id, facts.serial


async def keep_authorities(tx: Transaction, certificates: Sequence[tuple[str, bytes]]) -> None:
    """Keep certificates of authorities, fingerprint and DER of each, so that chains can be made of them."""
    await store.save_issuer_certificates(tx, sorted(certificates))  # in one order, whoever else keeps the same


async def seconds_to_interrupted(ctx: Context) -> float | None:
    """Return the seconds until a signing that is under way now would count as interrupted."""
    async with ctx.db.connection() as conn:
        return await store.next_interrupted(conn)


async def finish_interrupted(ctx: Context) -> int:
    """Finish requests whose coordinator died between intent and answer; return how many. Any replica may run it."""
    async with ctx.db.connection() as conn:
        job_ids = await store.interrupted(conn, _BATCH)
    for job_id in job_ids:
        try:
            await _finish(ctx, Actor(kind="system"), job_id, "")
        except CertctlError as error:
            log.warning("interrupted_issuance_not_finished", job_id=job_id, detail=error.detail)
    return len(job_ids)
