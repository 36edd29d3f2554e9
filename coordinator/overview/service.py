"""What is put together from the rooms for pages: what is at risk and why, what ends when, what a word finds."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Literal

import msgspec

from coordinator.certificates import service as certificates
from coordinator.certificates.status import Life, Service, Status
from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Scope
from coordinator.overview import store
from coordinator.stats import service as stats

Risk = Literal["expired", "revoked", "failing", "renewal is off", "agent is away", "not renewed yet", "not served",
               "drifted"]  # fmt: skip


class Stand(msgspec.Struct):
    """A certificate in a line."""

    id: str
    name: str
    life: Life
    service: Service
    expires_at: datetime | None
    renew_at: datetime | None
    failing: bool
    reason: str


class AtRisk(Stand):
    """A certificate that ends, or is not served, unless something changes; ``why`` says by what."""

    why: list[Risk]


class Bucket(msgspec.Struct):
    """What ends from ``first`` to ``last``, both included."""

    first: date
    last: date
    number: int
    at_risk: int


class Hit(msgspec.Struct):
    """Something that a search found; ``kind`` and ``id`` say where it is."""

    kind: Literal["certificate", "target", "agent", "issuer", "owner"]
    id: str
    name: str
    detail: str


class Found(msgspec.Struct):
    """What a search found, by kind; ``more`` names the kinds of which there is more than is shown."""

    hits: list[Hit]
    more: list[str]


async def next_due(conn: Connection, scope: Scope, now: datetime, limit: int) -> list[Stand]:
    """Return what falls due first by its own policy."""
    ids = await store.next_due(conn, scope, limit)
    found = {row["id"]: stand(row, status) for row, status in await certificates.stands(conn, ids, now)}
    return [found[each] for each in ids if each in found]


def stand(row: Row, status: Status) -> Stand:
    """Return a certificate in a line."""
    return Stand(
        row["id"],
        row["name"],
        status.life,
        status.service,
        status.expires_at,
        status.renew_at,
        status.failing,
        status.reason,
    )


async def at_risk(conn: Connection, scope: Scope, now: datetime, until: datetime) -> list[AtRisk]:
    """Return what is at risk until a moment, what ends first before all; a hundred at most."""
    ids = await store.troubled(conn, scope, now, until)
    found = await certificates.stands(conn, ids, now)
    away = await store.away(conn, sorted({holder.agent_id for _, status in found for holder in status.holders}))
    risks = [
        AtRisk(**msgspec.structs.asdict(stand(row, status)), why=why)
        for row, status in found
        if (why := reasons(status, away))
    ]
    return sorted(risks, key=lambda risk: (risk.expires_at or until, risk.id))


def reasons(status: Status, away: set[str]) -> list[Risk]:
    """Return why a certificate is at risk, the worst first; ``away`` are agents that were not seen lately."""
    lives: dict[Life, Risk] = {"expired": "expired", "revoked": "revoked"}
    why: list[Risk] = [lives[status.life]] if status.life in lives else []
    if status.failing:
        why.append("failing")
    if status.life in {"valid", "due"} and status.renew_at is None:
        why.append("renewal is off")
    if status.life != "valid" and any(holder.agent_id in away for holder in status.holders):
        why.append("agent is away")
    if status.life == "due":
        why.append("not renewed yet")
    if status.bindings and status.service not in {"served", "drifted", "unknown"}:
        why.append("not served")
    if any(binding.drift for binding in status.bindings):
        why.append("drifted")
    return why


async def buckets(conn: Connection, scope: Scope, now: datetime, days: int, size: int) -> list[Bucket]:
    """Return what ends in each of the next days, ``size`` days in a bucket."""
    ending = await stats.ending(conn, scope, now, days)
    pieces = [ending[place : place + size] for place in range(0, len(ending), size)]
    return [
        Bucket(piece[0].day, piece[-1].day, sum(day.number for day in piece), sum(day.at_risk for day in piece))
        for piece in pieces
    ]


def end_of(now: datetime, days: int) -> datetime:
    """Return the moment in which the last of these days is over."""
    return datetime(now.year, now.month, now.day, tzinfo=now.tzinfo) + timedelta(days=days)


async def search(conn: Connection, scope: Scope, text: str, limit: int) -> Found:
    """Return what a text finds: words of certificates' names, beginnings of the others', ids, fingerprints."""
    found = Found([], [])
    exact = await store.certificate_of(conn, scope, text.lower())
    rows, more = await certificates.search(conn, scope, text, limit)
    if exact is not None:
        rows = [exact, *(row for row in rows if row["id"] != exact["id"])][:limit]
    found.hits += [Hit("certificate", row["id"], row["name"], "") for row in rows]
    if more:
        found.more.append("certificate")
    others: dict[Literal["target", "agent", "issuer", "owner"], list[Row]] = {
        "target": await store.named(conn, "targets", "type", scope, text, limit),
        "agent": await store.named(conn, "agents", "hostname", scope, text, limit),
        "issuer": await store.named(conn, "issuers", "type", scope, text, limit),
        "owner": await store.named(conn, "owners", "team_id", scope, text, limit),
    }
    for kind, rows in others.items():
        found.hits += [Hit(kind, row["id"], row["name"], row["detail"]) for row in rows[:limit]]
        if len(rows) > limit:
            found.more.append(kind)
    return found
