"""The end of an agent: asked for, refused as long as something depends on it, or carried through.

The row stays, since jobs, versions and the audit trail name it. The agent itself learns of it with its next word (410)
and ends. Its certificates stay as well; where it was the last one with a key, somebody else has to be bound to them.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from coordinator.agents import store
from coordinator.audit import service as audit
from coordinator.bindings import changes
from coordinator.database.connection import Transaction
from coordinator.database.driver import Record as Row
from coordinator.targets import service as targets
from coordinator.web.table import Actor
from core.crash import crash_point
from core.errors import Conflict, Forbidden, InvalidInput, NotFound
from core.wire import Failure

if TYPE_CHECKING:
    from coordinator.context import Context

SENTINELS = frozenset({"ag-server-scanner", "ag-cloud-aws-sm", "ag-cloud-azure-kv", "ag-cloud-gcp-sm"})
"""Stand for what finds certificates without an agent's help; they are no hosts and never go."""


class Dependents(msgspec.Struct, frozen=True):
    """What depends on an agent: targets, certificates that it has a key for, jobs that have not ended."""

    active_targets: int
    active_certificates: int
    pending_jobs: int

    @property
    def none(self) -> bool:
        """Say whether nothing does."""
        return not (self.active_targets or self.active_certificates or self.pending_jobs)


class Preflight(msgspec.Struct, frozen=True):
    """What would stand in the way of a retirement; ``blocked`` when it needs ``force``."""

    agent_id: str
    retired_at: datetime | None
    blocked: bool
    counts: Dependents


class Retirement(msgspec.Struct, frozen=True):
    """A retirement that was carried through.

    ``cascade`` says whether anything depended on the agent. ``without_holder`` are certificates that nobody has a key
    for any more: they stay, and are not renewed until they are bound to another target or agent.
    """

    agent_id: str
    retired_at: datetime
    cascade: bool
    counts: Dependents
    target_ids: list[str]
    without_holder: list[str]


async def preflight(ctx: Context, agent_id: str) -> Preflight:
    """Say what a retirement would meet; raise ``NotFound``, or ``Forbidden`` for a sentinel."""
    _check_sentinel(agent_id)
    async with ctx.db.connection() as conn:
        row = _found(await store.get(conn, agent_id), agent_id)
        counts = Dependents(**await store.dependents(conn, agent_id))
    return Preflight(agent_id, row["retired_at"], blocked=not counts.none, counts=counts)


async def retire(
    ctx: Context, actor: Actor, agent_id: str, *, force: bool, reason: str, request_id: str
) -> Retirement | None:
    """Retire an agent; None when that was done before.

    Raises ``Forbidden`` for a sentinel, ``InvalidInput`` for force without a reason, and ``Conflict`` with the counts
    when something depends on the agent and there is no force.
    """
    _check_sentinel(agent_id)
    if force and not reason.strip():
        raise InvalidInput.of("reason", "is required with force: it is kept with every job that is cancelled")
    async with ctx.db.transaction() as tx:
        await changes.hold_certificates_of(tx, agent_id)
        await store.await_the_held_off(tx, agent_id)
        row = _found(await store.get(tx, agent_id, lock=True), agent_id)
        if row["retired_at"] is not None:
            return None
        counts = Dependents(**await store.dependents(tx, agent_id))
        if not (counts.none or force):
            raise _blocked(row, counts)
        done = await _carry_through(tx, row, counts, reason)
        details = audit.described(done, name=row["name"], reason=reason)
        await audit.record(tx, actor, "agent.retired", "agent", agent_id, details, request_id)
        tx.after_commit(lambda: ctx.polls.end(agent_id))
        crash_point("agent.retired")
    crash_point("agent.retirement_committed")
    return done


async def _carry_through(tx: Transaction, row: Row, counts: Dependents, reason: str) -> Retirement:
    agent_id = row["id"]
    why = f"agent {row['name']} ({agent_id}) was retired" + (f": {reason}" if reason else "")
    released = await changes.release_agent(tx, agent_id, Failure("retired", why, transient=False))
    target_ids = await targets.archive_all(tx, agent_id, why)
    retired_at = await store.retire(tx, agent_id, reason)
    return Retirement(agent_id, retired_at, not counts.none, counts, target_ids, released.without_holder)


def _blocked(row: Row, counts: Dependents) -> Conflict:
    found = f"{counts.active_targets} targets, {counts.active_certificates} certificates, {counts.pending_jobs} jobs"
    detail = f"{row['id']} ({row['name']}) has {found}; move them first, or retire it with force and a reason"
    return Conflict(detail, members={"counts": counts})


def _found(row: Row | None, agent_id: str) -> Row:
    if row is None:
        detail = f"there is no agent {agent_id}"
        raise NotFound(detail)
    return row


def _check_sentinel(agent_id: str) -> None:
    if agent_id in SENTINELS:
        detail = f"{agent_id} is no host: it stands for a part of the coordinator and cannot be retired"
        raise Forbidden(detail)
