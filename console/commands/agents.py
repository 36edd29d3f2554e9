"""``certctl agents`` and ``certctl enrollment-tokens``: the hosts, and what lets a new one in."""

from __future__ import annotations

from typing import Annotated

import typer

from console.answer import path_of
from console.commands.certificates import duration
from console.listing import Column, show_list
from console.lookup import AGENT, find
from console.model import Agent, CreatedToken, EnrollmentToken
from console.render import Cell
from console.session import Session, command, group
from console.times import exact, relative, spell

app = group("The hosts that hold keys and deploy.")
tokens = group("One-time tokens that let a new agent in.")
_NOTABLE_SKEW_MS = 2000
_MEASURABLE_MS = 100


def _state(agent: Agent) -> Cell:
    if agent.retired_at:
        return Cell("retired", "dim")
    return Cell("online", "good") if agent.online else Cell("away", "bad")


@command(app, "list", paged=True)
def list_agents(session: Session) -> None:
    """List agents, newest first."""
    now = session.now
    columns = [
        Column("NAME", lambda row: row.name),
        Column("STATE", _state),
        Column("SEEN", lambda row: relative(row.last_seen_at, now)),
        Column("HOST", lambda row: row.hostname),
        Column("SYSTEM", lambda row: f"{row.os} {row.architecture}".strip()),
        Column("VERSION", lambda row: row.version),
        Column("CLOCK", lambda row: _skew(row.skew_ms) if abs(row.skew_ms) >= _NOTABLE_SKEW_MS else ""),
        Column("ID", lambda row: row.id),
    ]
    show_list(session, path_of("agents"), Agent, columns)


def _skew(skew_ms: int) -> Cell:
    direction = "ahead" if skew_ms > 0 else "behind"
    return Cell(f"{abs(skew_ms) / 1000:.1f} s {direction}", "warn")


@command(app, "get")
def get(session: Session, agent: Annotated[str, typer.Argument(metavar="AGENT", help="Id or name.")]) -> None:
    """Show an agent and its host."""
    answer, now = find(session.client, AGENT, agent), session.now
    if session.out.as_json:
        session.out.json(answer.raw)
        return
    found = answer.value
    session.out.fields(
        [
            ("Agent", f"{found.name} ({found.id})"),
            ("State", _state(found)),
            ("Seen", exact(found.last_seen_at, now)),
            ("Host", found.hostname),
            ("Address", found.address),
            ("System", f"{found.os} {found.architecture}".strip()),
            ("Version", found.version),
            ("Clock", _skew(found.skew_ms) if abs(found.skew_ms) >= _MEASURABLE_MS else "in step"),
            ("Enrolled", exact(found.enrolled_at, now)),
            ("Retired", exact(found.retired_at, now) if found.retired_at else ""),
        ]
    )


@command(tokens, "create")
def create_token(
    session: Session,
    *,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="What it is for.")] = "",
    ttl: Annotated[str, typer.Option("--ttl", metavar="TIME", help="How long it may be used, e.g. 1h, 7d.")] = "24h",
) -> None:
    """Make a one-time enrollment token; it is shown this once."""
    span = duration("--ttl", ttl)
    answer = session.client.post(
        path_of("enrollment-tokens"), CreatedToken, {"note": note, "ttl_s": int(span.total_seconds())}
    )
    if session.out.as_json:
        session.out.json(answer.raw)
        return
    # Alone on standard output, so that it can be taken into a variable.
    session.out.line(answer.value.token)
    session.out.note(f"good for one agent within {spell(span)}, and not shown again; on its host:")
    session.out.note("  CERTCTL_AGENT_BOOTSTRAP_TOKEN=<token> certctl-agent")


@command(tokens, "list", paged=True)
def list_tokens(session: Session) -> None:
    """List enrollment tokens without their values, newest first."""
    now = session.now
    columns = [
        Column("ID", lambda row: row.id),
        Column("STATE", lambda row: _token_state(row, session)),
        Column("EXPIRES", lambda row: relative(row.expires_at, now)),
        Column("USED BY", lambda row: row.used_by or ""),
        Column("CREATED BY", lambda row: row.created_by),
        Column("NOTE", lambda row: row.note),
    ]
    show_list(session, path_of("enrollment-tokens"), EnrollmentToken, columns)


def _token_state(token: EnrollmentToken, session: Session) -> Cell:
    if token.used_at:
        return Cell("used", "dim")
    return Cell("expired", "dim") if token.expires_at <= session.now else Cell("open", "good")
