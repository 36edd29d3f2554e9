"""``certctl search``, ``certctl events``, ``certctl runs show``: finding things, and seeing what happens."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
import typer

from console.answer import path_of
from console.model import Run, RunStep
from console.pages import Event, Found
from console.render import Cell, Value, shorten
from console.session import Session, command, group
from console.times import milliseconds
from core.errors import Transient

runs = group("What one request brought about.")
_TONES = {"served": "good", "failed": "bad", "cancelled": "dim"}
_PROOFS = ("served_fingerprint", "fingerprint", "spki_sha256", "cause", "trigger")
_PAUSE_S = 1.0
"""Before the next stream: a coordinator, or what stands in its place, may end each one at once."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "search")(search)
    command(app, "events")(events)
    app.add_typer(runs, name="runs")


def search(
    session: Session,
    words: Annotated[str, typer.Argument(metavar="WORDS", help="Of a name, its beginning, an id, a fingerprint.")],
) -> None:
    """Find certificates, targets, agents, issuers and owners."""
    answer = session.client.get(path_of("search"), Found, {"q": words})
    if session.out.as_json:
        session.out.json(answer.raw)
        return
    found = answer.value
    session.out.table(("KIND", "NAME", "ID", ""), ((hit.kind, hit.name, hit.id, hit.detail) for hit in found.hits))
    if found.more:
        session.out.note(f"there is more of: {', '.join(found.more)}")


def events(
    session: Session,
    *,
    after: Annotated[str, typer.Option("--after", metavar="ID", help="Go on behind this event.")] = "",
    about: Annotated[str, typer.Option("--about", metavar="ID", help="Only what happens to this.")] = "",
) -> None:
    """Follow what happens until Ctrl-C; with --json one event a line, each with the id to go on behind."""
    query = {"resource_id": about or None}
    while True:
        try:
            for place, data in session.client.events(path_of("events"), query, after):
                after = place or after
                if data is not None:
                    _show(session, after, data)
        except Transient as error:
            session.out.note(f"{error.detail}; coming back")
        time.sleep(_PAUSE_S)


def _show(session: Session, place: str, data: bytes) -> None:
    if session.out.as_json:
        document: dict[str, Any] = {"place": place, **msgspec.json.decode(data)}
        session.out.line(msgspec.json.encode(document).decode())
        return
    event = msgspec.json.decode(data, type=Event)
    if not event.action:
        session.out.note("what happened meanwhile is not known: the coordinator's database is another one")
        return
    cause = str(event.details.get("cause") or "")
    moment = event.at.strftime("%H:%M:%SZ") if event.at else ""
    session.out.paragraph(f"{moment}  {event.action:<28} {event.resource_id}  {shorten(cause)}".rstrip())


@command(runs, "show")
def show(session: Session, run: Annotated[str, typer.Argument(metavar="RUN", help="Its id.")]) -> None:
    """Show the steps of a run from the request to what is served, with their evidence."""
    answer = session.client.get(path_of("runs", run), Run)
    if session.out.as_json:
        session.out.json(answer.raw)
        return
    found = answer.value
    session.out.fields([("Run", found.id), ("Certificate", found.certificate_id), ("State", found.state)])
    session.out.heading("Steps")
    session.out.table(("AT", "STEP", "TOOK", "WHERE", "EVIDENCE"), (_step(found, step) for step in found.steps))


def _step(run: Run, step: RunStep) -> tuple[Value, ...]:
    elapsed = (step.at - run.steps[0].at).total_seconds()
    proof = next((f"{name} {step.evidence[name]}" for name in _PROOFS if name in step.evidence), "")
    took = milliseconds(step.ms) if step.ms is not None else ""
    where = step.target_id or step.agent_id or "a client"
    return f"{elapsed:.3f} s", Cell(step.step, _TONES.get(step.step, "")), took, where, shorten(proof)
