"""``certctl profiles`` and ``certctl issuers``: what may be issued, and who signs it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from console.answer import path_of
from console.listing import Column, show_list
from console.lookup import ISSUER, PROFILE, find
from console.model import Issuer, Profile
from console.render import Cell
from console.session import Session, command, group
from console.times import exact, spell

profiles = group("What may be issued.")
issuers = group("Who signs.")


def _enabled(thing: Profile | Issuer) -> Cell:
    return Cell("enabled", "good") if thing.enabled else Cell("disabled", "dim")


def _span(seconds: int) -> str:
    return spell(timedelta(seconds=seconds))


@command(profiles, "list", paged=True)
def list_profiles(session: Session) -> None:
    """List profiles, newest first."""
    columns = [
        Column("ID", lambda row: row.id),
        Column("NAME", lambda row: row.name),
        Column("STATE", _enabled),
        Column("LIFETIME", lambda row: f"{_span(row.default_lifetime_s)}, at most {_span(row.max_lifetime_s)}"),
        Column("KEYS", lambda row: ", ".join(row.key_algorithms)),
        Column("ISSUER", lambda row: row.default_issuer_id),
    ]
    show_list(session, path_of("profiles"), Profile, columns)


@command(profiles, "get")
def get_profile(
    session: Session, profile: Annotated[str, typer.Argument(metavar="PROFILE", help="Id or name.")]
) -> None:
    """Show what a profile allows."""
    answer = find(session.client, PROFILE, profile)
    if session.out.as_json:
        session.out.json(answer.raw)
        return
    found = answer.value
    session.out.fields(
        [
            ("Profile", f"{found.name} ({found.id})"),
            ("Description", found.description),
            ("State", _enabled(found)),
            ("Lifetime", f"{_span(found.default_lifetime_s)}, at most {_span(found.max_lifetime_s)}"),
            ("Keys", ", ".join(found.key_algorithms)),
            ("Usages", ", ".join(found.extended_key_usages)),
            ("Names", ", ".join(found.allowed_names) or "all"),
            ("Issuer", found.default_issuer_id),
            ("Added", exact(found.created_at, session.now)),
        ]
    )


@command(issuers, "list", paged=True)
def list_issuers(session: Session) -> None:
    """List issuers, newest first."""
    columns = [
        Column("ID", lambda row: row.id),
        Column("NAME", lambda row: row.name),
        Column("TYPE", lambda row: row.type),
        Column("STATE", _enabled),
    ]
    show_list(session, path_of("issuers"), Issuer, columns)


@command(issuers, "get")
def get_issuer(session: Session, issuer: Annotated[str, typer.Argument(metavar="ISSUER", help="Id or name.")]) -> None:
    """Show an issuer."""
    answer = find(session.client, ISSUER, issuer)
    if session.out.as_json:
        session.out.json(answer.raw)
        return
    found = answer.value
    session.out.fields(
        [
            ("Issuer", f"{found.name} ({found.id})"),
            ("Type", found.type),
            ("State", _enabled(found)),
            ("Added", exact(found.created_at, session.now)),
        ]
    )
