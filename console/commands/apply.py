"""``certctl apply``, ``plan``, ``diff`` and ``get``: things as YAML files declare them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from console.answer import path_of
from console.errors import ExitCode
from console.render import Cell, shorten
from console.session import Session, command
from core.errors import CertctlError, InvalidInput, PreconditionFailed

if TYPE_CHECKING:
    from console.declared import Planned

_Files = Annotated[
    list[str], typer.Option("--file", "-f", metavar="FILE", help="A file, a folder, or - for standard input; again.")
]
_Label = Annotated[
    str, typer.Option("--label", metavar="NAME", help="The name of this set: its certificates carry it as a tag.")
]
_Prune = Annotated[bool, typer.Option("--prune", help="Archive certificates of this set that are declared no more.")]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before something is archived.")]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what would be done; exit code 4 when that is something.")
]
_Kinds = Annotated[str, typer.Argument(metavar="KINDS", help="A comma list, e.g. teams,owners; or all.")]
_References = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Only these.")]
_Form = Annotated[str, typer.Option("--output", "-o", metavar="FORM", help="yaml or json.")]
_SIGNS = {"create": ("+", "good"), "update": ("~", "warn"), "archive": ("-", "bad"), "none": (" ", "dim")}
_DONE = {"create": "made", "update": "changed", "archive": "archived"}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "apply")(apply)
    command(app, "plan")(plan)
    command(app, "diff")(diff)
    command(app, "get")(get)


def apply(
    session: Session,
    *,
    file: _Files,
    label: _Label = "",
    prune: _Prune = False,
    yes: _Yes = False,
    dry_run: _DryRun = False,
) -> ExitCode | None:
    """Make things as files declare them; what the files do not say is left as it is."""
    planned = _planned(session, file, label, prune=prune)
    if dry_run:
        return _show(session, planned, fields=True)
    archived = sum(each.action == "archive" for each in planned)
    if archived and not yes:
        _ask(session, planned, archived)
    done: list[Planned] = []
    try:
        for each in planned:
            _carry_out(session, each)
            done.append(each)
    except CertctlError:
        _tell(session, planned, done)
        raise
    _tell(session, planned, done)
    return None


def plan(session: Session, *, file: _Files, label: _Label = "", prune: _Prune = False) -> ExitCode | None:
    """Say what apply would do; exit code 4 when that is something."""
    return _show(session, _planned(session, file, label, prune=prune), fields=False)


def diff(session: Session, *, file: _Files, label: _Label = "", prune: _Prune = False) -> ExitCode | None:
    """Say field by field what apply would change; exit code 4 when that is something."""
    return _show(session, _planned(session, file, label, prune=prune), fields=True)


def _planned(session: Session, files: list[str], label: str, *, prune: bool) -> list[Planned]:
    from console import declared  # noqa: PLC0415 - reads YAML, which other commands need not wait for

    if prune and not label:
        raise InvalidInput.of("--prune", "needs --label: only what carries the label of this set is archived")
    found = declared.read(files)
    if not found and not prune:
        raise InvalidInput.of("--file", "nothing is declared there")
    planned = declared.plan(session.client, found, label)
    return planned + (declared.superfluous(session.client, found, label) if prune else [])


def _ask(session: Session, planned: list[Planned], archived: int) -> None:
    many = f"{archived} certificate" + ("" if archived == 1 else "s")
    if session.out.as_json or not sys.stdin.isatty():
        raise InvalidInput.of("--prune", f"would archive {many}; say --yes")
    _show(session, planned, fields=True)
    if not typer.confirm(f"Archive {many}?", err=True):
        raise InvalidInput.of("--prune", "was not confirmed; nothing was done")


def _carry_out(session: Session, each: Planned) -> None:
    client, path = session.client, path_of(each.resource.collection, each.id)
    try:
        match each.action:
            case "create":
                client.post(path_of(each.resource.collection), msgspec.Raw, {"id": each.id, **(each.spec or {})})
            case "update":
                client.patch(path, msgspec.Raw, each.spec or {}, each.etag)
            case "archive":
                client.delete(path, etag=each.etag)
            case "none":
                return
    except PreconditionFailed as error:
        detail = f"{each.id} was changed by somebody else since it was looked at; look at the plan again"
        raise PreconditionFailed(detail) from error
    except CertctlError as error:
        error.detail = f"{each.id}: {error.detail}"
        raise


def _show(session: Session, planned: list[Planned], *, fields: bool) -> ExitCode:
    """Write what there is to do; return the exit code that tells whether it is anything."""
    pending = [each for each in planned if each.action != "none"]
    if session.out.as_json:
        session.out.json(_document(planned, []))
    else:
        for each in pending:
            _write(session, each, fields=fields)
        session.out.note(_summary(planned))
    return ExitCode.PENDING if pending else ExitCode.OK


def _write(session: Session, each: Planned, *, fields: bool) -> None:
    from console.declared import kind_name  # noqa: PLC0415 - as above

    sign, tone = _SIGNS[each.action]
    session.out.line(Cell(f"{sign} {kind_name(each.resource)} {each.id}", tone))
    for difference in each.differences if fields else ():
        if each.action == "update":
            session.out.line(Cell(f"  - {difference.path}: {_words(difference.before)}", "bad"))
        session.out.line(Cell(f"  + {difference.path}: {_words(difference.after)}", "good"))


def _words(value: Any) -> str:  # noqa: ANN401 - any JSON
    return shorten(value if isinstance(value, str) and value else msgspec.json.encode(value).decode())


def _summary(planned: list[Planned]) -> str:
    counts = {action: sum(each.action == action for each in planned) for action in _SIGNS}
    return "{create} to make, {update} to change, {archive} to archive, {none} as declared".format(**counts)


def _tell(session: Session, planned: list[Planned], done: list[Planned]) -> None:
    if session.out.as_json:
        session.out.json(_document(planned, done))
        return
    for each in done:
        if each.action != "none":
            _write(session, each, fields=False)
    counts = {words: sum(each.action == action for each in done) for action, words in _DONE.items()}
    left = sum(each.action != "none" for each in planned[len(done) :])
    said = ", ".join(f"{number} {words}" for words, number in counts.items())
    session.out.note(said + (f"; {left} left" if left else ""))


def _document(planned: list[Planned], done: list[Planned]) -> bytes:
    from console.declared import kind_name  # noqa: PLC0415 - as above

    changes = [
        {
            "kind": kind_name(each.resource),
            "id": each.id,
            "action": each.action,
            "fields": [{"path": d.path, "before": d.before, "after": d.after} for d in each.differences],
            "done": place < len(done) and each.action != "none",
        }
        for place, each in enumerate(planned)
    ]
    pending = sum(change["action"] != "none" and not change["done"] for change in changes)
    return msgspec.json.encode({"changes": changes, "pending": pending})


def get(session: Session, kinds: _Kinds, reference: _References = None, *, output: _Form = "yaml") -> None:
    """Write things as apply reads them."""
    from console import declared  # noqa: PLC0415 - as above
    from console.documents import written  # noqa: PLC0415 - as above

    names = {declared.kind_name(each): each for each in declared.KINDS}
    wanted = list(declared.KINDS) if kinds == "all" else [declared.kind_of(name) for name in kinds.split(",")]
    if output not in {"yaml", "json"}:
        raise InvalidInput.of("--output", f"is {output!r}; yaml and json are known")
    documents, interface = list[dict[str, Any]](), declared.Interface(session.client)
    for resource in wanted:
        if resource is None:
            raise InvalidInput.of("KINDS", f"is {kinds!r}; there are {', '.join(names)}, and all")
        path = path_of(resource.collection)
        if reference:
            things = [session.client.get(f"{path}/{each}", dict[str, Any]).value for each in reference]
        else:
            things = session.client.collect(path, limit=None).rows(dict[str, Any])[::-1]
        documents += (declared.document_of(interface, resource, thing) for thing in things)
    if session.out.as_json or output == "json":
        session.out.json(msgspec.json.encode(documents))
    else:
        session.out.text(written(documents))
