"""Recording events. Call it with the connection of the change, so that both are stored or neither is."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from coordinator.audit import store
from coordinator.database.connection import Connection, Transaction
from coordinator.web.table import Actor
from core.marks import fields_without_marked, without_marked

SEALING = "audit-sealing"
"""The topic that wakes the loop which seals."""


class Described(dict[str, object]):
    """Details that hold nothing marked: made by ``described``, or of a configuration as ``core.marking`` shows it."""


def described(struct: msgspec.Struct, **more: object) -> Described:
    """Return a struct's fields as an event's details, without what its schema marks; ``more`` goes over them."""
    return Described({**fields_without_marked(struct), **{name: without_marked(value) for name, value in more.items()}})


async def record(
    conn: Connection,
    actor: Actor,
    action: str,
    resource_type: str,
    resource_id: str,
    details: Mapping[str, object] | None = None,
    request_id: str = "",
) -> None:
    """Append one event; in a transaction it is stored at the end, with the other events of it.

    ``details`` has plain values, lists of them, and structs. What a struct's schema marks as secret or personal is
    replaced by stars, see ``core.marks``; a mapping inside of it has no schema and is refused with ``TypeError``.
    """
    if not isinstance(details, Described):
        details = {name: without_marked(value) for name, value in (details or {}).items()}
    event = (str(actor), action, resource_type, resource_id, request_id, details)
    if isinstance(conn, Transaction):
        conn.gather(store.insertion, event)
        conn.wake(SEALING)
    else:
        await conn.execute(*store.insertion([event]))
