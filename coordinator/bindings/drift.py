"""Drift: what an agent finds changed, missing or served differently when it looks again at what it had installed.

It is told once, and again when it becomes another kind. Where the renewal policy says so it is repaired by a deployment
of the same version, a few times an hour at most: whoever else writes there, and certctl, must not fight without end.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from coordinator.audit import service as audit
from coordinator.bindings import drift_store, store
from coordinator.database.connection import Transaction
from coordinator.database.driver import Record as Row
from coordinator.jobs import service as jobs
from coordinator.notifications import service as notifications
from coordinator.notifications.service import Event
from coordinator.web.table import Actor
from core.crash import crash_point
from core.ids import new_id
from core.wire import Finding

if TYPE_CHECKING:
    from coordinator.context import Context

Drift = Literal["", "changed", "missing", "served differs"]
MOST_REPAIRS, REPAIRS_WITHIN = 3, timedelta(hours=1)
_REPAIRED = "it is installed again now"
_REPORTED = "its renewal policy says to report this only; deploy it again, or see to it by hand"
_OFF = "the target is switched off, so it is not repaired"
_TOO_OFTEN = f"it was repaired {MOST_REPAIRS} times within an hour and is left alone for now; who else writes there?"


async def take(ctx: Context, actor: Actor, findings: Sequence[Finding], request_id: str) -> tuple[str, ...]:
    """Store what an agent found, and queue repairs; return the targets whose version is not wanted there any more."""
    unwanted = []
    for finding in findings:
        async with ctx.db.transaction() as tx:
            if not await _take(tx, actor, finding, request_id):
                unwanted.append(finding.target_id)
            crash_point("drift.found")
    return tuple(unwanted)


async def _take(tx: Transaction, actor: Actor, finding: Finding, request_id: str) -> bool:
    """Store one finding; say whether the agent shall go on looking."""
    await store.lock_certificate_of_target(tx, finding.target_id)
    bound = await store.of_targets(tx, [finding.target_id])
    if not bound:
        return False
    in_hand = await jobs.deploying(
        tx, bound[0]["certificate_id"], finding.target_id
    )  # before the binding, as everywhere
    binding = await drift_store.installation(tx, finding.target_id, actor.id)
    if binding is None:
        return False
    if in_hand or binding["desired_version_id"] != finding.version_id:
        return True  # what is deployed now, or next, has a report of its own
    if finding.state == "in place":
        await _end(tx, actor, binding, finding, request_id)
    else:
        await _begin(tx, actor, binding, finding, request_id)
    return True


async def _end(tx: Transaction, actor: Actor, binding: Row, finding: Finding, request_id: str) -> None:
    seen = finding.served_fingerprint == binding["fingerprint"]
    if not binding["drift"] or (binding["drift"] == "served differs" and not seen):
        return
    await drift_store.end_drift(tx, finding.target_id, seen=seen)
    details = {"target_id": finding.target_id, "was": binding["drift"]}
    await audit.record(
        tx, actor, "certificate.drift_ended", "certificate", binding["certificate_id"], details, request_id
    )


async def _begin(tx: Transaction, actor: Actor, binding: Row, finding: Finding, request_id: str) -> None:
    certificate_id, target_id = binding["certificate_id"], finding.target_id
    follows = await _repair(tx, binding)
    await drift_store.set_drift(tx, target_id, finding.state, f"{finding.state}: {finding.cause} – {follows}")
    if binding["drift"] == finding.state:
        return
    details = {"target_id": target_id, "state": finding.state, "cause": finding.cause, "follows": follows}
    await audit.record(tx, actor, "certificate.drifted", "certificate", certificate_id, details, request_id)
    event = Event(
        key=f"drift:{new_id('ntf')}",
        type="certificate_drifted",
        severity="error" if finding.state == "served differs" else "warning",
        subject=f"{binding['certificate_name']} on {binding['target_name']}: {finding.state}",
        message=f"Target {binding['target_name']} ({target_id}): {finding.cause}\nWhat follows: {follows}.",
        certificate_id=certificate_id,
    )
    await notifications.tell(tx, event)


async def _repair(tx: Transaction, binding: Row) -> str:
    """Queue a repair if that is wanted; say in words what follows."""
    if binding["on_drift"] != "repair":
        return _REPORTED
    if not binding["enabled"]:
        return _OFF
    certificate_id, target_id = binding["certificate_id"], binding["target_id"]
    if await drift_store.repairs(tx, certificate_id, target_id, REPAIRS_WITHIN) >= MOST_REPAIRS:
        return _TOO_OFTEN
    await jobs.queue_deployment(tx, binding, "drift", await jobs.new_run(tx, binding))
    return _REPAIRED
