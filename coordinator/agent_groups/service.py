"""Who is put into a group or kept out of it, and what follows from a change of one."""

from __future__ import annotations

from typing import Literal

from coordinator.agent_groups import store
from coordinator.audit import service as audit
from coordinator.database import driver
from coordinator.database.connection import Transaction
from coordinator.database.driver import Record as Row
from coordinator.renewal_policies import service as renewal_policies
from coordinator.web.table import Actor
from core.errors import NotFound

Membership = Literal["include", "exclude"]


async def changed(tx: Transaction, row: Row, before: Row | None) -> None:
    """Tell the renewal policies that are about a changed group."""
    if before is not None:
        await renewal_policies.group_changed(tx, row["id"])


async def set_member(
    tx: Transaction, actor: Actor, group_id: str, agent_id: str, membership: Membership, request_id: str
) -> None:
    """Put an agent into a group or keep it out, whatever it says of its host; raise ``NotFound``."""
    try:
        async with tx.savepoint():
            await store.set_member(tx, group_id, agent_id, membership)
    except driver.ForeignKeyViolation as error:
        detail = f"there is no agent {agent_id}"
        raise NotFound(detail) from error
    details = {"agent_id": agent_id, "membership": membership}
    await audit.record(tx, actor, "agent_group.member_set", "agent_group", group_id, details, request_id)
    await renewal_policies.agent_changed(tx, agent_id)


async def forget_member(tx: Transaction, actor: Actor, group_id: str, agent_id: str, request_id: str) -> None:
    """Let what an agent says of its host decide again; raise ``NotFound`` when it already does."""
    if not await store.forget_member(tx, group_id, agent_id):
        detail = f"agent {agent_id} is on no list of group {group_id}"
        raise NotFound(detail)
    details = {"agent_id": agent_id}
    await audit.record(tx, actor, "agent_group.member_forgotten", "agent_group", group_id, details, request_id)
    await renewal_policies.agent_changed(tx, agent_id)
