"""Commands made of the table in ``console.resources``: list, get, create, update, delete, and what else a kind has.

A body is given with ``--set KEY=VALUE`` or as a file (JSON or YAML); the API says what a kind has and what is wrong.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import reduce
from typing import Annotated, Any

import typer

from console.answer import Listing, path_of
from console.commands.targets import assign, flat
from console.listing import Column, show, show_list
from console.lookup import find
from console.render import Cell, Value, clean, shorten
from console.resources import TYPES, Action, Resource, Sub
from console.session import Body, Session, command
from console.times import relative
from core.errors import InvalidInput

Thing = dict[str, Any]
_Reference = Annotated[str, typer.Argument(metavar="REF", help="Id or name.")]
_Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A field, e.g. name=Web or config.port=1; again.")
]
_Unset = Annotated[list[str] | None, typer.Option("--unset", metavar="KEY", help="Bring back its default; again.")]
_File = Annotated[
    str, typer.Option("--file", "-f", metavar="FILE", help="The fields, JSON or YAML; - reads standard input.")
]
_Id = Annotated[str, typer.Option("--id", metavar="ID", help="Choose its id.")]
_Revision = Annotated[
    int | None, typer.Option("--revision", metavar="N", help="Only if nobody has changed it since this revision.")
]
_Force = Annotated[bool, typer.Option("--force", help="Although something depends on it.")]
_Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; goes into the audit trail.")]
_SWITCHES: dict[str, tuple[Any, Any]] = {"force": (_Force, False), "reason": (_Reason, "")}


def register(app: typer.Typer, resource: Resource) -> None:
    """Add the commands of a resource to its group."""
    for verb in resource.verbs:
        about, body, options = _VERBS[verb](resource)
        _add(app, verb, about, body, options, paged=verb == "list")
    for sub in resource.subs:
        options = {"reference": (_Reference, inspect.Parameter.empty), **_filters(sub.filters)}
        _add(app, sub.name, sub.about, _lister_of_one(sub, resource), options, paged=sub.paged)
    if resource.types:
        _add(app, TYPES.name, TYPES.about, _lister(TYPES, resource.types), {})
    for action in resource.actions:
        options = {"reference": (_Reference, inspect.Parameter.empty), **(_BODY if action.takes else {})}
        _add(app, action.name, action.about, _actor(resource, action), options)


_BODY: dict[str, tuple[Any, Any]] = {"settings": (_Set, None), "file": (_File, "")}
Made = tuple[str, Body, dict[str, tuple[Any, Any]]]


def _add(
    app: typer.Typer,
    name: str,
    about: str,
    body: Body,
    options: Mapping[str, tuple[Any, Any]],
    *,
    paged: bool = False,
) -> None:
    """Register ``body`` with these options, by name: annotation and default (none for an argument)."""
    kinds = inspect.Parameter
    parameters = [kinds("session", kinds.POSITIONAL_OR_KEYWORD, annotation=Session)]
    for option, (annotation, default) in options.items():
        place = kinds.POSITIONAL_OR_KEYWORD if default is kinds.empty else kinds.KEYWORD_ONLY
        parameters.append(kinds(option, place, default=default, annotation=annotation))
    vars(body)["__signature__"] = inspect.Signature(parameters)
    body.__doc__ = about
    command(app, name, paged=paged)(body)


def _filters(names: Iterable[str]) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for name in names:
        words = f"Only what has this {name.replace('_', ' ')}."
        option = typer.Option(f"--{name.replace('_', '-')}", metavar="TEXT", help=words)
        found[name] = (Annotated[str, option], "")
    return found


def _list(resource: Resource) -> Made:
    rows = Sub("list", "", resource.kind.type, resource.columns, resource.filters)
    return f"List {_many(resource)}.", _lister(rows, resource.collection), _filters(resource.filters)


def _lister(sub: Sub, collection: str) -> Body:
    def run(session: Session, **filters: str) -> None:
        show_rows(session, sub, path_of(collection), filters)

    return run


def _lister_of_one(sub: Sub, resource: Resource) -> Body:
    def run(session: Session, reference: str, **filters: str) -> None:
        row_id = find(session.client, resource.kind, reference).value.id
        show_rows(session, sub, path_of(resource.collection, row_id, sub.name), filters)

    return run


def show_rows(session: Session, sub: Sub, path: str, filters: Mapping[str, str]) -> None:
    """Write a list; a filter that is empty does not filter."""
    now = session.now
    columns = [Column(heading, _shower(field, now)) for heading, field in sub.columns.items()]
    if sub.paged:
        show_list(session, path, sub.type, columns, {name: value or None for name, value in filters.items()})
        return
    answer = session.client.get(path, Listing)
    if session.out.as_json:
        session.out.json(answer.raw)
    else:
        show(session, answer.value, answer.value.rows(sub.type), columns)


def _shower(field: str, now: datetime) -> Callable[[Any], Value]:
    return lambda row: shown(getattr(row, field), now)


def shown(value: Any, now: datetime) -> Value:  # noqa: ANN401 - a field of any answer
    """Return a value as people read it."""
    match value:
        case None | "":
            return ""
        case bool():
            return "yes" if value else Cell("no", "dim")
        case datetime():
            return relative(value, now)
        case list() | tuple():
            return ", ".join(map(str, value))
        case _:
            return shorten(str(value))


def _many(resource: Resource) -> str:
    return resource.collection.replace("-", " ").replace("api", "API")


def _get(resource: Resource) -> Made:
    def run(session: Session, reference: str) -> None:
        if resource.kind.prefix:
            answer = session.client.get(
                path_of(resource.collection, find(session.client, resource.kind, reference).value.id), Thing
            )
        else:
            answer = session.client.get(path_of(resource.collection, reference), Thing)
        show_thing(session, answer.raw, answer.value)

    return f"Show {_one(resource)}.", run, {"reference": (_Reference, inspect.Parameter.empty)}


def show_thing(session: Session, raw: bytes, thing: Thing) -> None:
    """Write a thing with all its fields."""
    if session.out.as_json:
        session.out.json(raw)
        return
    session.out.fields((name, clean(text)) for name, text in flat(thing) if text not in {"null", '""'})


def _one(resource: Resource) -> str:
    return f"{'an' if resource.kind.word[0] in 'aeiouA' else 'a'} {resource.kind.word}"


def _create(resource: Resource) -> Made:
    def run(session: Session, *, settings: list[str] | None, file: str, chosen: str = "") -> None:
        body = read_body(settings, file) | ({"id": chosen} if chosen else {})
        answer = session.client.post(path_of(resource.collection), Thing, body)
        show_thing(session, answer.raw, answer.value)

    return f"Add {_one(resource)}.", run, {**_BODY, **({"chosen": (_Id, "")} if resource.named else {})}


def read_body(settings: list[str] | None, file: str) -> Thing:
    """Return a body from a file with settings on top."""
    from console.documents import read_mapping  # noqa: PLC0415 - reads YAML, which most commands need not wait for

    return assign(read_mapping(file) if file else {}, settings or [])


def _update(resource: Resource) -> Made:
    def run(
        session: Session,
        reference: str,
        *,
        settings: list[str] | None,
        file: str,
        unset: list[str] | None,
        revision: int | None,
    ) -> None:
        body = reduce(_without, unset or [], read_body(settings, file))
        if not body:
            raise InvalidInput.of("--set", "nothing is to be changed; give --set, --unset or --file")
        row_id = find(session.client, resource.kind, reference).value.id
        etag = "" if revision is None else f'"{revision}"'
        answer = session.client.patch(path_of(resource.collection, row_id), Thing, body, etag)
        show_thing(session, answer.raw, answer.value)

    options = {
        "reference": (_Reference, inspect.Parameter.empty),
        **_BODY,
        "unset": (_Unset, None),
        "revision": (_Revision, None),
    }
    return f"Change fields of {_one(resource)}; the others stay.", run, options


def _without(body: Thing, key: str) -> Thing:
    return assign(body, [f"{key}=null"])


def _delete(resource: Resource) -> Made:
    def run(session: Session, reference: str, **switches: Any) -> None:
        row_id = reference if resource.by_id else find(session.client, resource.kind, reference).value.id
        query = {name: "true" if value is True else value for name, value in switches.items() if value}
        answer = session.client.delete(path_of(resource.collection, row_id), query)
        if session.out.as_json:
            session.out.json(answer.raw)
        else:
            session.out.note(f"{row_id}: done")

    options = {"reference": (_Reference, inspect.Parameter.empty)}
    return resource.removal, run, {**options, **{name: _SWITCHES[name] for name in resource.switches}}


def _actor(resource: Resource, action: Action) -> Body:
    def run(session: Session, reference: str, settings: list[str] | None = None, file: str = "") -> None:
        row_id = find(session.client, resource.kind, reference).value.id
        path = path_of(resource.collection, row_id, action.path)
        if action.reads:
            answer = session.client.get(path, Thing)
        else:
            answer = session.client.post(path, Thing, read_body(settings, file) if action.takes else None)
        show_thing(session, answer.raw, answer.value)

    return run


_VERBS: dict[str, Callable[[Resource], Made]] = {
    "list": _list,
    "get": _get,
    "create": _create,
    "update": _update,
    "delete": _delete,
}
