"""Checking the whole trail against its own signatures, and against heads that were kept elsewhere.

What is looked at: the chain of batches (numbers, ranges, heads, signatures), each event against its leaf, events that
no batch accounts for, months that are missing. Only keys count whose private half opens with the coordinator's
encryption key: another one in the table is somebody else's.

Not seen without a head from elsewhere: that the newest batches were cut off; and never: an event that was added before
it was sealed, since that is what every genuine one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.audit import store
from coordinator.audit.sealing import batch_of, place
from coordinator.database.connection import Transaction
from coordinator.database.driver import Record as Row
from coordinator.database.pool import Database
from core import trail
from core.errors import CertctlError, Misconfigured
from core.sealing import Sealer

_PAGE = 50
Kind = Literal[
    "event changed",
    "event removed",
    "event inserted",
    "batch changed",
    "batch removed",
    "chain cut",
    "chain differs",
    "key foreign",
    "month foreign",
]


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it was sealed; ``batch`` and ``event`` are 0 where it is not about one."""

    kind: Kind
    detail: str
    batch: int = 0
    event: int = 0


class Verdict(msgspec.Struct):
    """What was looked at and what was found. ``head`` is the newest one; ``unsealed`` events are yet to be sealed."""

    findings: list[Finding] = msgspec.field(default_factory=list)
    batches: int = 0
    events: int = 0
    unsealed: int = 0
    expired: int = 0
    head: str = ""
    heads_compared: int = 0


@dataclass
class _Check:
    """One check under way. ``covered`` says how far each era is sealed."""

    keys: Mapping[str, bytes]
    months: frozenset[date]
    heads: Mapping[int, str]
    verdict: Verdict = field(default_factory=Verdict)
    covered: dict[int, int] = field(default_factory=dict)
    last: trail.Batch | None = None
    last_head: bytes = trail.FIRST
    last_is_sound: bool = True

    def found(self, kind: Kind, detail: str, batch: int = 0, event: int = 0) -> None:
        self.verdict.findings.append(Finding(kind, detail, batch, event))


async def verify(db: Database, sealer: Sealer, heads: Mapping[int, str]) -> Verdict:
    """Check everything in one snapshot; ``heads`` are kept ones by number, in hex."""
    async with db.transaction() as tx:
        await store.freeze(tx)
        check = _Check({}, frozenset(), heads)
        check.keys = dict(_trusted(check, await store.keys(tx), sealer))
        if not check.keys:
            raise Misconfigured(
                "no sealing key in the database opens with this encryption key: give the coordinator's own "
                "CERTCTL_CONFIG_ENCRYPTION_KEY or data folder; if that is the one, the key was removed or exchanged"
            )
        check.months = frozenset(_signed_months(check, await store.dropped_months(tx)))
        number = 0
        while rows := await store.batches(tx, number, _PAGE):
            for row in rows:
                await _batch(check, tx, row)
                number = row["number"]
        _cut(check, number)
        await _beyond(check, tx)
    return check.verdict


def _trusted(check: _Check, rows: list[Row], sealer: Sealer) -> Iterator[tuple[str, bytes]]:
    for row in rows:
        try:
            private = sealer.open(bytes(row["sealed_key"]), place(row["id"]))
            public = Ed25519PrivateKey.from_private_bytes(private.reveal()).public_key().public_bytes_raw()
        except (CertctlError, ValueError):
            check.found("key foreign", f"key {row['id']} was not made by this installation")
            continue
        if (row["id"], row["public_key"]) != (trail.key_id(public), public):
            check.found("key foreign", f"key {row['id']} is not the public half of what is sealed beside it")
        yield trail.key_id(public), public


def _signed_months(check: _Check, rows: list[Row]) -> Iterator[date]:
    for row in rows:
        public = check.keys.get(row["key_id"], b"")
        if trail.is_signed_month(public, row["signature"], row["month"], row["dropped_at"]):
            yield row["month"]
        else:
            detail = f"that retention removed {row['month']:%Y-%m} is not signed by this installation"
            check.found("month foreign", detail)


async def _batch(check: _Check, tx: Transaction, row: Row) -> None:
    """Check one batch: its place in the chain, its signature, its events."""
    batch, expected = batch_of(row), (check.last.number if check.last else 0) + 1
    for number in range(expected, batch.number)[:1000]:
        check.found("batch removed", f"batch {number} is missing", number)
    check.verdict.batches += 1
    wrong = _what_is_wrong(check, batch, row)
    if wrong:
        check.found("batch changed", f"batch {batch.number}: {wrong}", batch.number)
    kept = check.heads.get(batch.number)
    if kept is not None:
        check.verdict.heads_compared += 1
        if kept != row["head"].hex():
            detail = f"batch {batch.number} has the head {row['head'].hex()}; the one that was kept is {kept}"
            check.found("chain differs", detail, batch.number)
    if not wrong:
        await _events(check, tx, batch)
    check.covered[batch.era] = max(batch.to_xact, check.covered.get(batch.era, 0))
    check.last, check.last_head, check.last_is_sound = batch, row["head"], not wrong
    check.verdict.head = row["head"].hex()


def _what_is_wrong(check: _Check, batch: trail.Batch, row: Row) -> str:
    """Return why a batch is not what was sealed; empty when it is."""
    if batch.head() != row["head"] or batch.events != row["events"] or not _whole(batch.leaves):
        return "its fields do not give its head"
    if not trail.is_signed_head(check.keys.get(batch.key_id, b""), row["signature"], row["head"]):
        return "its head is not signed by this installation"
    follows = batch.number == (check.last.number if check.last else 0) + 1
    if follows and check.last_is_sound:
        if batch.previous != check.last_head:
            return "it does not follow the head of the batch before"
        before = (check.last.era, check.last.to_xact) if check.last else (batch.era, 0)
        start = before[1] if batch.era == before[0] else 0
        if batch.era < before[0] or batch.from_xact != start:
            return "its range does not follow that of the batch before"
    return ""


def _whole(leaves: bytes) -> bool:
    try:
        return sum(1 for _ in trail.unpack(leaves)) > 0
    except ValueError:
        return False


async def _events(check: _Check, tx: Transaction, batch: trail.Batch) -> None:
    """Compare the events of a batch's range with its leaves."""
    sealed = {leaf.id: leaf for leaf in trail.unpack(batch.leaves)}
    number = batch.number
    async for event in store.events_in(tx, batch.era, batch.from_xact, batch.to_xact):
        leaf = sealed.pop(event.id, None)
        if leaf is None:
            detail = f"event {event.id} ({event.action} by {event.actor}) was added to batch {number} after its sealing"
            check.found("event inserted", detail, number, event.id)
            continue
        check.verdict.events += 1
        if trail.leaf_of(event) != leaf:
            detail = f"event {event.id} ({event.action} by {event.actor}) was changed after batch {number} sealed it"
            check.found("event changed", detail, number, event.id)
    for leaf in sealed.values():
        if leaf.month in check.months:
            check.verdict.expired += 1
        else:
            check.found("event removed", f"event {leaf.id} of batch {number} is missing", number, leaf.id)


def _cut(check: _Check, newest: int) -> None:
    """See whether there are heads of batches beyond the end."""
    beyond = sorted(number for number in check.heads if number > newest)
    if beyond:
        detail = f"the chain ends at batch {newest}; heads up to batch {beyond[-1]} were kept elsewhere"
        check.found("chain cut", detail, newest + 1)


async def _beyond(check: _Check, tx: Transaction) -> None:
    """Look at the events that no batch's range has."""
    current = await store.era(tx)
    for event_id in await store.strays(tx, check.covered, current):
        check.found("event inserted", f"event {event_id} is of an era that was over before it came", 0, event_id)
    check.verdict.unsealed = await store.unsealed(tx, current, check.covered.get(current, 0))
