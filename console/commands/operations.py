"""Doing something to many certificates, followed to its end, and ``certctl operations``: what was done to many."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from console.answer import Answer, path_of
from console.errors import ExitCode
from console.follow import LONGEST_WAIT_S
from console.listing import Column, show_list
from console.many import Begun, Operation, OperationItem
from console.render import Cell, Value, shorten
from console.session import Session, command, group
from console.times import exact, relative
from core.errors import InvalidInput, Transient

app = group("What was done to many certificates at once, and what became of each.")
_TONES = {"completed": "good", "succeeded": "good", "failed": "bad", "cancelled": "dim", "planned": "dim"}
_MOST_FAILURES = 10
_MOST_TRIES, _PAUSE_S = 60, 2.0
"""While the coordinator is away: the operation goes on when it is back, and so does following it."""
Filters = Annotated[
    list[str] | None,
    typer.Option("--filter", metavar="KEY=VALUE", help="Those that the list has with it, e.g. q=api; may be repeated."),
]
AllMatching = Annotated[bool, typer.Option("--all-matching", help="Do it to all that match --filter; else only show.")]


def bulk(
    session: Session, verb: str, chosen: Sequence[str], filters: Sequence[str] | None, *, everything: bool, **more: Any
) -> ExitCode:
    """Show what ``filters`` match; with ``everything``, or for ``chosen`` ids, do it and follow it to its end.

    What is done is exactly what was counted and shown: the operation is started from the snapshot of a dry run.
    """
    path, options = path_of("certificates", f"bulk-{verb}"), {k: v for k, v in more.items() if v is not None}
    if chosen:
        begun = session.client.post(path, Begun, {"ids": list(chosen), **options})
        return follow(session, begun.value.operation)
    body = {"filter": filters_of(filters), "dry_run": True, **options}
    planned = session.client.post(path, Begun, body)
    if not everything:
        return _shown(session, planned)
    session.out.note(f"{planned.value.operation.total} match")
    begun = session.client.post(path, Begun, {"snapshot": planned.value.snapshot, **options})
    return follow(session, begun.value.operation)


def filters_of(filters: Sequence[str] | None) -> dict[str, str | bool]:
    """Return what ``--filter`` was given, by name."""
    found: dict[str, str | bool] = {}
    for text in filters or ():
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise InvalidInput.of("--filter", f"is {text!r}; write KEY=VALUE, for instance environment=test")
        found[key] = value == "true" if key == "archived" else value
    return found


def _shown(session: Session, planned: Answer[Begun]) -> ExitCode:
    if session.out.as_json:
        session.out.json(planned.raw)
        return ExitCode.OK
    session.out.line(f"{planned.value.operation.total} match")
    for row in planned.value.sample:
        session.out.line(f"  {row.id}  {row.name}")
    session.out.note("nothing was done; --all-matching does it to all of them")
    return ExitCode.OK


def follow(session: Session, operation: Operation) -> ExitCode:
    """Show how far an operation has come until it has ended; what failed makes the exit code 1."""
    session.out.note(f"{operation.id}: {operation.total} to {operation.kind}")
    answer = _next(session, operation)
    while answer.value.finished_at is None:
        session.out.note(_counts(answer.value))
        answer = _next(session, answer.value)
    operation = answer.value
    if session.out.as_json:
        session.out.json(answer.raw)
    else:
        session.out.line(f"{operation.id} is {operation.state}: {_counts(operation)}")
        _show_failures(session, operation)
    return ExitCode.NOT_DONE if operation.failed or operation.state != "completed" else ExitCode.OK


def _next(session: Session, operation: Operation) -> Answer[Operation]:
    """Return how an operation stands once more of it is done, through restarts of the coordinator."""
    query = {"wait": LONGEST_WAIT_S, "seen": operation.done}
    for _ in range(_MOST_TRIES):
        try:
            return session.client.get(path_of("operations", operation.id), Operation, query, wait_s=LONGEST_WAIT_S)
        except Transient as error:
            session.out.note(f"waiting for the coordinator: {error.detail}")
            time.sleep(_PAUSE_S)
    return session.client.get(path_of("operations", operation.id), Operation)


def _counts(operation: Operation) -> str:
    counts = ("succeeded", "skipped", "failed", "cancelled", "waiting")
    told = [f"{getattr(operation, name)} {name}" for name in counts if getattr(operation, name)]
    return f"{operation.done} of {operation.total}: {', '.join(told)}" if told else "nothing to do"


def _show_failures(session: Session, operation: Operation) -> None:
    if not operation.failed:
        return
    found = session.client.collect(
        path_of("operations", operation.id, "items"), {"outcome": "failed"}, limit=_MOST_FAILURES
    )
    for item in found.rows(OperationItem):
        session.out.line(Cell(f"  {item.certificate_id}: {item.detail}", "bad"))
    if operation.failed > len(found.data):
        session.out.note(f"more: certctl operations show {operation.id} --outcome failed --all")


def _toned(word: str) -> Value:
    return Cell(word, _TONES.get(word, "warn"))


@command(app, "list", paged=True)
def list_operations(
    session: Session,
    *,
    state: Annotated[str, typer.Option("--state", metavar="STATE", help="Only in this state, e.g. running.")] = "",
) -> None:
    """List operations, newest first."""
    now = session.now
    columns = [
        Column("ID", lambda row: row.id),
        Column("KIND", lambda row: row.kind),
        Column("STATE", lambda row: _toned(row.state)),
        Column("PROGRESS", _counts),
        Column("STARTED", lambda row: relative(row.started_at, now) if row.started_at else ""),
        Column("BY", lambda row: row.actor),
    ]
    show_list(session, path_of("operations"), Operation, columns, {"state": state or None})


@command(app, "show", paged=True)
def show(
    session: Session,
    operation: Annotated[str, typer.Argument(metavar="OPERATION", help="Its id.")],
    *,
    outcome: Annotated[
        str,
        typer.Option("--outcome", metavar="WORD", help="waiting, succeeded, skipped, failed or cancelled."),
    ] = "",
) -> None:
    """Show an operation and what became of each certificate; with --json its items only."""
    found, now = session.client.get(path_of("operations", operation), Operation).value, session.now
    if not session.out.as_json:
        session.out.fields(
            [
                ("Operation", found.id),
                ("Kind", found.kind),
                ("State", _toned(found.state)),
                ("Progress", _counts(found)),
                ("Started", exact(found.started_at, now) if found.started_at else ""),
                ("Ended", exact(found.finished_at, now) if found.finished_at else ""),
                ("By", found.actor),
            ]
        )
        session.out.heading("Certificates")
    columns = [
        Column("CERTIFICATE", lambda row: row.certificate_id),
        Column("OUTCOME", lambda row: _toned(row.outcome)),
        Column("JOBS", lambda row: " ".join(row.job_ids)),
        Column("WHY", lambda row: shorten(row.detail)),
    ]
    show_list(session, path_of("operations", found.id, "items"), OperationItem, columns, {"outcome": outcome or None})


@command(app, "cancel")
def cancel(session: Session, operation: Annotated[str, typer.Argument(metavar="OPERATION", help="Its id.")]) -> None:
    """Leave undone what still waits."""
    answer = session.client.post(path_of("operations", operation, "cancel"), Operation)
    if session.out.as_json:
        session.out.json(answer.raw)
    else:
        session.out.line(f"{answer.value.id} is {answer.value.state}: {_counts(answer.value)}")
