"""Sealing: events become part of a chain of signed batches, without anybody who writes one waiting for it.

Ids and commits come in different orders, so a batch cannot end at an id. It ends at a transaction id below which every
transaction has ended (the snapshot's xmin): nothing can be added to such a range any more. A writer only stores its
event; one coordinator seals, holding a lock on the end of the chain, so that there is one chain.

A transaction that stays open anywhere on the server holds back what came after it; that is told in the log.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.audit import store
from coordinator.audit.webhook import Webhook
from coordinator.database.connection import Transaction
from coordinator.database.driver import Record as Row
from coordinator.database.sealed import SealedColumn
from coordinator.files import alone_in, write_durably
from core import trail
from core.crash import crash_point
from core.errors import Misconfigured, Refused
from core.keys import ed25519_public_pem
from core.secret import Secret
from core.wire import AuditHead

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.context import Context

log = structlog.get_logger()
MOST_EVENTS = 5000
"""A batch ends after the transaction that has this event."""
EXPORTING = "audit-heads"
"""The topic that wakes whoever passes heads on."""
_HELD_BACK_S = 10.0
_ANOTHER_LOOK_S = 0.25


@dataclass
class Trail:
    """What this process knows of the chain; ``head`` is the newest that it has seen."""

    key: Ed25519PrivateKey | None = None
    key_id: str = ""
    head: AuditHead | None = None
    public_keys: dict[str, bytes] = field(default_factory=dict)
    weaknesses: tuple[str, ...] = ()
    told: bool = False
    open_since: float | None = None
    webhook: Webhook | None = None


async def begin(ctx: Context, tx: Transaction) -> None:
    """Begin a new era if this is another cluster than before, and have the key at hand. Comes before any event."""
    if (era := await store.begin_era(tx)) > 1:
        log.debug("audit_era", era=era)
    await ensure_key(ctx, tx)


async def ensure_key(ctx: Context, tx: Transaction) -> None:
    """Make the sealing key at the first start; open it, and bring it under the current encryption key."""
    if not await store.keys(tx):
        made = Ed25519PrivateKey.generate()
        public = made.public_key().public_bytes_raw()
        name = trail.key_id(public)
        await store.insert_key(tx, name, public, ctx.sealer.seal(Secret(made.private_bytes_raw()), place(name)))
        crash_point("start.audit_key")
    for row in reversed(await store.keys(tx)):
        envelope = bytes(row["sealed_key"])
        ctx.trail.key = Ed25519PrivateKey.from_private_bytes(ctx.sealer.open(envelope, place(row["id"])).reveal())
        ctx.trail.key_id = row["id"]
        ctx.trail.public_keys[row["id"]] = ctx.trail.key.public_key().public_bytes_raw()
        sealed = ctx.sealer.sealed_anew(envelope, place(row["id"]))
        if sealed is not None:
            await store.save_sealed_key(tx, row["id"], sealed)
            crash_point("start.audit_key_resealed")


def place(key_id: str) -> str:
    """Return the name under which a sealing key is sealed."""
    return f"audit_keys/{key_id}"


SEALED = SealedColumn("audit_keys", ("id",), "sealed_key", lambda row: place(row["id"]))


def export_key(ctx: Context, path: Path) -> None:
    """Write the public key, by which others can check heads, unless it stands there already."""
    assert ctx.trail.key is not None  # noqa: S101 - ensure_key() came before
    pem = ed25519_public_pem(ctx.trail.key.public_key())
    try:
        with alone_in(path.parent):
            if not path.exists() or path.read_bytes() != pem:
                write_durably(path, pem, mode=0o644)
    except OSError as error:
        raise Misconfigured(f"CERTCTL_DATA_DIR: {path} cannot be written ({error.strerror})") from error


async def seal(ctx: Context, interval_s: float) -> float:
    """Seal what can be sealed now, as one batch unless it is very much; return the seconds until another look."""
    if not ctx.trail.told:
        # A predecessor may have died between a commit and its line in the log; this head stands for all before it.
        await refresh_head(ctx)
        ctx.trail.told = True
        if ctx.trail.head is not None:
            log.info("audit_sealed", **_told(ctx.trail.head))
    while True:
        head, left = await _seal_batch(ctx)
        _watch(ctx.trail, left=left and head is None)
        if head is None:
            return _ANOTHER_LOOK_S if left else interval_s
        crash_point("audit.sealed")
        ctx.trail.head = head
        log.info("audit_sealed", **_told(head))
        ctx.db.wakeups.notify([EXPORTING])
        if head.events < MOST_EVENTS:
            return _ANOTHER_LOOK_S


def _told(head: AuditHead) -> dict[str, object]:
    return {
        "number": head.number,
        "head": head.head,
        "events": head.events,
        "key_id": head.key_id,
        "signature": head.signature.hex(),
        "sealed_at": head.sealed_at.isoformat(),
    }


def _watch(state: Trail, *, left: bool) -> None:
    """Tell once when events stay unsealed for long."""
    now = time.monotonic()
    if not left:
        state.open_since = None
    elif state.open_since is None:
        state.open_since = now
    elif now - state.open_since > _HELD_BACK_S:
        log.warning("audit_sealing_held_back", remedy="end the oldest transaction of this PostgreSQL that writes")
        state.open_since = now + 60 - _HELD_BACK_S


async def _seal_batch(ctx: Context) -> tuple[AuditHead | None, bool]:
    """Seal one batch; return its head, or None and whether events were left for later."""
    assert ctx.trail.key is not None  # noqa: S101 - nothing is served before ensure_key()
    async with ctx.db.transaction() as tx:
        if not await store.lock_chain(tx):
            return None, True
        last = await store.newest_batch(tx)
        if last is not None:
            _check_end(ctx.trail, last)
        found = await _range(tx, last["era"] if last else 1, last["to_xact"] if last else 0)
        if isinstance(found, bool):
            return None, found
        era, from_xact, to_xact = found
        leaves = [trail.leaf_of(event) async for event in store.events_in(tx, era, from_xact, to_xact)]
        batch = trail.Batch(
            number=last["number"] + 1 if last else 1,
            era=era,
            from_xact=from_xact,
            to_xact=to_xact,
            leaves=trail.pack(leaves),
            previous=last["head"] if last else trail.FIRST,
            key_id=ctx.trail.key_id,
            sealed_at=await store.now(tx),
        )
        head = batch.head()
        signature = trail.sign_head(ctx.trail.key, head)
        await store.insert_batch(tx, batch, head, signature)
        crash_point("audit.sealing")
    return head_of(batch, head, signature), False


def _check_end(state: Trail, last: Row) -> None:
    """Raise ``Refused`` when the end of the chain is not of this installation: nothing is chained to a forgery."""
    batch = batch_of(last)
    public = state.public_keys.get(batch.key_id, b"")
    if batch.head() != last["head"] or not trail.is_signed_head(public, last["signature"], last["head"]):
        detail = (
            f"batch {batch.number}, the newest of the audit trail, was not sealed by this installation; nothing is "
        )
        raise Refused(f"{detail}sealed until it is gone: see what 'certctl-coordinator audit verify' says")


async def _range(tx: Transaction, era: int, from_xact: int) -> tuple[int, int, int] | bool:
    """Return era and range of the next batch; without one, whether events wait for a transaction to end."""
    current = await store.era(tx)
    while era < current:
        # Of an era that is over nothing can come any more, whatever its transaction ids are.
        last = await store.last_xact(tx, era, from_xact)
        if last is not None:
            return era, from_xact, await _bounded(tx, era, from_xact, last + 1)
        era, from_xact = era + 1, 0
    first = await store.xact_of(tx, era, from_xact, 0)
    if first is None:
        return False
    settled = await store.settled(tx)
    if settled <= first:
        return True
    return era, from_xact, await _bounded(tx, era, from_xact, settled)


async def _bounded(tx: Transaction, era: int, from_xact: int, to_xact: int) -> int:
    beyond = await store.xact_of(tx, era, from_xact, MOST_EVENTS)
    return to_xact if beyond is None else min(to_xact, beyond + 1)


def head_of(batch: trail.Batch, head: bytes, signature: bytes) -> AuditHead:
    """Return what others are told of a batch."""
    return AuditHead(batch.number, head.hex(), batch.events, batch.key_id, signature, batch.sealed_at)


async def refresh_head(ctx: Context) -> None:
    """Learn the newest head, whichever coordinator sealed it."""
    async with ctx.db.connection() as conn:
        row = await store.newest_head(conn)
    ctx.trail.head = None if row is None else AuditHead(**row)


def batch_of(row: Row) -> trail.Batch:
    """Return a stored batch."""
    return trail.Batch(**{name: row[name] for name in trail.Batch._fields})
