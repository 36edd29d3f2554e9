"""A certificate in full, for people: how it stands, who holds it, where it is served, what was issued last."""

from __future__ import annotations

from datetime import timedelta

from console.answer import path_of
from console.lookup import AGENT, Names
from console.model import Binding, Certificate, Holder, Version
from console.render import Cell, Value
from console.session import Session
from console.times import exact, relative, spell, stamp

_VERSIONS = 10
_TONES = {"valid": "good", "served": "good", "due": "warn", "pending": "warn", "partly": "warn", "unknown": ""}


def show(session: Session, certificate: Certificate) -> None:
    """Write the page."""
    status, names = certificate.status, Names(session.client)
    listing = session.client.collect(path_of("certificates", certificate.id, "versions"), limit=_VERSIONS)
    versions = listing.rows(Version)
    names.resolve(AGENT, [holder.agent_id for holder in status.holders])
    session.out.fields(_head(session, certificate))
    for holder in status.holders:
        session.out.heading(f"Held by {_named(names, holder.agent_id)}")
        session.out.fields(_holder(session, holder), indent="  ")
    if status.bindings:
        session.out.heading("Targets")
        session.out.table(
            ("NAME", "AGENT", "STATE", "SINCE", "ID"),
            (_binding(session, names, bound, versions) for bound in status.bindings),
        )
        for bound in status.bindings:
            if bound.reason:
                tone = "bad" if bound.failures else "warn"
                session.out.paragraph(f"  {bound.target_name}: {_why(bound)}", tone, indent="  ")
    if versions:
        session.out.heading("Versions" if listing.next_cursor is None else f"Versions (the newest of {listing.total})")
        session.out.table(
            ("GENERATION", "HOLDER", "SERIAL", "ISSUED FROM", "UNTIL", "REVOKED", "ID"),
            (_version(names, version) for version in versions),
        )


def _named(names: Names, key: str) -> str:
    return key if names[key] == key else f"{names[key]} ({key})"


def _head(session: Session, certificate: Certificate) -> list[tuple[str, Value]]:
    status, now = certificate.status, session.now
    service = f"{status.service}, {status.served_on} of {status.wanted_on}" if status.wanted_on else "no targets"
    others = [name for name in certificate.sans if name != certificate.common_name]
    lifetime = spell(timedelta(seconds=certificate.lifetime_s))
    return [
        ("Certificate", f"{certificate.name} ({certificate.id})"),
        ("Names", ", ".join([certificate.common_name, *others])),
        ("Life", Cell(status.life, _TONES.get(status.life, "bad"))),
        ("Service", Cell(service, _TONES.get(status.service, "bad"))),
        ("Expires", exact(status.expires_at, now) if status.expires_at else ""),
        ("Renewal", exact(status.renew_at, now) if status.renew_at else ""),
        ("Key", f"{certificate.key_algorithm}, valid for {lifetime}"),
        ("Profile", certificate.profile_id),
        ("Issuer", certificate.issuer_id),
        ("Owner", f"{certificate.owner_id}, team {certificate.team_id}" if certificate.owner_id else ""),
        ("Environment", certificate.environment),
        ("Tags", ", ".join(f"{key}={value}" for key, value in sorted(certificate.tags.items()))),
        ("Added", exact(certificate.created_at, now)),
    ]


def _holder(session: Session, holder: Holder) -> list[tuple[str, Value]]:
    now = session.now
    if holder.version_id is None:
        return [("State", Cell("nothing issued yet", "warn")), ("Why", Cell(_why(holder), "bad"))]
    return [
        ("Generation", str(holder.generation)),
        ("Serial", holder.serial or ""),
        ("Fingerprint", holder.fingerprint or ""),
        ("Expires", exact(holder.not_after, now)),
        ("Renewal", exact(holder.renew_at, now) if holder.renew_at else "switched off"),
        ("Why", Cell(_why(holder), "bad")),
    ]


def _why(part: Holder | Binding) -> str:
    tries = f" ({part.failures} attempts failed in a row)" if part.failures > 1 else ""
    return f"{part.reason}{tries}" if part.reason else ""


def _binding(session: Session, names: Names, bound: Binding, versions: list[Version]) -> tuple[Value, ...]:
    since = relative(bound.served_at, session.now) if bound.served_at else ""
    older = next((f"generation {v.generation}" for v in versions if v.id == bound.served_version_id), "an older one")
    if bound.drift:
        state = Cell(bound.drift, "bad" if bound.drift == "served differs" else "warn")
    elif bound.is_served:
        state = Cell("served", "good")
    elif bound.served_version_id:
        state = Cell(f"serves {older}", "warn")
    else:
        state = Cell("not served", "warn" if bound.desired_version_id is None else "bad")
    return bound.target_name, names[bound.agent_id], state, since, bound.target_id


def _version(names: Names, version: Version) -> tuple[Value, ...]:
    return (
        str(version.generation),
        names[version.holder],
        version.serial,
        stamp(version.not_before),
        stamp(version.not_after),
        Cell(stamp(version.revoked_at), "bad") if version.revoked_at else "",
        version.id,
    )
