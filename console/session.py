"""What every command has in common: connection options, ``--json``, paging, and how errors become exit codes.

A command is a function that takes a ``Session`` first. ``command`` gives it the common options and registers it.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.errors import ExitCode, exit_code
from console.render import Output
from console.settings import Options, Settings, load
from core.errors import CertctlError, InvalidInput

if TYPE_CHECKING:
    from console.client import Client

_DEFAULT_ROWS = 50

Server = Annotated[str, typer.Option("--server", metavar="URL", help="The coordinator (CERTCTL_SERVER_URL).")]
KeyFile = Annotated[
    str, typer.Option("--api-key-file", metavar="FILE", help="File with the API key (or CERTCTL_API_KEY).")
]
CABundle = Annotated[
    str,
    typer.Option("--ca-bundle", metavar="FILE", help="The coordinator's root, PEM (CERTCTL_SERVER_CA_BUNDLE_PATH)."),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Answer with one JSON document.")]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="ROWS", help=f"Rows at most.  [default: {_DEFAULT_ROWS}]")
]
Everything = Annotated[bool, typer.Option("--all", help="All rows.")]
Cursor = Annotated[str, typer.Option("--cursor", metavar="CURSOR", help="Go on from an earlier answer's next_cursor.")]


@dataclass(frozen=True)
class Paging:
    """Which rows of a list are wanted; ``limit`` None means all."""

    limit: int | None = _DEFAULT_ROWS
    cursor: str = ""


@dataclass
class Session:
    """One command in the making: how to reach the coordinator, and where results go."""

    settings: Settings
    out: Output
    paging: Paging = field(default_factory=Paging)

    @cached_property
    def client(self) -> Client:
        """Return the client, made when it is first used."""
        from console.client import Client  # noqa: PLC0415 - loads httpx, which --help and wrong usage need not wait for

        return Client(self.settings)

    @property
    def now(self) -> datetime:
        """Return the present instant."""
        return datetime.now(UTC)

    def close(self) -> None:
        """Close what was opened."""
        if "client" in self.__dict__:
            self.client.close()


Body = Callable[..., ExitCode | None]
_COMMON: dict[str, Any] = {"as_json": AsJSON, "server": Server, "api_key_file": KeyFile, "ca_bundle": CABundle}
_PAGED: dict[str, Any] = {"limit": Limit, "everything": Everything, "cursor": Cursor}
_DEFAULTS: dict[str, Any] = {"as_json": False, "everything": False, "limit": None}


def command(app: typer.Typer, name: str, *, paged: bool = False) -> Callable[[Body], Body]:
    """Register the decorated function as ``name``, with the common options, and those of lists when ``paged``."""
    extra = {**(_PAGED if paged else {}), **_COMMON}

    def register(body: Body) -> Body:
        def run(**values: Any) -> None:
            common = {option: values.pop(option) for option in extra}
            raise typer.Exit(_run(body, common, values))

        own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
        added = [
            inspect.Parameter(
                option, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS.get(option, ""), annotation=annotation
            )
            for option, annotation in extra.items()
        ]
        # typer reads what it offers from the signature; this one is the body's without its session, and more.
        vars(run)["__signature__"] = inspect.Signature([*own, *added])
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *added]}
        run.__doc__ = body.__doc__
        app.command(name)(run)
        return body

    return register


def _run(body: Body, common: dict[str, Any], values: dict[str, Any]) -> ExitCode:
    out, session = Output(as_json=common["as_json"]), None
    try:
        options = Options(common["server"], common["api_key_file"], common["ca_bundle"])
        session = Session(load(options, os.environ), out, _paging(common))
        return body(session, **values) or ExitCode.OK
    except CertctlError as error:
        out.error(error)
        return exit_code(error)
    except KeyboardInterrupt:
        out.note("stopped here; what the coordinator has taken on goes on")
        return ExitCode.INTERRUPTED
    finally:
        if session is not None:
            session.close()


def _paging(common: dict[str, Any]) -> Paging:
    limit = common.get("limit")
    if common.get("everything"):
        if limit is not None:
            raise InvalidInput.of("--limit", "contradicts --all; give one of them")
        return Paging(None, common.get("cursor", ""))
    return Paging(limit or _DEFAULT_ROWS, common.get("cursor", ""))


def group(help_text: str) -> typer.Typer:
    """Return a group of commands about one resource."""
    return typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None)


def prepare_output() -> None:
    """Let characters that the output's encoding lacks become question marks instead of a traceback."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
