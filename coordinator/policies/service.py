"""Holding certificates against the rules: when one is wanted or changed, at the gate, all of them when a rule changes.

A rule that warns stores a violation; one that blocks refuses as well. What is stored is what is so: a violation closes
itself with the next look that finds it mended. Looks at many certificates are made by a loop, in batches, along marks
that changes leave behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from coordinator.database.connection import Transaction
from coordinator.database.driver import Record as Row
from coordinator.notifications import service as notifications
from coordinator.notifications.service import Event
from coordinator.policies import store
from coordinator.policies.rules import Wanted, read_rule
from core.crash import crash_point
from core.errors import FieldError, Refused
from core.ids import new_id

if TYPE_CHECKING:
    from coordinator.context import Context

RULES_TOPIC = "rules"
_BATCH = 500


async def check(tx: Transaction, certificate_id: str) -> None:
    """Hold a certificate as it stands in this transaction against every rule.

    Stores and closes its violations; raises ``Refused`` that names each rule that blocks it, which undoes whatever the
    transaction had changed. Call it after the change.
    """
    rules = await store.enabled(tx)
    if not rules:
        return
    row = await store.wanted(tx, certificate_id)
    assert row is not None  # noqa: S101 - the caller has it locked, or has just made it
    wrong = await _judge(tx, rules, [_wanted(row)])
    blocked = [
        FieldError(problem.field, f"{problem.problem} (rule {rule['name']!r}, {rule['id']})")
        for rule, problem in wrong
        if rule["enforce"] == "block"
    ]
    if blocked:
        raise Refused("; ".join(f"{each.field} {each.problem}" for each in blocked), errors=tuple(blocked))
    if wrong:
        await _tell_people(tx, certificate_id)


async def _tell_people(tx: Transaction, certificate_id: str) -> None:
    """Queue a message for each violation that this transaction opened."""
    for row in await store.just_opened(tx, certificate_id):
        event = Event(
            key=f"violation:{row['id']}",
            type="policy_violation",
            severity=row["severity"],
            subject=f"{certificate_id} breaks the rule {row['name']!r}",
            message=f"{row['message']} (rule {row['rule_id']})",
            certificate_id=certificate_id,
        )
        await notifications.tell(tx, event)


async def note(tx: Transaction, certificate_ids: Sequence[str]) -> None:
    """Hold certificates that are simply there against every rule: violations are stored, and nothing is refused."""
    rules = await store.enabled(tx)
    if rules and certificate_ids:
        await _judge(tx, rules, [_wanted(row) for row in await store.wanted_all(tx, certificate_ids)])


async def _judge(tx: Transaction, rules: Sequence[Row], certificates: Sequence[Wanted]) -> list[tuple[Row, FieldError]]:
    """Store and close the violations of certificates by rules; return what is wrong with which rule."""
    wrong: list[tuple[Row, FieldError]] = []
    found: list[dict[str, str]] = []
    kept: list[tuple[str, str]] = []
    for rule in rules:
        told = read_rule(rule["type"], rule["config"])
        about = {"rule_id": rule["id"], "severity": rule["severity"], "field": told.field}
        for wanted in certificates:
            problem = told.problem(wanted) if rule["enabled"] and not wanted.archived else ""
            if problem:
                wrong.append((rule, FieldError(told.field, problem)))
                message = f"{told.field} {problem}"
                found.append({**about, "id": new_id("vio"), "certificate_id": wanted.id, "message": message})
            else:
                kept.append((rule["id"], wanted.id))
    if found:
        await store.open_violations(tx, found)
    if kept:
        await store.close_violations(tx, kept)
    return wrong


def _wanted(row: Row) -> Wanted:
    return msgspec.convert(dict(row.items()), Wanted)


async def rule_changed(tx: Transaction, row: Row, _before: Row | None) -> None:
    """Have every certificate held against a new or changed rule; one that was switched off closes its violations."""
    await store.mark(tx, row["id"])
    tx.wake(RULES_TOPIC)


async def owner_changed(tx: Transaction, row: Row, before: Row | None) -> None:
    """Have certificates held again against the rules about owners, when one can be written to or no longer."""
    if before is not None and bool(row["email"]) != bool(before["email"]):
        await _look_again(tx, "required_owner")


async def renewal_policy_changed(tx: Transaction, row: Row, before: Row | None) -> None:
    """Have certificates held again against the rules about renewal, when a policy renews at another time."""
    if before is not None and any(row[name] != before[name] for name in ("auto_renew", "days_before")):
        await _look_again(tx, "minimum_renewal_window")


async def _look_again(tx: Transaction, *types: str) -> None:
    if await store.mark_types(tx, types):
        tx.wake(RULES_TOPIC)


async def scan(ctx: Context) -> bool:
    """Hold one batch of certificates against one marked rule; say whether there was one. Any replica may run it."""
    async with ctx.db.transaction() as tx:
        rule = await store.next_scan(tx)
        if rule is None:
            return False
        rows = await store.wanted_after(tx, rule["after_id"], _BATCH)
        await _judge(tx, [rule], [_wanted(row) for row in rows])
        await store.scanned(tx, rule["id"], rows[-1]["id"] if len(rows) == _BATCH else None)
        crash_point("rules.scanned")
    return True
