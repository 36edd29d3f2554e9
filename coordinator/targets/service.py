"""What other rooms ask about targets."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.database.connection import Connection, Transaction
from coordinator.targets import store
from core.errors import FieldError, InvalidInput


async def archive_all(tx: Transaction, agent_id: str, reason: str) -> list[str]:
    """Archive the targets of an agent that goes; return their ids."""
    return await store.archive_all(tx, agent_id, reason)


async def agents_of(conn: Connection, target_ids: Sequence[str]) -> dict[str, str]:
    """Return target → agent for every one of ``target_ids``; raise ``InvalidInput`` naming those that do not exist."""
    found = await store.agents_of(conn, target_ids)
    wrong = tuple(
        FieldError(f"target_ids[{place}]", f"there is no target {target_id}")
        for place, target_id in enumerate(target_ids)
        if target_id not in found
    )
    if wrong:
        raise InvalidInput("; ".join(error.problem for error in wrong), errors=wrong)
    return found
