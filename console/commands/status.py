"""``certctl status``: does the coordinator answer, who am I there, and what needs a hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import typer

from console.answer import Answer, path_of
from console.model import Agent, Caller, Release
from console.pages import AtRisk, Horizon, Overview
from console.render import Cell, Value, shorten
from console.session import Session, command
from console.times import relative

_SHOWN = 20
_DAYS = 365


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "status")(status)


def status(session: Session) -> None:
    """Show whether the coordinator answers, who you are there, and what needs attention."""
    client = session.client
    client.get("/ready", msgspec.Raw)
    release = client.get(path_of("version"), Release).value
    caller = client.get(path_of("auth", "check"), Caller).value
    found: Answer[Overview] = client.get(path_of("overview"), Overview)
    if session.out.as_json:
        document: dict[str, Any] = {"server": session.settings.url, "ready": True, "version": release.version}
        document |= {"user": caller.user, "role": caller.role, "permissions": caller.permissions}
        session.out.json(msgspec.json.encode(document | msgspec.json.decode(found.raw)))
        return
    overview = found.value
    session.out.fields(
        [
            ("Coordinator", f"{session.settings.url}, ready, version {release.version}"),
            ("You", f"{caller.user} ({caller.role})"),
            ("Certificates", _certificates(overview)),
            ("Agents", _agents(overview)),
            ("Jobs", f"{overview.jobs.live} in hand" if overview.jobs.live else ""),
        ]
    )
    _attention(session, overview)


def _spoken(word: str) -> str:
    return "partly served" if word == "partly" else word


def _certificates(overview: Overview) -> str:
    """Return the certificates in one line."""
    numbers = overview.certificates
    stands = [*numbers.life.items(), *numbers.service.items()]
    parts = [f"{number} {_spoken(word)}" for word, number in stands if number and word != "unknown"]
    parts += [f"{numbers.failing} failing"] if numbers.failing else []
    return f"{numbers.total}" + (f": {', '.join(parts)}" if parts else "")


def _agents(overview: Overview) -> str:
    """Return the agents in one line."""
    numbers = overview.agents
    return f"{numbers.total}" + (f": {numbers.online} online, {numbers.offline} away" if numbers.total else "")


def _attention(session: Session, overview: Overview) -> None:
    """List what is not as it should be."""
    client = session.client
    risks = client.get(path_of("horizon"), Horizon, {"days": str(_DAYS)}).value.at_risk
    agents: Sequence[Agent] = ()
    if overview.agents.offline:
        agents = client.collect(path_of("agents"), {"online": "false"}, limit=_SHOWN).rows(Agent)
    rows = [*(_risk(risk, session) for risk in risks), *(_away(agent, session) for agent in agents)]
    if rows:
        session.out.heading("Needs attention")
        session.out.table(("NAME", "STATE", "SINCE", "WHY"), rows[:_SHOWN])
    if len(rows) > _SHOWN:
        session.out.note(f"{_SHOWN} of {len(rows)}")


def _risk(risk: AtRisk, session: Session) -> tuple[Value, ...]:
    served = "" if risk.service in {"served", "unknown"} else f", {_spoken(risk.service)}"
    until = f"expires {relative(risk.expires_at, session.now)}" if risk.expires_at else ""
    tone = "warn" if risk.life in {"due", "pending"} else "bad"
    return risk.name, Cell(f"{risk.life}{served}", tone), until, shorten(risk.reason or ", ".join(risk.why))


def _away(agent: Agent, session: Session) -> tuple[Value, ...]:
    seen = f"seen {relative(agent.last_seen_at, session.now)}"
    return agent.name, Cell("agent away", "bad"), seen, ""
