"""The ``certctl`` command: a client of the coordinator's HTTP interface, and nothing more.

Help is plain text: it is read in pipes as often as on terminals, and it is there at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from console.commands import (
    agents,
    apply,
    approvals,
    audit,
    authorities,
    certificate_actions,
    generic,
    jobs,
    look,
    members,
    notifications,
    numbers,
    operations,
    status,
    targets,
)
from console.resources import GROUP, RESOURCES
from console.session import group, prepare_output

EPILOG = """\b
Where and who:
  CERTCTL_SERVER_URL             the coordinator, default https://127.0.0.1:8443
  CERTCTL_API_KEY                the API key; or --api-key-file FILE
  CERTCTL_SERVER_CA_BUNDLE_PATH  the coordinator's root, PEM; or --ca-bundle FILE
  CERTCTL_SERVER_CA_SHA256       the SHA-256 of that root instead
On a coordinator's own host none is needed: its data folder is used
(CERTCTL_DATA_DIR, default /var/lib/certctl as root).

\b
Exit codes:
  0  done
  1  it did not happen: a renewal failed, the coordinator refused, not found
  2  wrong usage: an option, a value, a setting
  3  the coordinator cannot be reached, is not trusted, or does not know the key
  4  plan, diff, apply --dry-run: there is something to do
"""

_NOT_NEEDED = ("h2", "httpx._main", "trio")
"""What httpx would load because it is installed for others: HTTP/2, its own command line, an event loop. Without them a
command answers a third sooner; each is optional to httpx."""

app = typer.Typer(
    name="certctl",
    help="Certificates: issued, deployed, renewed, and proved to be served.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
status.register(app)
look.register(app)
apply.register(app)
app.add_typer(certificate_actions.app, name="certificates")
app.add_typer(operations.app, name="operations")
app.add_typer(agents.app, name="agents")
app.add_typer(targets.app, name="targets")
app.add_typer(jobs.app, name="jobs")
app.add_typer(approvals.app, name="approvals")
app.add_typer(notifications.app, name="notifications")
app.add_typer(audit.app, name="audit")
app.add_typer(agents.tokens, name="enrollment-tokens")
app.add_typer(authorities.profiles, name="profiles")
app.add_typer(authorities.issuers, name="issuers")
app.add_typer(numbers.loops, name="loops")
numbers.register(app)
for _resource in RESOURCES:
    _group = next((each.typer_instance for each in app.registered_groups if each.name == _resource.collection), None)
    if _group is None:
        _group = group(_resource.about)
        app.add_typer(_group, name=_resource.collection)
    generic.register(_group, _resource)
    if _resource.kind is GROUP:
        members.register(_group)


def _show_version(value: bool) -> None:  # noqa: FBT001 - typer calls it so
    if value:
        from importlib.metadata import version  # noqa: PLC0415 - reads files

        typer.echo(f"certctl {version('certctl')}")
        raise typer.Exit


@app.callback()
def _certctl(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and end the process with its exit code."""
    for name in _NOT_NEEDED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type] # None is the documented way to block an import
    prepare_output()
    app()


if __name__ == "__main__":
    main()
