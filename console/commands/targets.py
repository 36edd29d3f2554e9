"""``certctl targets``: where certificates are installed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from console.answer import Answer, path_of
from console.commands.certificates import duration
from console.errors import ExitCode
from console.follow import Deadline
from console.listing import Column, fetch, show
from console.lookup import AGENT, Names, find, find_target
from console.model import Target, Trial
from console.render import Cell
from console.session import Session, command, group
from console.times import exact
from core.errors import DeadlineExceeded, InvalidInput

_PAUSE_S = 0.5

app = group("Where certificates are installed.")


@command(app, "list", paged=True)
def list_targets(
    session: Session,
    *,
    agent: Annotated[str, typer.Option("--agent", metavar="AGENT", help="Only those of this agent (id or name).")] = "",
    drifted: Annotated[
        bool, typer.Option("--drifted", help="Only where something is not as it was installed.")
    ] = False,
) -> None:
    """List targets, newest first."""
    agent_id = find(session.client, AGENT, agent).value.id if agent else None
    filters = {"agent_id": agent_id, "drifted": "true" if drifted else None}
    listing, names = fetch(session, path_of("targets"), filters), Names(session.client)
    rows = [] if session.out.as_json else listing.rows(Target)
    names.resolve(AGENT, [row.agent_id for row in rows])
    columns = [
        Column("NAME", lambda row: row.name),
        Column("TYPE", lambda row: row.type),
        Column("AGENT", lambda row: names[row.agent_id]),
        Column("DRIFT", lambda row: Cell(row.drift, "bad")),
        Column("CERTIFICATE FILE", lambda row: str(row.config.get("cert_path", ""))),
        Column("ID", lambda row: row.id),
    ]
    show(session, listing, rows, columns)


@command(app, "get")
def get(
    session: Session, target: Annotated[str, typer.Argument(metavar="TARGET", help="Id, name or AGENT/NAME.")]
) -> None:
    """Show a target with its configuration."""
    answer, names = find_target(session.client, target), Names(session.client)
    if session.out.as_json:
        session.out.json(answer.raw)
        return
    found = answer.value
    names.resolve(AGENT, [found.agent_id])
    session.out.fields(
        [
            ("Target", f"{found.name} ({found.id})"),
            ("Type", found.type),
            ("Agent", f"{names[found.agent_id]} ({found.agent_id})"),
            ("Added", exact(found.created_at, session.now)),
            ("Drift", Cell(found.drift, "bad")),
        ]
    )
    if found.last_test is not None:
        _show_trial(session, found.last_test)
    session.out.heading("Configuration")
    session.out.fields(flat(found.config), indent="  ")


@command(app, "test")
def try_out(
    session: Session,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Id, name or AGENT/NAME.")],
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until its agent has tried it.")] = False,
    timeout: Annotated[str, typer.Option("--timeout", metavar="TIME", help="How long to wait, e.g. 120s.")] = "60s",
) -> None:
    """Let the agent try a deployment without changing anything, and say which step would fail."""
    deadline = Deadline.after(duration("--timeout", timeout).total_seconds())
    target_id = find_target(session.client, target).value.id
    answer = session.client.post(path_of("targets", target_id, "test"), Trial)
    while wait and answer.value.ok is None:
        if not deadline.left_s:
            detail = f"the agent has not told of the test yet; see later: certctl targets get {target_id}"
            raise DeadlineExceeded(detail)
        deadline.pause(_PAUSE_S)
        now = find_target(session.client, target_id).value.last_test
        if now is None or now.id != answer.value.id:
            break
        if now.ok is not None:
            answer = Answer(msgspec.json.encode(now), now)
    if session.out.as_json:
        session.out.json(answer.raw)
    else:
        _show_trial(session, answer.value)
    if answer.value.ok is False:
        raise typer.Exit(ExitCode.NOT_DONE)


def _show_trial(session: Session, trial: Trial) -> None:
    """Show how a trial went."""
    words = {None: "waits for its agent", True: "a deployment would work", False: "A DEPLOYMENT WOULD FAIL"}
    session.out.heading("Last test")
    rows = [("Result", words[trial.ok]), ("Asked", exact(trial.requested_at, session.now))]
    rows += [(step.name, f"ok, {step.ms:.0f} ms") for step in trial.steps]
    if trial.failure is not None:
        rows.append((trial.failure.step, trial.failure.cause))
    session.out.fields(rows, indent="  ")


@command(app, "create")
def create(
    session: Session,
    name: Annotated[str, typer.Argument(help="What people call it; unique on its agent.")],
    *,
    kind: Annotated[str, typer.Option("--type", metavar="TYPE", help="What it is, e.g. nginx.")],
    agent: Annotated[str, typer.Option("--agent", metavar="AGENT", help="On which host: agent's id or name.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting, e.g. probe.port=8443; may be repeated."),
    ] = None,
    config: Annotated[
        str, typer.Option("--config", metavar="FILE", help="Settings as JSON; - reads standard input.")
    ] = "",
    chosen_id: Annotated[str, typer.Option("--id", metavar="ID", help="Choose its id, e.g. tgt-web.")] = "",
) -> None:
    """Add a target; --set overrides what --config holds."""
    wanted = assign(_read_config(config) if config else {}, settings or [])
    agent_id = find(session.client, AGENT, agent).value.id
    body: dict[str, Any] = {"name": name, "type": kind, "agent_id": agent_id, "config": wanted}
    if chosen_id:
        body["id"] = chosen_id
    answer = session.client.post(path_of("targets"), Target, body)
    if session.out.as_json:
        session.out.json(answer.raw)
        return
    session.out.line(f"{answer.value.name} is {answer.value.id}")
    session.out.note(
        f"let it serve a certificate with: certctl certificates create NAME --target {answer.value.id} --wait"
    )


def assign(config: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Return ``config`` with ``a.b=value`` settings applied; values are JSON where they can be, else text."""
    for setting in settings:
        path, equals, text = setting.partition("=")
        *folders, last = path.split(".")
        if not equals or not last or not all(folders):
            raise InvalidInput.of("--set", f"is {setting!r}; write KEY=VALUE or KEY.KEY=VALUE")
        place = config
        for folder in folders:
            place = place.setdefault(folder, {})
            if not isinstance(place, dict):
                raise InvalidInput.of("--set", f"{path}: {folder} holds a plain value, so nothing can be set in it")
        place[last] = _value(text)
    return config


def _value(text: str) -> object:
    try:
        return msgspec.json.decode(text, type=object)
    except msgspec.MsgspecError:
        return text


def _read_config(name: str) -> dict[str, Any]:
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).expanduser().read_bytes()
    except OSError as error:
        raise InvalidInput.of("--config", f"{name} cannot be read: {error.strerror}") from error
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InvalidInput.of("--config", f"{name} does not hold a JSON object: {error}") from error


def flat(config: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return a configuration, or any other object, as it would be typed with ``--set``."""
    pairs: list[tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, dict):
            pairs += flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value if isinstance(value, str) else msgspec.json.encode(value).decode()))
    return pairs
