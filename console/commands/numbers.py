"""``certctl stats`` and ``certctl loops``: numbers about everything, and what the coordinators do by themselves."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from console.answer import path_of
from console.commands.generic import show_rows
from console.commands.targets import flat
from console.model import Loop
from console.resources import Sub
from console.session import Session, command, group

loops = group("What the coordinators do by themselves.")
_COLUMNS = {"NAME": "name", "RAN": "last_run_at", "TOOK MS": "last_ms", "ERROR": "last_error", "PURPOSE": "purpose"}
_LOOPS = Sub("loops", "", Loop, _COLUMNS, paged=False)
_KINDS = "summary, certificates-by-status, expiration-timeline, job-trends or issuance-rate"


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "stats")(stats)


def stats(
    session: Session,
    kind: Annotated[str, typer.Argument(metavar="KIND", help=_KINDS)] = "summary",
    *,
    days: Annotated[int | None, typer.Option("--days", min=1, metavar="N", help="Over so many days.")] = None,
) -> None:
    """Show numbers about certificates and jobs."""
    answer = session.client.get(path_of("stats", kind), msgspec.Raw, {"days": days})
    value: dict[str, Any] | list[dict[str, Any]] = msgspec.json.decode(answer.raw)
    if session.out.as_json:
        session.out.json(answer.raw)
    elif isinstance(value, dict):
        session.out.fields(flat(value))
    else:
        names = list(value[0]) if value else []
        rows = ([str(row[name]) for name in names] for row in value)
        session.out.table([name.upper().replace("_", " ") for name in names], rows)


@command(loops, "list")
def list_loops(session: Session) -> None:
    """List the loops: when each ran, for how long, and how it went."""
    show_rows(session, _LOOPS, path_of("admin", "loops"), {})


@command(loops, "run")
def run_loop(session: Session, name: Annotated[str, typer.Argument(metavar="LOOP", help="Its name.")]) -> None:
    """Run a loop now."""
    answer = session.client.post(path_of("admin", "loops", name, "run"), msgspec.Raw)
    if session.out.as_json:
        session.out.json(answer.raw)
    else:
        session.out.note(f"{name}: done")
