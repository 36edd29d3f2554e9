"""``certctl agent-groups include|exclude|forget``: which agents are in a group whatever they say of their hosts."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from console.answer import path_of
from console.lookup import AGENT, find
from console.resources import GROUP
from console.session import Session, command

_Group = Annotated[str, typer.Argument(metavar="GROUP", help="Id or name.")]
_Agent = Annotated[str, typer.Argument(metavar="AGENT", help="Id or name.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the group's."""
    command(app, "include")(include)
    command(app, "exclude")(exclude)
    command(app, "forget")(forget)


def include(session: Session, agent_group: _Group, agent: _Agent) -> None:
    """Put an agent into a group."""
    _put(session, agent_group, agent, "include")


def exclude(session: Session, agent_group: _Group, agent: _Agent) -> None:
    """Keep an agent out of a group."""
    _put(session, agent_group, agent, "exclude")


def forget(session: Session, agent_group: _Group, agent: _Agent) -> None:
    """Let what an agent says of its host decide again."""
    answer = session.client.delete(_path(session, agent_group, agent))
    _tell(session, answer.raw, "forgotten")


def _put(session: Session, agent_group: str, agent: str, membership: str) -> None:
    answer = session.client.put(_path(session, agent_group, agent), msgspec.Raw, {"membership": membership})
    _tell(session, answer.raw, membership)


def _path(session: Session, agent_group: str, agent: str) -> str:
    found: Any = find(session.client, GROUP, agent_group).value
    return path_of(GROUP.collection, found.id, "members", find(session.client, AGENT, agent).value.id)


def _tell(session: Session, raw: bytes, done: str) -> None:
    if session.out.as_json:
        session.out.json(raw)
    else:
        session.out.note(f"done: {done}")
