"""Operations: chosen once, then done item by item, each exactly once in its effect, whoever dies meanwhile.

What is to be done is a set of rows, taken in one statement: by a dry run, which is a plan that may be started as long
as it has not expired, or by the request itself. A loop works it off in batches. What is done to a certificate and what
is said of its item are one transaction, so a batch that is lost is done again and counts stay exact.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from coordinator.access.service import SYSTEM
from coordinator.audit import service as audit
from coordinator.bindings import service as bindings
from coordinator.certificates import revocation
from coordinator.certificates import service as certificates
from coordinator.certificates.service import Caller
from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Scope
from coordinator.limits import service as limits
from coordinator.operations import store
from coordinator.operations.store import Outcome
from coordinator.web.table import Actor
from core.crash import crash_point
from core.errors import Conflict, NotFound, Permanent
from core.ids import new_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordinator.context import Context

OPERATIONS_TOPIC = "operations"
Kind = Literal["renew", "revoke", "reassign", "deploy"]
PLAN_LIFETIME = timedelta(minutes=15)
_KEPT = timedelta(days=90)
_PLANS, _PLANS_PER = 60, timedelta(minutes=10)
_BATCH, _LEFT, _FORGOTTEN = 25, 5_000, 10_000
"""Items done, left undone and forgotten in one transaction."""


class Chosen(NamedTuple):
    """Which certificates are meant: those of the list's ``filters``, or these ``ids``; ``told`` is how it was asked."""

    filters: Mapping[str, Any]
    ids: Sequence[str] | None
    told: dict[str, Any]


def topic(operation_id: str) -> str:
    """Return the wake-up topic of those who follow an operation."""
    return f"operation:{operation_id}"


async def plan(tx: Transaction, caller: Caller, kind: Kind, options: Mapping[str, Any], chosen: Chosen) -> str:
    """Take down what an operation is about; return its id. Nothing is done until it is started."""
    await limits.take(tx, "operations planned", str(caller.actor), _PLANS, _PLANS_PER)
    operation_id, scope = new_id("op"), caller.actor.scope
    await store.insert(tx, {**_row(operation_id, caller, kind, options), "criteria": chosen.told})
    matching, values = certificates.matching(chosen.filters, scope)
    if chosen.ids is None:
        total = await store.add_matching(tx, operation_id, matching, values)
    else:
        total = await store.add_named(tx, operation_id, chosen.ids, matching, values)
    await store.chosen(tx, operation_id, total, PLAN_LIFETIME)
    return operation_id


async def start(tx: Transaction, caller: Caller, kind: Kind, options: Mapping[str, Any], operation_id: str) -> None:
    """Start a plan. Raises ``NotFound`` unless it is the caller's, ``Conflict`` when it cannot be started any more."""
    if not await store.start(tx, _row(operation_id, caller, kind, options)):
        raise await _not_startable(tx, caller.actor, kind, operation_id)
    row = await _row_of(tx, operation_id)
    details = {"kind": kind, "total": row["total"], **row["criteria"], **options}
    await _record(tx, caller.actor, "started", operation_id, audit.Described(details), caller.request_id)
    if row["finished_at"] is not None:
        await _ended(tx, row)
    tx.wake(OPERATIONS_TOPIC)
    crash_point("operation.started")


async def _not_startable(tx: Transaction, actor: Actor, kind: Kind, operation_id: str) -> Permanent:
    row = await store.get(tx, operation_id)
    if row is None or row["actor"] != str(actor):
        return NotFound(f"there is no snapshot {operation_id}, or it has expired; ask for one with dry_run")
    if row["kind"] != kind:
        return Conflict(f"snapshot {operation_id} was made to {row['kind']}; ask for another one with dry_run")
    if row["state"] != "planned":
        return Conflict(f"snapshot {operation_id} was used already: the operation is {row['state']}")
    return Conflict(f"snapshot {operation_id} has expired; look at what matches now with dry_run")


def _row(operation_id: str, caller: Caller, kind: Kind, options: Mapping[str, Any]) -> dict[str, Any]:
    teams, environments = caller.actor.scope
    return {
        "id": operation_id,
        "kind": kind,
        "actor": str(caller.actor),
        "teams": teams,
        "environments": environments,
        "request_id": caller.request_id,
        "options": options,
    }


async def sample(conn: Connection, operation_id: str, limit: int) -> list[Row]:
    """Return a few of the certificates that an operation is about."""
    return await store.sample(conn, operation_id, limit)


async def cancel(tx: Transaction, caller: Caller, row: Row) -> None:
    """Leave undone what waits of a locked operation; what is in hand is finished.

    Raises ``Conflict`` for one that is completed; one that was cancelled already stays as it is.
    """
    if row["state"] == "completed":
        detail = f"operation {row['id']} is completed, so there is nothing to cancel; its items say what was done"
        raise Conflict(detail)
    if row["state"] in {"planned", "running"}:
        await store.cancel(tx, row["id"])
        await _record(tx, caller.actor, "cancelled", row["id"], {"waiting": row["waiting"]}, caller.request_id)
        tx.wake(OPERATIONS_TOPIC, topic(row["id"]))
        crash_point("operation.cancelled")


async def work(ctx: Context) -> bool:
    """Do one batch of each operation; say whether there was anything to do. Any replica may run it at any time."""
    async with ctx.db.connection() as conn:
        rows = await store.live(conn)
    done = [await (_batch if row["state"] == "running" else _leave)(ctx, row) for row in rows]
    return any(done)


async def _batch(ctx: Context, operation: Row) -> bool:
    caller = Caller(_actor(operation), operation["request_id"])
    async with ctx.db.transaction() as tx:
        ids = await store.take(tx, operation["id"], _BATCH)
        if not ids:
            return False
        # All of them before anything else, in their order, as whoever locks several certificates does.
        rows = await certificates.locked_rows(tx, caller.actor, ids)
        await bindings.hold_holders(tx, ids)
        outcomes = [await _item(ctx, tx, caller, operation, each, rows.get(each)) for each in ids]
        await _finish(tx, operation["id"], outcomes)
        crash_point("operation.batch_done")
    return True


async def _item(
    ctx: Context, tx: Transaction, caller: Caller, operation: Row, certificate_id: str, row: Row | None
) -> Outcome:
    """Do what an operation does to one certificate; what does not work out undoes itself and nothing else."""
    if row is None:
        return Outcome(certificate_id, "failed", f"there is no certificate {certificate_id} for the caller any more")
    try:
        async with tx.savepoint():
            return Outcome(certificate_id, "succeeded", "", await _do(ctx, tx, caller, operation, row))
    except Conflict as error:
        return Outcome(certificate_id, "skipped", error.detail)
    except Permanent as error:
        return Outcome(certificate_id, "failed", error.detail)


async def _do(ctx: Context, tx: Transaction, caller: Caller, operation: Row, row: Row) -> list[str]:
    """Do it; return the jobs that follow. Raises ``Conflict`` where there is nothing to do."""
    options = operation["options"]
    match operation["kind"]:
        case "renew":
            return await certificates.renew(ctx, tx, caller, row)
        case "deploy":
            return await certificates.deploy(tx, caller, row)
        case "revoke":
            revoked = await revocation.revoke(ctx, tx, caller, row, options["reason"], renew=options["renew"])
            return revoked.job_ids
        case _:
            await certificates.reassign(tx, caller, row, options["owner_id"], options["team_id"])
            return []


async def _leave(ctx: Context, operation: Row) -> bool:
    """Leave some of what waits of a cancelled operation undone."""
    async with ctx.db.transaction() as tx:
        ids = await store.take(tx, operation["id"], _LEFT)
        if ids:
            await _finish(tx, operation["id"], [Outcome(each, "cancelled") for each in ids])
            crash_point("operation.batch_done")
    return bool(ids)


async def _finish(tx: Transaction, operation_id: str, outcomes: Sequence[Outcome]) -> None:
    await store.finish(tx, operation_id, outcomes)
    # Last: the operation's row is what workers on one operation have in common.
    row = await store.count(tx, operation_id, Counter(each.outcome for each in outcomes))
    if row["finished_at"] is not None:
        await _ended(tx, row)
    tx.wake(topic(operation_id))


async def _ended(tx: Transaction, row: Row) -> None:
    counts = {name: row[name] for name in ("total", "succeeded", "skipped", "failed", "cancelled")}
    await _record(tx, SYSTEM, "ended", row["id"], {"state": row["state"], **counts}, row["request_id"])


async def _record(
    tx: Transaction, actor: Actor, what: str, operation_id: str, details: Mapping[str, object], request_id: str
) -> None:
    await audit.record(tx, actor, f"operation.{what}", "operation", operation_id, details, request_id)


def _actor(operation: Row) -> Actor:
    """Return who started an operation, with what they could see then."""
    kind, _, actor_id = operation["actor"].partition(":")
    teams, environments = (None if seen is None else tuple(seen) for seen in _seen(operation))
    return Actor(kind=kind, id=actor_id, scope=Scope(teams, environments))


def _seen(operation: Row) -> tuple[list[str] | None, list[str] | None]:
    return operation["teams"], operation["environments"]


async def _row_of(tx: Transaction, operation_id: str) -> Row:
    row = await store.get(tx, operation_id)
    assert row is not None  # noqa: S101 - it was changed in this transaction
    return row


async def purge(ctx: Context) -> None:
    """Forget plans that have expired, and what ended long ago."""
    operation_id: str | None = ""
    while operation_id is not None:
        async with ctx.db.transaction() as tx:
            operation_id = await store.forgettable(tx, _KEPT)
            if operation_id is not None:
                await store.forget(tx, operation_id, _FORGOTTEN)
