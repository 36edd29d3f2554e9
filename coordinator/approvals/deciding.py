"""What persons say about what waits for approval, and what follows.

Everybody locks the certificate, then its job, then the approval: votes are counted one after another, whichever
coordinator takes them, and none of them meets a change of what is wanted half-way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import structlog

from coordinator.access import service as access
from coordinator.approvals import service, store
from coordinator.audit import service as audit
from coordinator.bindings import service as bindings
from coordinator.database.connection import Transaction
from coordinator.database.driver import Record as Row
from coordinator.database.listing import EVERYTHING, Scope
from coordinator.issuance import service as issuance
from coordinator.jobs import service as jobs
from coordinator.notifications import service as notifications
from coordinator.notifications.service import Event
from coordinator.profiles import service as profiles
from coordinator.web.table import Actor
from core.crash import crash_point
from core.errors import Conflict, Forbidden, NotFound
from core.wire import Failure

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger()
_BATCH = 100


class Open(NamedTuple):
    """An approval and its job, both locked."""

    approval: Row
    job: Row


async def approve(ctx: Context, actor: Actor, approval_id: str, note: str, request_id: str) -> None:
    """Agree. Enough who agree release the job, and it is signed at once.

    Raises ``NotFound``, ``Forbidden`` for whoever asked or is not among the approvers, ``Conflict`` for a second vote,
    for what was decided or has run out, and for what is not wanted like that any more: that is cancelled.
    """
    async with ctx.db.transaction() as tx:
        found = await _open(tx, approval_id, actor.scope)
        asked = service.read_wanted(found.approval["wanted"])
        current, released = await issuance.still_wanted(tx, found.job, asked), False
        if current:
            await _vote(tx, actor, found.approval, "approve", note)
            await store.count(tx, approval_id)
            released = found.approval["approved"] + 1 >= found.approval["required"]
            if released:
                await issuance.release(ctx, tx, found.job, asked)
            await _record(tx, actor, "approved", found.approval, note, request_id)
        else:
            await _cancel(tx, found, "cancelled", issuance.OUTDATED)
            await _record(tx, actor, "cancelled", found.approval, issuance.OUTDATED.cause, request_id)
        crash_point("approval.decided")
    if not current:
        detail = f"{approval_id} is cancelled: {issuance.OUTDATED.cause}; it is asked for anew by itself"
        raise Conflict(detail)
    if released:
        crash_point("approval.released")
        await issuance.finish(ctx, actor, found.job["id"], request_id)


async def reject(ctx: Context, actor: Actor, approval_id: str, note: str, request_id: str) -> None:
    """Refuse: the job is cancelled, and the certificate says by whom and why until somebody asks again.

    Raises what ``approve`` does.
    """
    async with ctx.db.transaction() as tx:
        found = await _open(tx, approval_id, actor.scope)
        await _vote(tx, actor, found.approval, "reject", note)
        why = f"rejected by {actor.name or actor}" + (f": {note}" if note else "")
        await _decline(tx, found, "rejected", why)
        await _record(tx, actor, "rejected", found.approval, note, request_id)
        crash_point("approval.decided")


async def expire(ctx: Context) -> float | None:
    """Cancel what nobody has decided in time; return the seconds until the next one, None without any.

    Any replica may run it at any time.
    """
    async with ctx.db.connection() as conn:
        approval_ids = await store.run_out(conn, _BATCH)
    for approval_id in approval_ids:
        async with ctx.db.transaction() as tx:
            found = await _locked(tx, approval_id, EVERYTHING)
            if found.approval["state"] != "pending":
                continue  # decided, or expired by another replica, since this one's look
            await _decline(tx, found, "expired", "nobody has decided in time")
            await _record(tx, access.SYSTEM, "expired", found.approval, "", "")
            crash_point("approval.decided")
    async with ctx.db.connection() as conn:
        return await store.seconds_to_next(conn)


async def _open(tx: Transaction, approval_id: str, scope: Scope) -> Open:
    found = await _locked(tx, approval_id, scope)
    if found.approval["state"] != "pending":
        detail = f"{approval_id} is {found.approval['state']} already"
        raise Conflict(detail)
    if found.approval["run_out"]:
        detail = f"{approval_id} has run out; renew the certificate to ask again"
        raise Conflict(detail)
    return found


async def _locked(tx: Transaction, approval_id: str, scope: Scope) -> Open:
    row = await store.LISTING.get(tx, approval_id, {}, scope)
    if row is None:
        detail = f"there is no approval {approval_id}"
        raise NotFound(detail)
    await bindings.lock_certificate_of(tx, row["job_id"])
    job = await jobs.lock(tx, row["job_id"])
    approval = await store.lock(tx, approval_id)
    assert approval is not None  # noqa: S101 - approvals stay
    return Open(approval, job)


async def _vote(tx: Transaction, actor: Actor, approval: Row, vote: Literal["approve", "reject"], note: str) -> None:
    """Store a vote of somebody who may have one, and has not."""
    persons = set(await access.persons_behind(tx, [str(actor)]))
    asked = {*approval["persons"], *await access.persons_behind(tx, approval["requested_by"])}
    if persons & asked:
        detail = "you have asked for this yourself; somebody else has to decide"
        raise Forbidden(detail)
    profile = await profiles.get(tx, approval["profile_id"])
    assert profile is not None  # noqa: S101 - the approval's foreign key
    if profile.approver_owner_ids and not persons & {f"owner:{owner_id}" for owner_id in profile.approver_owner_ids}:
        detail = f"profile {profile.id} names who may approve (approver_owner_ids), and you are not among them"
        raise Forbidden(detail)
    if persons & await store.voters(tx, approval["id"]):
        detail = "you have voted already; another person has to decide"
        raise Conflict(detail)
    told = {"voter": str(actor), "name": actor.name, "persons": sorted(persons), "vote": vote, "note": note}
    await store.insert_vote(tx, {"approval_id": approval["id"], **told})


async def _decline(tx: Transaction, found: Open, state: str, why: str) -> None:
    cause = why if state == "rejected" else f"approval {found.approval['id']} has expired: {why}"
    failure = Failure("approval", cause, transient=False)
    await _cancel(tx, found, state, failure)
    explanation = f"{cause}; renew the certificate to ask again"
    job = found.job
    if job["agent_id"] is not None:
        await bindings.explain(tx, job["certificate_id"], job["agent_id"], explanation, declined=True)
    event = Event(
        key=f"approval_{state}:{found.approval['id']}",
        type=f"approval_{state}",
        severity="error",
        subject=f"{job['certificate_id']} is not issued: approval {'rejected' if state == 'rejected' else 'not given'}",
        message=explanation,
        certificate_id=job["certificate_id"],
    )
    await notifications.tell(tx, event)


async def _cancel(tx: Transaction, found: Open, state: str, failure: Failure) -> None:
    await store.end(tx, found.approval["id"], state, failure.cause)
    await jobs.cancel_live(tx, failure, id=found.job["id"])


async def _record(tx: Transaction, actor: Actor, what: str, approval: Row, note: str, request_id: str) -> None:
    details = {
        "approval_id": approval["id"],
        "job_id": approval["job_id"],
        "note": note,
        "approved": approval["approved"] + (what == "approved"),
        "required": approval["required"],
    }
    certificate_id = approval["certificate_id"]
    await audit.record(tx, actor, f"approval.{what}", "certificate", certificate_id, details, request_id)
