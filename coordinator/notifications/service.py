"""Telling people: what happens is queued in the transaction in which it happens, once for each channel.

Which channels there are stands in the database, so that whoever tells something needs no settings. A channel that is
asked for and is not there makes a dead notification that says what is missing; nothing counts as told that was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from coordinator.audit import service as audit
from coordinator.database.connection import Connection, Transaction
from coordinator.database.listing import Scope
from coordinator.notifications import channels, store
from coordinator.web.table import Actor
from core.alerts import Severity
from core.errors import Conflict, NotFound
from core.ids import new_id

if TYPE_CHECKING:
    from coordinator.context import Context
    from coordinator.database.driver import Record as Row

NO_ADDRESS = (
    "nobody to write to: give the certificate's owner an e-mail address, or set CERTCTL_NOTIFICATION_RECIPIENTS, "
    "and requeue this"
)


class Event(NamedTuple):
    """Something to be told, once for each ``key``. Without ``channels`` it goes to all there are.

    Mail goes to the certificate's owner, else to the recipients of the installation; ``to_all``: to both.
    """

    key: str
    type: str
    severity: Severity | Literal["info"]
    subject: str
    message: str
    certificate_id: str | None = None
    channels: Sequence[str] = ()
    to_all: bool = False


async def prepare(ctx: Context, tx: Transaction) -> None:
    """Store which channels there are."""
    settings = ctx.settings
    there = {name: list(settings.notification_recipients) for name in channels.configured(settings)}
    await store.set_channels(tx, there)


async def tell(tx: Transaction, *events: Event) -> None:
    """Queue what has happened, in the transaction of what has happened; what was told before is not told again."""
    there = await store.channels(tx)
    owners = await store.addresses(tx, [event.certificate_id for event in events if event.certificate_id])
    rows = [
        row
        for event in events
        for channel in event.channels or there
        for row in _rows(event, channel, there, owners.get(event.certificate_id or "", ""))
    ]
    await store.insert(tx, rows)
    tx.wake(*{channels.topic(row["channel"]) for row in rows if row["status"] == "pending"})


def _rows(event: Event, channel: str, there: Mapping[str, Sequence[str]], owner: str) -> list[dict[str, Any]]:
    """Return the notifications of an event on one channel: one for each address where it has such."""
    problem = "" if channel in there else channels.missing(channel)
    recipients = [""]
    if channel == "email" and not problem:
        recipients = _addresses(owner, there[channel], to_all=event.to_all)
        problem = "" if recipients else NO_ADDRESS
    told = {name: getattr(event, name) for name in ("key", "type", "severity", "subject", "message", "certificate_id")}
    state = {"status": "dead" if problem else "pending", "last_error": problem}
    return [
        {**told, **state, "id": new_id("ntf"), "channel": channel, "recipient": recipient}
        for recipient in recipients or [""]
    ]


def _addresses(owner: str, others: Sequence[str], *, to_all: bool) -> list[str]:
    own = [owner] if owner else []
    return list(dict.fromkeys([*own, *(others if to_all or not owner else ())]))


async def found(conn: Connection, notification_id: str, scope: Scope) -> Row:
    """Return a notification; raise ``NotFound``."""
    row = await store.LISTING.get(conn, notification_id, {}, scope)
    if row is None:
        detail = f"there is no notification {notification_id}"
        raise NotFound(detail)
    return row


async def read(tx: Transaction, actor: Actor, notification_id: str, request_id: str) -> None:
    """Note that a person has seen a notification; repeated, nothing more happens."""
    await found(tx, notification_id, actor.scope)
    if await store.set_read(tx, notification_id):
        await audit.record(tx, actor, "notification.read", "notification", notification_id, {}, request_id)


async def requeue(tx: Transaction, actor: Actor, notification_id: str, request_id: str) -> None:
    """Send again what has not arrived, from the first attempt on; raise ``Conflict`` for what cannot be sent."""
    row = await found(tx, notification_id, actor.scope)
    there, recipient = await store.channels(tx), row["recipient"]
    if row["status"] == "sent":
        detail = f"{notification_id} was sent already"
        raise Conflict(detail)
    if row["channel"] not in there:
        raise Conflict(channels.missing(row["channel"]))
    if row["channel"] == "email" and not recipient:
        owners = await store.addresses(tx, [row["certificate_id"] or ""])
        addresses = _addresses(next(iter(owners.values()), ""), there["email"], to_all=False)
        if not addresses:
            raise Conflict(NO_ADDRESS)
        recipient = addresses[0]
    await store.requeue(tx, notification_id, recipient)
    details = {"channel": row["channel"], "type": row["type"]}
    await audit.record(tx, actor, "notification.requeued", "notification", notification_id, details, request_id)
    tx.wake(channels.topic(row["channel"]))
