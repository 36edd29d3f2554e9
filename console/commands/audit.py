"""``certctl audit``: what happened, who did it."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from console.answer import path_of
from console.listing import Column, show_list
from console.model import AuditEvent
from console.session import Session, command, group
from console.times import stamp

app = group("What happened, and who did it.")


@command(app, "list", paged=True)
def list_events(
    session: Session,
    *,
    actor: Annotated[str, typer.Option("--actor", metavar="ACTOR", help="Only by this one, e.g. key:key-…")] = "",
    action: Annotated[str, typer.Option("--action", metavar="ACTION", help="Only this, e.g. certificate.issued.")] = "",
    resource_type: Annotated[
        str, typer.Option("--resource-type", metavar="TYPE", help="Only about such things, e.g. certificate.")
    ] = "",
    resource_id: Annotated[
        str, typer.Option("--resource-id", metavar="ID", help="Only about the thing with this id.")
    ] = "",
    request_id: Annotated[str, typer.Option("--request-id", metavar="ID", help="Only of this request.")] = "",
    since: Annotated[str, typer.Option("--from", metavar="TIME", help="The first instant that counts.")] = "",
    until: Annotated[str, typer.Option("--to", metavar="TIME", help="The first that does not any more.")] = "",
) -> None:
    """List events, newest first."""
    filters = {"actor": actor, "action": action, "resource_type": resource_type, "resource_id": resource_id}
    filters |= {"request_id": request_id, "from": since, "to": until}
    columns = [
        Column("ID", lambda row: str(row.id)),
        Column("AT", lambda row: stamp(row.at)),
        Column("ACTOR", lambda row: row.actor),
        Column("ACTION", lambda row: row.action),
        Column("RESOURCE", lambda row: row.resource_id or row.resource_type),
        Column("DETAILS", _details),
    ]
    query = {name: value or None for name, value in filters.items()}
    show_list(session, path_of("audit"), AuditEvent, columns, query)


def _details(event: AuditEvent) -> str:
    plain = {key: value for key, value in event.details.items() if isinstance(value, str | int | float) and value != ""}
    return " ".join(
        f"{key}={value if isinstance(value, str) else msgspec.json.encode(value).decode()}"
        for key, value in plain.items()
    )
