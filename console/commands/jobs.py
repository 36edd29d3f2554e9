"""``certctl jobs``: attempts, and following what one request brought about."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from console import progress
from console.answer import path_of
from console.commands.certificates import DEFAULT_TIMEOUT, Timeout, duration
from console.errors import ExitCode
from console.follow import old_certificate
from console.listing import Column, fetch, show
from console.lookup import AGENT, CERTIFICATE, TARGET, Names, find
from console.model import Certificate, Job, Run
from console.render import Cell, Value, shorten
from console.session import Session, command, group
from console.times import exact, milliseconds, relative

app = group("Attempts at issuing and deploying.")
_TONES = {"Completed": "good", "Failed": "bad", "Cancelled": "dim"}


@command(app, "list", paged=True)
def list_jobs(
    session: Session,
    *,
    certificate: Annotated[
        str, typer.Option("--certificate", metavar="CERTIFICATE", help="Only for this one: id or name.")
    ] = "",
    agent: Annotated[str, typer.Option("--agent", metavar="AGENT", help="Only on this agent: id or name.")] = "",
    state: Annotated[str, typer.Option("--state", metavar="STATE", help="Only in this state, e.g. Failed.")] = "",
    kind: Annotated[str, typer.Option("--kind", metavar="KIND", help="issuance or deployment.")] = "",
) -> None:
    """List jobs, newest first."""
    client = session.client
    query = {
        "certificate_id": find(client, CERTIFICATE, certificate).value.id if certificate else None,
        "agent_id": find(client, AGENT, agent).value.id if agent else None,
        "state": state or None,
        "kind": kind or None,
    }
    listing, names = fetch(session, path_of("jobs"), query), Names(client)
    rows = [] if session.out.as_json else listing.rows(Job)
    names.resolve(CERTIFICATE, [row.certificate_id for row in rows])
    names.resolve(AGENT, [row.agent_id for row in rows])
    names.resolve(TARGET, [row.target_id for row in rows])
    now = session.now
    columns = [
        Column("ID", lambda row: row.id),
        Column("KIND", lambda row: row.kind),
        Column("CERTIFICATE", lambda row: names[row.certificate_id]),
        Column("WHERE", lambda row: f"{names[row.agent_id]}/{names[row.target_id]}".rstrip("/")),
        Column("STATE", lambda row: Cell(row.state, _TONES.get(row.state, "warn"))),
        Column("ATTEMPT", lambda row: str(row.attempt)),
        Column("WHEN", lambda row: relative(_moment(row), now)),
        Column("CAUSE", lambda row: shorten(f"{row.failure.step}: {row.failure.cause}") if row.failure else ""),
    ]
    show(session, listing, rows, columns)


def _moment(job: Job) -> datetime:
    return job.finished_at or job.started_at or job.not_before


@command(app, "get")
def get(session: Session, job: Annotated[str, typer.Argument(metavar="JOB", help="Its id.")]) -> None:
    """Show an attempt with its steps."""
    answer, names, now = session.client.get(path_of("jobs", job), Job), Names(session.client), session.now
    if session.out.as_json:
        session.out.json(answer.raw)
        return
    found = answer.value
    names.resolve(CERTIFICATE, [found.certificate_id])
    names.resolve(AGENT, [found.agent_id])
    names.resolve(TARGET, [found.target_id])
    session.out.fields(
        [
            ("Job", found.id),
            ("Run", found.run_id),
            ("Kind", f"{found.kind}, attempt {found.attempt}, {found.trigger}"),
            ("State", Cell(found.state, _TONES.get(found.state, "warn"))),
            ("Certificate", f"{names[found.certificate_id]} ({found.certificate_id})"),
            ("Agent", f"{names[found.agent_id]} ({found.agent_id})"),
            ("Target", f"{names[found.target_id]} ({found.target_id})" if found.target_id else ""),
            ("Due", exact(found.not_before, now) if found.is_live and found.started_at is None else ""),
            ("Failed at", found.failure.step if found.failure else ""),
            ("Left behind", old_certificate(found) if found.failure else ""),
        ]
    )
    if found.failure:
        session.out.heading("Cause")
        session.out.paragraph(f"  {found.failure.cause}", "bad", indent="  ")
    session.out.heading("Steps")
    session.out.table(("AT", "STEP", "TOOK", "DETAIL"), (_step(found, place) for place in range(len(found.timeline))))


def _step(job: Job, place: int) -> tuple[Value, ...]:
    step = job.timeline[place]
    elapsed = (step.at - job.timeline[0].at).total_seconds()
    return f"{elapsed:.3f} s", step.label, milliseconds(step.ms) if step.ms is not None else "", step.detail


@command(app, "follow")
def follow(
    session: Session,
    run: Annotated[str, typer.Argument(metavar="RUN", help="The id of a run, or of any of its jobs.")],
    *,
    timeout: Timeout = DEFAULT_TIMEOUT,
) -> ExitCode:
    """Show every step of a run until it is served, or has failed."""
    seconds = duration("--timeout", timeout).total_seconds()
    run_id = session.client.get(path_of("jobs", run), Job).value.run_id
    start = session.client.get(path_of("runs", run_id), Run).value
    certificate = session.client.get(path_of("certificates", start.certificate_id), Certificate).value
    return progress.wait(session, certificate, run_id, (), seconds)
