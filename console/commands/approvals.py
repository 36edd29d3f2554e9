"""``certctl approvals``: what waits for another person, and that person's word."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from console.answer import path_of
from console.listing import Column, fetch, show
from console.lookup import CERTIFICATE, Names, find
from console.model import Approval
from console.render import Cell, shorten
from console.session import Session, command, group
from console.times import exact, relative, spell, stamp

app = group("What waits for another person's word.")
_TONES = {"approved": "good", "pending": "warn", "rejected": "bad", "expired": "bad", "cancelled": "dim"}
One = Annotated[str, typer.Argument(metavar="APPROVAL", help="Its id.")]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="Why; it is shown to whoever asked, and kept.")]


@command(app, "list", paged=True)
def list_approvals(
    session: Session,
    *,
    state: Annotated[str, typer.Option("--state", metavar="STATE", help="Only in this state, e.g. pending.")] = "",
    certificate: Annotated[
        str, typer.Option("--certificate", metavar="CERTIFICATE", help="Only for this one: id or name.")
    ] = "",
) -> None:
    """List approvals, newest first."""
    client, now = session.client, session.now
    certificate_id = find(client, CERTIFICATE, certificate).value.id if certificate else None
    listing = fetch(session, path_of("approvals"), {"state": state or None, "certificate_id": certificate_id})
    rows, names = [] if session.out.as_json else listing.rows(Approval), Names(client)
    names.resolve(CERTIFICATE, [row.certificate_id for row in rows])
    columns = [
        Column("ID", lambda row: row.id),
        Column("STATE", _state),
        Column("CERTIFICATE", lambda row: names[row.certificate_id]),
        Column("WORDS", lambda row: f"{row.approved} of {row.required}"),
        Column("ASKED BY", lambda row: " ".join(row.requested_by)),
        Column("CHANGES", lambda row: shorten(" ".join(change.field for change in row.changes))),
        Column("UNTIL", lambda row: relative(row.expires_at, now) if row.state == "pending" else ""),
    ]
    show(session, listing, rows, columns)


@command(app, "show")
def show_one(session: Session, approval: One) -> None:
    """Show what is asked for, what it changes, and who has said what."""
    answer = session.client.get(path_of("approvals", approval), Approval)
    if session.out.as_json:
        session.out.json(answer.raw)
        return
    _page(session, answer.value)


@command(app, "approve")
def approve(session: Session, approval: One, *, note: Note = "") -> None:
    """Agree to what somebody else has asked for."""
    _decide(session, approval, "approve", note)


@command(app, "reject")
def reject(session: Session, approval: One, *, note: Note = "") -> None:
    """Refuse: nothing is issued until somebody asks again."""
    _decide(session, approval, "reject", note)


def _decide(session: Session, approval: str, what: str, note: str) -> None:
    answer = session.client.post(path_of("approvals", approval, what), Approval, {"note": note})
    if session.out.as_json:
        session.out.json(answer.raw)
        return
    found = answer.value
    missing = found.required - found.approved
    more = f"; {missing} more to go" if found.state == "pending" else ""
    session.out.line(Cell(f"{found.id} is {found.state}{more}", _TONES[found.state]))


def _state(approval: Approval) -> Cell:
    return Cell(approval.state, _TONES[approval.state])


def _page(session: Session, found: Approval) -> None:
    wanted, out, now = found.wanted, session.out, session.now
    out.fields(
        [
            ("Approval", found.id),
            ("State", _state(found)),
            ("Words", f"{found.approved} of {found.required}"),
            ("Reason", found.reason),
            ("Until", exact(found.expires_at, now) if found.state == "pending" else ""),
            ("Asked by", " ".join(found.requested_by)),
            ("Certificate", found.certificate_id),
            ("Job", found.job_id),
            ("Profile", found.profile_id),
            ("Names", " ".join(wanted.names)),
            ("Key", wanted.key_algorithm),
            ("Lifetime", spell(timedelta(seconds=wanted.lifetime_s))),
            ("Issuer", wanted.issuer_id),
        ]
    )
    out.heading("Changes")
    out.table(("FIELD", "BEFORE", "AFTER"), ((each.field, each.before, each.after) for each in found.changes))
    if found.votes:
        out.heading("Said")
        out.table(("AT", "BY", "WORD", "NOTE"), ((stamp(v.at), v.name or v.by, v.vote, v.note) for v in found.votes))
