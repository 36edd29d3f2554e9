"""``certctl certificates revoke``, ``deploy``, ``reassign``, ``import`` and ``export``."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from console.answer import path_of
from console.commands import certificates
from console.commands.operations import AllMatching, Filters, bulk, filters_of
from console.errors import ExitCode
from console.lookup import CERTIFICATE, find
from console.many import Imported, Revocation
from console.render import Cell
from console.session import Session, command
from core.errors import InvalidInput, Misconfigured

app = certificates.app
Some = Annotated[
    list[str] | None, typer.Argument(metavar="CERTIFICATE", help="Ids, common names or names; or --filter.")
]
_TONES = {"imported": "good", "failed": "bad", "dropped": "warn"}


def ids_of(session: Session, references: Sequence[str] | None, filters: Sequence[str] | None) -> list[str]:
    """Return the ids of what was named; raise ``InvalidInput`` unless either names or filters are given."""
    if bool(references) == bool(filters):
        raise InvalidInput.of("CERTIFICATE", "or --filter: give one of them")
    return [find(session.client, CERTIFICATE, reference).value.id for reference in references or ()]


@command(app, "revoke")
def revoke(
    session: Session,
    references: Some = None,
    *,
    reason: Annotated[str, typer.Option("--reason", metavar="WORD", help="As in RFC 5280, e.g. keyCompromise.")] = "",
    renew: Annotated[
        bool | None, typer.Option("--renew/--no-renew", help="Whether to replace it; by default the reason decides.")
    ] = None,
    filters: Filters = None,
    all_matching: AllMatching = False,
) -> ExitCode:
    """Revoke what was issued; what is still wanted is renewed with a new key. Many at once need an administrator."""
    chosen = ids_of(session, references, filters)
    if len(chosen) == 1:
        return _revoke(session, chosen[0], {"reason": reason or None, "renew": renew})
    return bulk(session, "revoke", chosen, filters, everything=all_matching, reason=reason or None, renew=renew)


def _revoke(session: Session, certificate_id: str, options: Mapping[str, Any]) -> ExitCode:
    """Revoke one certificate, which takes no administrator."""
    body = {name: value for name, value in options.items() if value is not None}
    answer = session.client.post(path_of("certificates", certificate_id, "revoke"), Revocation, body)
    if session.out.as_json:
        session.out.json(answer.raw)
        return ExitCode.OK
    done = answer.value
    session.out.line(f"{certificate_id} is revoked ({done.reason}): {', '.join(done.version_ids)}")
    session.out.note("it is renewed with a new key" if done.job_ids else "it is not renewed")
    return ExitCode.OK


@command(app, "deploy")
def deploy(
    session: Session, references: Some = None, *, filters: Filters = None, all_matching: AllMatching = False
) -> ExitCode:
    """Send targets again what they should serve."""
    return bulk(session, "deploy", ids_of(session, references, filters), filters, everything=all_matching)


@command(app, "reassign")
def reassign(
    session: Session,
    references: Some = None,
    *,
    owner: Annotated[str, typer.Option("--owner", metavar="ID", help="Who answers for them from now on.")] = "",
    team: Annotated[str, typer.Option("--team", metavar="ID", help="Whose they are from now on.")] = "",
    filters: Filters = None,
    all_matching: AllMatching = False,
) -> ExitCode:
    """Give certificates another owner, another team or both."""
    chosen = ids_of(session, references, filters)
    return bulk(
        session, "reassign", chosen, filters, everything=all_matching, owner_id=owner or None, team_id=team or None
    )


@command(app, "import")
def import_file(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="PEM, PKCS#12 (.p12, .pfx) or a Java key store (.jks).")],
    *,
    password_file: Annotated[
        str, typer.Option("--password-file", metavar="FILE", help="File with the password of a key store.")
    ] = "",
    environment: Annotated[str, typer.Option("--environment", metavar="TEXT", help="E.g. production.")] = "",
    owner: Annotated[str, typer.Option("--owner", metavar="ID", help="Who answers for them.")] = "",
    team: Annotated[str, typer.Option("--team", metavar="ID", help="Whose they are.")] = "",
) -> ExitCode:
    """Take certificates that were issued elsewhere into the inventory. Private keys in the file are dropped."""
    body = _content(file)
    password = _read(Path(password_file)).decode().rstrip("\r\n") if password_file else ""
    more = {"environment": environment, "owner_id": owner, "team_id": team, "password": password}
    body |= {name: value for name, value in more.items() if value}
    answer = session.client.post(path_of("certificates", "import"), Imported, body)
    if session.out.as_json:
        session.out.json(answer.raw)
    else:
        rows = (
            (
                row.entry,
                Cell(row.outcome, _TONES.get(row.outcome, "")),
                row.subject,
                row.certificate_id or "",
                row.detail,
            )
            for row in answer.value.entries
        )
        session.out.table(("ENTRY", "OUTCOME", "SUBJECT", "CERTIFICATE", "WHY"), rows)
    return ExitCode.NOT_DONE if answer.value.failed else ExitCode.OK


def _content(file: Path) -> dict[str, Any]:
    """Return the field of the request that a file's content goes into: by its first bytes."""
    data = _read(file)
    if data[:4] in {b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce"}:
        return {"jks": base64.b64encode(data).decode()}
    if data[:1] == b"\x30":
        return {"pkcs12": base64.b64encode(data).decode()}
    return {"pem": data.decode(errors="replace")}


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{file} cannot be read: {error.strerror}") from error


@command(app, "export")
def export(
    session: Session,
    certificate: Annotated[str, typer.Argument(metavar="CERTIFICATE", help="Id, common name or name.")] = "",
    *,
    form: Annotated[str, typer.Option("--format", metavar="WORD", help="pem, der or pkcs12.")] = "pem",
    include: Annotated[str, typer.Option("--include", metavar="WORD", help="leaf, chain or fullchain.")] = "fullchain",
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="Write it there.  [default: standard output]")] = "",
    filters: Filters = None,
) -> None:
    """Write a certificate, or all that match --filter as PEM. There is no key in it."""
    if bool(certificate) == bool(filters):
        raise InvalidInput.of("CERTIFICATE", "or --filter: give one of them")
    if certificate:
        found = find(session.client, CERTIFICATE, certificate).value
        query: dict[str, str | bool] = {"format": form, "include": include}
        content = session.client.download(path_of("certificates", found.id, "export"), query)
    else:
        given = {**filters_of(filters), "include": include}
        query = {name: str(value).lower() if isinstance(value, bool) else value for name, value in given.items()}
        content = session.client.download(path_of("certificates", "export"), query)
    if out:
        Path(out).write_bytes(content)
        session.out.note(f"{len(content)} bytes are in {out}")
    else:
        session.out.data(content)
