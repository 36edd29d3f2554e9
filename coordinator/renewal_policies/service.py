"""When a policy renews. A change of one reaches all that it is about, step by step, whoever dies meanwhile.

Renewal times are stored with the holders. What changes them – a policy, a group it is about, what an agent says of its
host – only leaves a mark; the renewals loop follows the marks in batches, before it looks at what is due.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from coordinator.database.connection import Transaction
from coordinator.database.driver import Record as Row
from coordinator.renewal_policies import store
from core import renewal
from core.crash import crash_point

if TYPE_CHECKING:
    from coordinator.context import Context

RENEWALS_TOPIC = "renewal-check"
"""Wakes whoever looks at which certificates are due."""
_BATCH = 500
_DECIDES = ("auto_renew", "days_before", "agent_group_id")
"""The fields that renewal times follow from; the others are read when they are needed."""


async def renewal_time(
    tx: Transaction, policy_id: str, agent_id: str, validity: tuple[datetime, datetime], issued_at: datetime
) -> datetime | None:
    """Return when what an agent was given is due; None when it waits for a person to ask."""
    rule = await store.rule_for(tx, policy_id, agent_id)
    assert rule is not None  # noqa: S101 - the certificate's foreign key
    return _due(rule, *validity, issued_at)


def _due(rule: Row, not_before: datetime, not_after: datetime, issued_at: datetime) -> datetime | None:
    if not (rule["auto_renew"] and rule["in_scope"]):
        return None
    return renewal.renew_at(not_before, not_after, issued_at, rule["days_before"])


async def policy_changed(tx: Transaction, row: Row, before: Row | None) -> None:
    """Have renewal times computed anew when a changed policy has others; a new one has no certificates yet."""
    if before is not None and any(row[name] != before[name] for name in _DECIDES):
        await store.mark_policy(tx, row["id"])
        tx.wake(RENEWALS_TOPIC)


async def group_changed(tx: Transaction, group_id: str) -> None:
    """Have renewal times computed anew under the policies that are about a group."""
    if await store.mark_group(tx, group_id):
        tx.wake(RENEWALS_TOPIC)


async def agent_changed(tx: Transaction, agent_id: str) -> None:
    """Have renewal times computed anew of what an agent holds, since it may be in other groups now."""
    if await store.mark_agent(tx, agent_id):
        tx.wake(RENEWALS_TOPIC)


async def certificate_changed(tx: Transaction, certificate_id: str) -> None:
    """Compute a certificate's renewal times anew: call it when one has been given another policy."""
    await store.hold_policy_of(tx, certificate_id)
    await _plan(tx, [certificate_id])
    tx.wake(RENEWALS_TOPIC)


async def renew_at(tx: Transaction, certificate_id: str, agent_id: str, version_id: str, moment: datetime) -> None:
    """Renew a version at a moment that its authority wants, unless renewal is switched off for it."""
    if await store.set_renew_at(tx, certificate_id, agent_id, version_id, moment):
        tx.wake(RENEWALS_TOPIC)


async def _plan(tx: Transaction, certificate_ids: Sequence[str]) -> None:
    holders = await store.holders_to_plan(tx, certificate_ids)
    times = [(row, _due(row, row["not_before"], row["not_after"], row["issued_at"])) for row in holders]
    await store.set_renewal_times(tx, times)


async def replan(ctx: Context) -> bool:
    """Follow one mark for one batch; say whether there was one. Any replica may run it at any time."""
    async with ctx.db.transaction() as tx:
        mark = await store.next_replan(tx)
        if mark is None:
            return False
        certificate_ids = await store.certificates_of(tx, mark, _BATCH)
        await store.lock_certificates(tx, certificate_ids)
        await _plan(tx, certificate_ids)
        await store.replanned(tx, mark, certificate_ids[-1] if len(certificate_ids) == _BATCH else None)
        crash_point("renewal.planned")
    return True
