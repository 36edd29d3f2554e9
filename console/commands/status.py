"""``certctl status``: does the coordinator answer, who am I there, and what needs a hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import typer

from console.answer import path_of
from console.model import Agent, Caller, Certificate, Release
from console.render import Cell, Value, shorten
from console.session import Session, command
from console.times import relative

_EXAMINED = 500
_SHOWN = 20
_WELL = {"valid", "served", "unknown"}
_TROUBLED_SERVICE = {"partly", "outdated", "not served"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "status")(status)


def status(session: Session) -> None:
    """Show whether the coordinator answers, who you are there, and what needs attention."""
    client = session.client
    client.get("/ready", msgspec.Raw)
    release = client.get(path_of("version"), Release).value
    caller = client.get(path_of("auth", "check"), Caller).value
    certificates = client.collect(path_of("certificates"), limit=_EXAMINED)
    agents = client.collect(path_of("agents"), limit=_EXAMINED)
    report = _Report(certificates.rows(Certificate), agents.rows(Agent))
    if session.out.as_json:
        document: dict[str, Any] = {"server": session.settings.url, "ready": True, "version": release.version}
        document |= {"user": caller.user, "role": caller.role, "permissions": caller.permissions}
        document["certificates"] = {"total": certificates.total, **report.certificate_counts()}
        document["agents"] = {"total": agents.total, **report.agent_counts()}
        session.out.json(msgspec.json.encode(document))
        return
    session.out.fields(
        [
            ("Coordinator", f"{session.settings.url}, ready, version {release.version}"),
            ("You", f"{caller.user} ({caller.role})"),
            ("Certificates", report.certificates_line(certificates.total)),
            ("Agents", report.agents_line(agents.total)),
        ]
    )
    report.attention(session)


def _spoken(word: str) -> str:
    return "partly served" if word == "partly" else word


class _Report:
    """Counts over the newest certificates and agents."""

    def __init__(self, certificates: Sequence[Certificate], agents: Sequence[Agent]) -> None:
        self._certificates = certificates
        self._agents = [agent for agent in agents if agent.retired_at is None]

    def certificate_counts(self) -> dict[str, Any]:
        """Return how many were looked at, and how they stand."""
        life = Counter(certificate.status.life for certificate in self._certificates)
        service = Counter(certificate.status.service for certificate in self._certificates)
        return {"examined": len(self._certificates), "life": life, "service": service}

    def agent_counts(self) -> dict[str, int]:
        """Return how many agents were looked at, and how many of them answer."""
        return {"examined": len(self._agents), "online": sum(agent.online for agent in self._agents)}

    def certificates_line(self, total: int) -> str:
        """Return the certificates in one line."""
        counts = self.certificate_counts()
        stands = (counts["life"] + counts["service"]).items()
        parts = [f"{number} {_spoken(word)}" for word, number in stands if word != "unknown"]
        among = f" (of the newest {len(self._certificates)})" if total > len(self._certificates) else ""
        return f"{total}" + (f": {', '.join(parts)}{among}" if parts else "")

    def agents_line(self, total: int) -> str:
        """Return the agents in one line."""
        online = self.agent_counts()["online"]
        return f"{total}" + (f": {online} online, {len(self._agents) - online} away" if self._agents else "")

    def attention(self, session: Session) -> None:
        """List what is not as it should be."""
        rows = [*self._troubled_certificates(session), *self._away(session)]
        if rows:
            session.out.heading("Needs attention")
            session.out.table(("NAME", "STATE", "SINCE", "WHY"), rows[:_SHOWN])
        if len(rows) > _SHOWN:
            session.out.note(f"{_SHOWN} of {len(rows)}")

    def _troubled_certificates(self, session: Session) -> list[tuple[Value, ...]]:
        rows: list[tuple[Value, ...]] = []
        for certificate in self._certificates:
            stand = certificate.status
            if (stand.life in _WELL and stand.service not in _TROUBLED_SERVICE) or not (stand.holders or stand.reason):
                continue
            service = f", {_spoken(stand.service)}" if stand.service in _TROUBLED_SERVICE else ""
            until = f"expires {relative(stand.expires_at, session.now)}" if stand.expires_at else ""
            tone = "warn" if stand.life in {"due", "pending"} else "bad"
            rows.append((certificate.name, Cell(f"{stand.life}{service}", tone), until, shorten(stand.reason)))
        return rows

    def _away(self, session: Session) -> list[tuple[Value, ...]]:
        return [
            (agent.name, Cell("agent away", "bad"), f"seen {relative(agent.last_seen_at, session.now)}", "")
            for agent in self._agents
            if not agent.online
        ]
