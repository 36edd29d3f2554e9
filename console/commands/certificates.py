"""``certctl certificates``: what is wanted, how it stands, and wanting it anew."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from console import progress
from console.answer import path_of
from console.commands import certificate_page
from console.commands.operations import AllMatching, Filters, bulk
from console.errors import ExitCode
from console.listing import Column, show_list
from console.lookup import AGENT, CERTIFICATE, ISSUER, PROFILE, find, find_target
from console.model import Certificate, Created, Renewal, Version
from console.render import Cell, shorten
from console.session import Session, command, group
from console.times import relative, stamp
from core.environment import parse_duration
from core.errors import InvalidInput

TONES = {"valid": "good", "served": "good", "due": "warn", "pending": "warn", "partly": "warn"}
app = group("What is wanted, how it stands, and wanting it anew.")

Reference = Annotated[str, typer.Argument(metavar="CERTIFICATE", help="Id, common name or name.")]
Wait = Annotated[bool, typer.Option("--wait", help="Show every step until it is served, or has failed.")]
Timeout = Annotated[str, typer.Option("--timeout", metavar="TIME", help="How long to wait, e.g. 120s, 5m.")]
DEFAULT_TIMEOUT = "120s"


def toned(word: str) -> Cell:
    """Return a state's word in its tone."""
    return Cell(word, "" if word == "unknown" else TONES.get(word, "bad"))


def _service(certificate: Certificate) -> Cell:
    stand = certificate.status
    if not stand.wanted_on:
        return Cell("")
    return Cell(f"{stand.service} ({stand.served_on}/{stand.wanted_on})", toned(stand.service).tone)


@command(app, "list", paged=True)
def list_certificates(  # noqa: PLR0913 - one for each option
    session: Session,
    *,
    q: Annotated[str, typer.Option("--search", metavar="WORDS", help="Only with such words in their names.")] = "",
    common_name: Annotated[str, typer.Option("--common-name", metavar="NAME", help="Only with this common name.")] = "",
    life: Annotated[str, typer.Option("--life", metavar="LIFE", help="pending, valid, due, expired …")] = "",
    service: Annotated[str, typer.Option("--service", metavar="SERVICE", help="served, partly, not served …")] = "",
    owner: Annotated[str, typer.Option("--owner", metavar="ID", help="Only of this owner.")] = "",
    team: Annotated[str, typer.Option("--team", metavar="ID", help="Only of this team.")] = "",
    tag: Annotated[str, typer.Option("--tag", metavar="KEY:VALUE", help="Only with this tag.")] = "",
    expires_before: Annotated[
        str, typer.Option("--expires-before", metavar="TIME", help="E.g. 2026-01-31T12:00:00Z.")
    ] = "",
    archived: Annotated[bool, typer.Option("--archived", help="Only archived ones.")] = False,
    environment: Annotated[str, typer.Option("--environment", metavar="TEXT", help="Only of this environment.")] = "",
    agent: Annotated[
        str, typer.Option("--agent", metavar="AGENT", help="Only what this agent (id or name) holds.")
    ] = "",
) -> None:
    """List certificates, newest first."""
    now = session.now
    columns = [
        Column("NAME", lambda row: row.name),
        Column("LIFE", lambda row: toned(row.status.life)),
        Column("SERVICE", _service),
        Column("EXPIRES", lambda row: relative(row.status.expires_at, now)),
        Column("RENEWAL", lambda row: relative(row.status.renew_at, now)),
        Column("ID", lambda row: row.id),
        Column("WHY", lambda row: shorten(row.status.reason)),
    ]
    query = {
        "q": q or None,
        "common_name": common_name or None,
        "life": life or None,
        "service": service or None,
        "owner_id": owner or None,
        "team_id": team or None,
        "tag": tag or None,
        "expires_before": expires_before or None,
        "archived": "true" if archived else None,
        "environment": environment or None,
        "agent_id": find(session.client, AGENT, agent).value.id if agent else None,
    }
    show_list(session, path_of("certificates"), Certificate, columns, query)


@command(app, "get")
def get(session: Session, certificate: Reference) -> None:
    """Show a certificate: how it stands, who holds it, where it is served, what was issued."""
    answer = find(session.client, CERTIFICATE, certificate)
    if session.out.as_json:
        session.out.json(answer.raw)
    else:
        certificate_page.show(session, answer.value)


@command(app, "versions", paged=True)
def versions(session: Session, certificate: Reference) -> None:
    """List what was issued for a certificate, newest first."""
    found = find(session.client, CERTIFICATE, certificate).value
    columns = [
        Column("ID", lambda row: row.id),
        Column("GENERATION", lambda row: str(row.generation)),
        Column("HOLDER", lambda row: row.holder),
        Column("SERIAL", lambda row: row.serial),
        Column("FROM", lambda row: stamp(row.not_before)),
        Column("UNTIL", lambda row: stamp(row.not_after)),
        Column("REVOKED", lambda row: stamp(row.revoked_at) if row.revoked_at else ""),
    ]
    show_list(session, path_of("certificates", found.id, "versions"), Version, columns)


@command(app, "create")
def create(  # noqa: PLR0913 - one for each option
    session: Session,
    common_name: Annotated[str, typer.Argument(help="The first name: a DNS name, an address or an e-mail address.")],
    *,
    san: Annotated[
        list[str] | None, typer.Option("--san", metavar="NAME", help="A further name; may be repeated.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", metavar="TARGET", help="Serve it there: id, name or AGENT/NAME; may be repeated."),
    ] = None,
    agent: Annotated[str, typer.Option("--agent", metavar="AGENT", help="Let this agent (id or name) hold it.")] = "",
    profile: Annotated[str, typer.Option("--profile", metavar="PROFILE", help="What it may be: id or name.")] = "",
    issuer: Annotated[str, typer.Option("--issuer", metavar="ISSUER", help="Who signs it: id or name.")] = "",
    lifetime: Annotated[
        str, typer.Option("--lifetime", metavar="TIME", help="How long it is valid, e.g. 47d, 12h.")
    ] = "",
    key_algorithm: Annotated[
        str,
        typer.Option(
            "--key-algorithm",
            metavar="ALGORITHM",
            help="ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072, rsa-4096 or ed25519.",
        ),
    ] = "",
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="What people call it.")] = "",
    environment: Annotated[str, typer.Option("--environment", metavar="TEXT", help="E.g. production.")] = "",
    owner: Annotated[str, typer.Option("--owner", metavar="ID", help="Who answers for it.")] = "",
    team: Annotated[str, typer.Option("--team", metavar="ID", help="Whose it is.")] = "",
    renewal_policy: Annotated[
        str, typer.Option("--renewal-policy", metavar="ID", help="When it is renewed, and who is told.")
    ] = "",
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="May be repeated.")] = None,
    chosen_id: Annotated[str, typer.Option("--id", metavar="ID", help="Choose its id, e.g. mc-api-prod.")] = "",
    wait: Wait = False,
    timeout: Timeout = DEFAULT_TIMEOUT,
) -> ExitCode | None:
    """Add a certificate; with --target or --agent its issuance starts at once."""
    if wait and not (target or agent):
        raise InvalidInput.of("--wait", "needs --target or --agent: without them nothing is issued yet")
    seconds = duration("--timeout", timeout).total_seconds()
    body: dict[str, Any] = {
        "common_name": common_name,
        "sans": san,
        "lifetime_s": int(duration("--lifetime", lifetime).total_seconds()) if lifetime else None,
        "key_algorithm": key_algorithm,
        "name": name,
        "environment": environment,
        "owner_id": owner,
        "team_id": team,
        "renewal_policy_id": renewal_policy,
        "tags": dict(_pair(text) for text in tag or []),
        "id": chosen_id,
        **_references(session, target or [], agent, profile, issuer),
    }
    given = {field: value for field, value in body.items() if value}
    answer = session.client.post(path_of("certificates"), Created, given)
    if wait:
        return _wait(session, answer.value.certificate, answer.value.job_ids[0], answer.value.job_ids, seconds)
    if session.out.as_json:
        session.out.json(answer.raw)
        return None
    made = answer.value.certificate
    session.out.line(f"{made.name} is {made.id}")
    session.out.note(_what_next(made, answer.value.job_ids))
    return None


def _references(session: Session, targets: list[str], agent: str, profile: str, issuer: str) -> dict[str, Any]:
    """Return the ids of what was named."""
    client = session.client
    return {
        "target_ids": [find_target(client, reference).value.id for reference in targets],
        "agent_id": find(client, AGENT, agent).value.id if agent else None,
        "profile_id": find(client, PROFILE, profile).value.id if profile else None,
        "issuer_id": find(client, ISSUER, issuer).value.id if issuer else None,
    }


def _what_next(made: Certificate, job_ids: tuple[str, ...]) -> str:
    if job_ids:
        return f"its issuance has started; follow it with: certctl jobs follow {job_ids[0]}"
    return f"nobody holds it yet; {made.id} is issued once it has a target or an agent"


@command(app, "renew")
def renew(
    session: Session,
    certificate: Annotated[
        str, typer.Argument(metavar="CERTIFICATE", help="Id, common name or name; or --filter.")
    ] = "",
    *,
    wait: Wait = False,
    timeout: Timeout = DEFAULT_TIMEOUT,
    filters: Filters = None,
    all_matching: AllMatching = False,
) -> ExitCode | None:
    """Renew a certificate now, or all that match."""
    if bool(certificate) == bool(filters):
        raise InvalidInput.of("CERTIFICATE", "or --filter: give one of them")
    if filters:
        return bulk(session, "renew", (), filters, everything=all_matching)
    seconds = duration("--timeout", timeout).total_seconds()
    found = find(session.client, CERTIFICATE, certificate).value
    answer = session.client.post(path_of("certificates", found.id, "renew"), Renewal)
    run_id = answer.value.run_id
    if wait and run_id:
        return _wait(session, found, run_id, answer.value.job_ids, seconds)
    if session.out.as_json:
        session.out.json(answer.raw)
        return None
    if run_id is None:
        session.out.line(
            f"the ACME client that holds {found.name} ({found.id}) is told to replace it when it asks next"
        )
        return None
    session.out.line(f"the renewal of {found.name} ({found.id}) has started as {run_id}")
    session.out.note(f"follow it with: certctl jobs follow {run_id}")
    return None


def _wait(
    session: Session, certificate: Certificate, run_id: str, job_ids: tuple[str, ...], seconds: float
) -> ExitCode:
    return progress.wait(session, certificate, run_id, job_ids, seconds)


def duration(option: str, text: str) -> timedelta:
    """Read the duration that an option was given; raise ``InvalidInput`` that names the option."""
    try:
        span = parse_duration(text)
    except ValueError as error:
        raise InvalidInput.of(option, str(error)) from None
    if not span:
        raise InvalidInput.of(option, "is no time at all; give more than 0s")
    return span


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InvalidInput.of("--tag", f"is {text!r}; write KEY=VALUE")
    return key, value
