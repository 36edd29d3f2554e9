"""``certctl notifications``: what people were told, and what has not arrived."""

from __future__ import annotations

from typing import Annotated

import typer

from console.answer import path_of
from console.listing import Column, show_list
from console.lookup import CERTIFICATE, find
from console.model import Notification, NotificationCounts
from console.render import Cell, shorten
from console.session import Session, command, group
from console.times import exact, relative

app = group("What people were told, and what has not arrived.")
_TONES = {"sent": "good", "pending": "warn", "failed": "warn", "dead": "bad"}
One = Annotated[str, typer.Argument(metavar="NOTIFICATION", help="Its id.")]


@command(app, "list", paged=True)
def list_notifications(
    session: Session,
    *,
    status: Annotated[str, typer.Option("--status", metavar="STATUS", help="Only these, e.g. dead.")] = "",
    kind: Annotated[str, typer.Option("--type", metavar="TYPE", help="Only these, e.g. certificate_expiring.")] = "",
    certificate: Annotated[
        str, typer.Option("--certificate", metavar="CERTIFICATE", help="Only about this one: id or name.")
    ] = "",
    unread: Annotated[bool, typer.Option("--unread", help="Only what nobody has seen.")] = False,
) -> None:
    """List notifications, newest first."""
    now = session.now
    columns = [
        Column("ID", lambda row: row.id),
        Column("STATUS", lambda row: Cell(row.status, _TONES[row.status])),
        Column("SEVERITY", lambda row: row.severity),
        Column("CHANNEL", lambda row: f"{row.channel} {row.recipient}".strip()),
        Column("SUBJECT", lambda row: shorten(row.subject)),
        Column("WHEN", lambda row: relative(row.created_at, now)),
        Column("WHY", lambda row: shorten(row.last_error)),
    ]
    query = {
        "status": status or None,
        "type": kind or None,
        "certificate_id": find(session.client, CERTIFICATE, certificate).value.id if certificate else None,
        "unread": "true" if unread else None,
    }
    show_list(session, path_of("notifications"), Notification, columns, query)


@command(app, "show")
def show_one(session: Session, notification: One) -> None:
    """Show a notification with its message."""
    answer, now = session.client.get(path_of("notifications", notification), Notification), session.now
    if session.out.as_json:
        session.out.json(answer.raw)
        return
    found = answer.value
    session.out.fields(
        [
            ("Notification", found.id),
            ("Type", found.type),
            ("Severity", found.severity),
            ("Channel", f"{found.channel} {found.recipient}".strip()),
            ("Status", Cell(found.status, _TONES[found.status])),
            ("Attempts", str(found.retry_count)),
            ("Why", found.last_error),
            ("When", exact(found.created_at, now)),
            ("Seen", exact(found.read_at, now) if found.read_at else ""),
            ("Subject", found.subject),
        ]
    )
    session.out.heading("Message")
    session.out.paragraph(f"  {found.message}", indent="  ")


@command(app, "counts")
def counts(session: Session) -> None:
    """Count what nobody has seen and what has not arrived."""
    answer = session.client.get(path_of("notifications", "counts"), NotificationCounts)
    if session.out.as_json:
        session.out.json(answer.raw)
        return
    names = ("unread", "pending", "failed", "dead")
    session.out.fields([(name.capitalize(), str(getattr(answer.value, name))) for name in names])


@command(app, "read")
def read(session: Session, notification: One) -> None:
    """Mark a notification as seen."""
    _do(session, notification, "read", "is marked as seen")


@command(app, "requeue")
def requeue(session: Session, notification: One) -> None:
    """Send a notification again that has not arrived."""
    _do(session, notification, "requeue", "will be sent again")


def _do(session: Session, notification: str, what: str, done: str) -> None:
    answer = session.client.post(path_of("notifications", notification, what), Notification)
    if session.out.as_json:
        session.out.json(answer.raw)
    else:
        session.out.line(f"{answer.value.id} {done}")
