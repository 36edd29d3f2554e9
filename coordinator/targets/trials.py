"""Trials: a deployment to a target done by its agent up to the first change, so that it is known what would fail.

Of each target the last one is kept. A trial changes nothing, so it has no lease: it is offered to the agent's running
process, after a while or to its next process again, until the first report ends it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.audit import service as audit
from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row
from coordinator.jobs import service as jobs
from coordinator.targets import store
from coordinator.web.table import Actor
from core.errors import Conflict, NotFound
from core.ids import new_id
from core.names import Name
from core.wire import TrialItem, TrialReport

if TYPE_CHECKING:
    from coordinator.context import Context

OFFERED_AGAIN = timedelta(minutes=2)
"""After how long a running agent is offered a trial again of which it has not told the end."""
MOST_A_POLL = 8


class TrialStep(msgspec.Struct):
    """A step that succeeded, and how long it took."""

    name: str
    ms: float
    detail: str = ""


class TrialFailure(msgspec.Struct):
    """The step that failed, as a deployment would, and why; ``transient`` when trying again alone may help."""

    step: str
    cause: str
    transient: bool


class Trial(msgspec.Struct):
    """A trial of a target. ``ok`` is null until its agent has told how it ended."""

    id: str
    target_id: str
    agent_id: str
    ok: bool | None
    requested_at: datetime
    finished_at: datetime | None
    steps: list[TrialStep]
    failure: TrialFailure | None


async def request(tx: Transaction, actor: Actor, target_id: str, request_id: str) -> Trial:
    """Ask the target's agent for a trial; one that it has not ended yet is answered instead.

    Raises ``NotFound``, and ``Conflict`` for a target that was removed or is switched off.
    """
    target = await store.get(tx, target_id, lock=True)
    if target is None:
        detail = f"there is no target {target_id}"
        raise NotFound(detail)
    if target["archived_at"] is not None or not target["enabled"]:
        detail = f"target {target_id} is removed or switched off, so nothing is deployed there; enable it first"
        raise Conflict(detail)
    begun = await store.begin_trial(tx, target_id, target["agent_id"], new_id("trl"))
    if begun:
        details = {"agent_id": target["agent_id"]}
        await audit.record(tx, actor, "target.test_requested", "target", target_id, details, request_id)
    tx.wake(jobs.agent_topic(target["agent_id"]))
    return (await last_of(tx, [target_id]))[target_id]


async def last_of(conn: Connection, target_ids: Sequence[str]) -> dict[str, Trial]:
    """Return the last trial of each of these targets that had one."""
    return {row["target_id"]: _shape(row) for row in await store.trials(conn, target_ids)}


async def are_waiting(conn: Connection, agent_id: str, boot: str) -> bool:
    """Say whether there is a trial to offer to this process of an agent."""
    return await store.trials_wait(conn, agent_id, boot, OFFERED_AGAIN)


async def offer(tx: Transaction, agent_id: str, boot: str) -> tuple[TrialItem, ...]:
    """Return what this process of an agent should try now."""
    rows = await store.offer_trials(tx, agent_id, boot, OFFERED_AGAIN, MOST_A_POLL)
    return tuple(
        TrialItem(
            row["id"],
            row["target_id"],
            row["type"],
            row["config"],
            msgspec.convert(row["names"], tuple[Name, ...]),
            {path: base64.b64decode(text) for path, text in row["sealed"].items()},
        )
        for row in rows
    )


async def take_report(ctx: Context, actor: Actor, trial_id: str, report: TrialReport, request_id: str) -> str:
    """Keep how a trial ended, once; raise ``NotFound`` unless it is the last one of its target and this agent's."""
    async with ctx.db.transaction() as tx:
        row = await store.trial_of_agent(tx, trial_id, actor.id)
        if row is None:
            detail = f"there is no trial {trial_id} for this agent"
            raise NotFound(detail)
        if row["finished_at"] is None:
            failure = None if report.failure is None else msgspec.to_builtins(report.failure)
            await store.end_trial(tx, trial_id, msgspec.to_builtins(report.steps), failure)
            details: dict[str, Any] = {"ok": failure is None}
            if report.failure is not None:
                details |= {"step": report.failure.step, "cause": report.failure.cause}
            await audit.record(tx, actor, "target.tested", "target", row["target_id"], details, request_id)
    return "ended"


def _shape(row: Row) -> Trial:
    return Trial(
        id=row["id"],
        target_id=row["target_id"],
        agent_id=row["agent_id"],
        ok=None if row["finished_at"] is None else row["failure"] is None,
        requested_at=row["requested_at"],
        finished_at=row["finished_at"],
        steps=msgspec.convert(row["steps"], list[TrialStep]),
        failure=msgspec.convert(row["failure"], TrialFailure | None),
    )
