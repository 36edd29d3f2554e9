"""Orders in hand: taken by one coordinator at a time, worked off beside its requests and beside each other.

What a taker does is stored under its epoch; a coordinator that was cut off and comes back has no say any more. A dead
one's orders are taken by another after half a minute and go on from what was stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from connectors.issuers.acme.problems import AccountUnknown
from coordinator.access.service import SYSTEM
from coordinator.audit import service as audit
from coordinator.bindings import service as bindings
from coordinator.database.connection import Transaction
from coordinator.database.driver import Record as Row
from coordinator.encryption.naming import is_gone
from coordinator.issuance import service as issuance
from coordinator.jobs import service as jobs
from coordinator.metrics import service as metrics
from coordinator.ordering import accounts, challenges, obtaining, renewing, store
from coordinator.ordering.accounts import Authorities
from coordinator.ordering.obtaining import Obtained, TakenOver
from coordinator.ordering.queue import ORDERS_TOPIC, RENEWALS_TOPIC
from core.crash import crash_point
from core.errors import CertctlError, Transient
from core.renewal import retry_delay
from core.states import JobState
from core.wire import Failure

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger()
AT_ONCE = 64
HOLD, _HOLD_AGAIN_S = timedelta(seconds=30), 10.0
TRIED_FOR = timedelta(hours=24)
"""How long an order is tried before the attempt counts as failed and a new one, with a new key, is queued."""
_LONGEST_PAUSE = timedelta(minutes=15)


@dataclass
class Ordering:
    """What this coordinator has in hand."""

    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    authorities: Authorities = field(default_factory=Authorities)

    async def stop(self) -> None:
        """Leave what is in hand where it is, and close all connections."""
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        await self.authorities.close_all()


async def take_up(ctx: Context) -> float | None:
    """Take orders whose time has come; return the seconds to the next. Keys of accounts are changed here as well."""
    await accounts.roll_over(ctx)
    room = AT_ONCE - len(ctx.ordering.tasks)
    if room <= 0:
        return None  # whichever ends first wakes this loop
    async with ctx.db.transaction() as tx:
        if gone := [name for name in await store.holders(tx) if is_gone(name)]:
            await store.release(tx, gone)
        taken = await store.claim(tx, room, ctx.name, HOLD)
    crash_point("ca_order.taken")
    for row in taken:
        task = asyncio.create_task(_work(ctx, row["id"], row["epoch"]))
        ctx.ordering.tasks[row["id"]] = task
        task.add_done_callback(functools.partial(_done, ctx, row["id"]))
    async with ctx.db.connection() as conn:
        return await store.seconds_to_next(conn)


def _done(ctx: Context, order_id: str, _task: asyncio.Task[None]) -> None:
    was_full = len(ctx.ordering.tasks) >= AT_ONCE
    ctx.ordering.tasks.pop(order_id, None)
    if was_full and not ctx.db.wakeups.closed:
        ctx.db.wakeups.notify([ORDERS_TOPIC])


async def _work(ctx: Context, order_id: str, epoch: int) -> None:
    try:
        async with ctx.db.connection() as conn:
            row = await store.order(conn, order_id, epoch)
        if row is None:
            return
        holding = asyncio.create_task(_hold(ctx, order_id, epoch))
        try:
            await _attempt(ctx, row)
        finally:
            holding.cancel()
    except TakenOver as error:
        log.info("order_left", order_id=order_id, detail=error.detail)
    except Exception:
        log.exception("order_crashed", order_id=order_id)  # it is taken up again when its time here is over


async def _hold(ctx: Context, order_id: str, epoch: int) -> None:
    """Keep an order while it is worked on."""
    while True:
        await asyncio.sleep(_HOLD_AGAIN_S)
        with contextlib.suppress(Transient):
            async with ctx.db.transaction() as tx:
                await store.hold(tx, order_id, epoch, HOLD)


async def _attempt(ctx: Context, row: Row) -> None:
    if row["job_state"] != JobState.AWAITING_CA:
        await _end(ctx, row, "abandoned", f"its job is {row['job_state']}")
        return
    try:
        obtained = await obtaining.obtain(ctx, row)
    except TakenOver:
        raise
    except AccountUnknown as error:
        await accounts.forget_address(ctx, row["issuer_id"])
        await _later(ctx, row, Transient(error.detail))
    except CertctlError as error:
        passes = isinstance(error, Transient) and await _is_open(ctx, row)
        if isinstance(error, Transient) and passes and ctx.clock.now() - row["created_at"] < TRIED_FOR:
            await _later(ctx, row, error)
        else:
            await _failed(ctx, row, error)
    else:
        await _issued(ctx, row, obtained)


async def _is_open(ctx: Context, row: Row) -> bool:
    """Say whether the authority may still end the order well."""
    async with ctx.db.connection() as conn:
        now = await store.order(conn, row["id"], row["epoch"])
    return now is not None and (now["state"] is None or now["state"]["status"] != "invalid")


async def _later(ctx: Context, row: Row, error: Transient) -> None:
    delay = max(retry_delay(row["failures"] + 1, longest=_LONGEST_PAUSE), timedelta(seconds=error.retry_after_s))
    log.info("order_waits", order_id=row["id"], wait_s=round(delay.total_seconds(), 1), detail=error.detail)
    async with ctx.db.transaction() as tx:
        await store.postpone(tx, row["id"], row["epoch"], delay, error.detail, 1)
        tx.wake(ORDERS_TOPIC)


async def _issued(ctx: Context, row: Row, obtained: Obtained) -> None:
    async with ctx.db.transaction() as tx:
        job = await _locked_job(tx, row)
        if job is not None:
            version_id = await issuance.ordered(ctx, tx, job, obtained.chain, obtained.issuer_id)
            if version_id is not None and job["agent_id"] is not None:
                await renewing.watch(tx, row["certificate_id"], job["agent_id"], version_id, obtained.issuer_id)
        if not await store.end(tx, row["id"], row["epoch"], "issued" if job is not None else "abandoned", ""):
            detail = f"order {row['id']} was taken by another coordinator"
            raise TakenOver(detail)
        tx.wake(RENEWALS_TOPIC)
        crash_point("ca_order.issued")


async def _failed(ctx: Context, row: Row, error: CertctlError) -> None:
    metrics.not_issued("acme", error)
    await _end(ctx, row, "failed", error.detail, Failure("authority", error.detail, isinstance(error, Transient)))


async def _end(ctx: Context, row: Row, status: str, problem: str, failure: Failure | None = None) -> None:
    """End an order without a certificate, with its job if that is still there; the next attempt is queued."""
    async with ctx.db.transaction() as tx:
        job = await _locked_job(tx, row)
        if not await store.end(tx, row["id"], row["epoch"], status, problem):
            return
        if job is not None and failure is not None:
            await bindings.issuance_failed(tx, job, failure)
            details = {"order_id": row["id"], "job_id": row["job_id"], "cause": problem}
            await audit.record(tx, SYSTEM, "ca_order.failed", "certificate", row["certificate_id"], details)
        crash_point("ca_order.ended")
    await challenges.take_away(ctx, row["id"], row["issuer_id"])


async def _locked_job(tx: Transaction, row: Row) -> Row | None:
    """Return the order's job, locked behind its certificate, unless it has ended."""
    await bindings.lock_certificate_of(tx, row["job_id"])
    job = await jobs.lock(tx, row["job_id"])
    return job if job["state"] == JobState.AWAITING_CA else None
