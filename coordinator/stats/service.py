"""How many of what, for pages, watchers and metrics: one answer for all of them.

Numbers by life and service are exact at the moment of the question, on every coordinator. Agents are counted by each
coordinator every few seconds at most, since when they were last seen changes all the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Generic, TypeVar, get_args

import msgspec

from coordinator.certificates.status import Life, Service
from coordinator.database.connection import Connection
from coordinator.database.listing import Scope
from coordinator.stats import store
from core.states import FINAL, JobState

if TYPE_CHECKING:
    from coordinator.context import Context

MOST = store.MOST
KEPT_S = 5.0
T = TypeVar("T")
_FOLDED_AT_ONCE = 20_000
_AT_RISK = {"drifted", "outdated", "partly", "not served", "unknown"}


class AgentNumbers(msgspec.Struct):
    """How many agents there are; ``online``: seen within two minutes."""

    total: int
    online: int
    offline: int


class Kept(Generic[T]):
    """What was counted last; asked for by many at once it is counted once."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._found: T | None = None
        self._until = 0.0

    async def get(self, count: Callable[[], Awaitable[T]]) -> T:
        """Return what was counted at most ``KEPT_S`` ago."""
        async with self._lock:
            if self._found is None or time.monotonic() >= self._until:
                self._found = await count()
                self._until = time.monotonic() + KEPT_S
            return self._found


class CertificateNumbers(msgspec.Struct):
    """Certificates that are not archived, by life and by service. ``failing``: retries are used up, up to 10,000."""

    total: int
    life: dict[str, int]
    service: dict[str, int]
    failing: int


class JobNumbers(msgspec.Struct):
    """Jobs in hand by state, each exact up to 10,000, and for how many seconds the oldest one could have gone on."""

    live: int
    states: dict[str, int]
    oldest_s: dict[str, float]


class DayNumbers(msgspec.Struct):
    """What ends on a day; ``at_risk``: due already, or not served everywhere as it should be."""

    day: date
    number: int
    at_risk: int


class EndedOn(msgspec.Struct):
    """Jobs that ended on a day of UTC."""

    day: date
    completed: int
    failed: int
    cancelled: int


class IssuedOn(msgspec.Struct):
    """Certificates that were issued on a day of UTC."""

    day: date
    number: int


async def certificates(conn: Connection, scope: Scope, now: datetime) -> CertificateNumbers:
    """Return how certificates stand at a moment."""
    life: dict[str, int] = dict.fromkeys(get_args(Life), 0)
    service: dict[str, int] = dict.fromkeys(get_args(Service), 0)
    for row in await store.standing(conn, scope, now):
        life[row["life"]] += row["number"]
        service[row["service"]] += row["number"]
    return CertificateNumbers(sum(life.values()), life, service, min(MOST, await store.failing(conn, scope)))


async def jobs(conn: Connection, scope: Scope) -> JobNumbers:
    """Return what is in hand."""
    rows = await store.live_jobs(conn, scope)
    states = {row["state"]: min(MOST, row["number"]) for row in rows}
    oldest = {row["state"]: row["age_s"] for row in rows if row["age_s"] is not None}
    return JobNumbers(sum(states.values()), states, oldest)


async def agents(ctx: Context, conn: Connection) -> AgentNumbers:
    """Return how many agents there are."""

    async def count() -> AgentNumbers:
        row = await store.agents(conn)
        return AgentNumbers(row["total"], row["online"], row["total"] - row["online"])

    return await ctx.kept_agents.get(count)


async def ending(conn: Connection, scope: Scope, now: datetime, days: int) -> list[DayNumbers]:
    """Return what ends on each of the next days, today first. What ended earlier today is among today's."""
    today = now.date()
    found = {today + timedelta(days=n): DayNumbers(today + timedelta(days=n), 0, 0) for n in range(days)}
    for row in await store.ending(conn, scope, today, today + timedelta(days=days - 1)):
        entry = found[row["day"]]
        entry.number += row["number"]
        if row["due_on"] < today or row["service"] in _AT_RISK:
            entry.at_risk += row["number"]
    return list(found.values())


async def ended_jobs_by_day(conn: Connection, scope: Scope, today: date, days: int) -> list[EndedOn]:
    """Return how jobs ended on each of the last days, today last."""
    found = {day: EndedOn(day, 0, 0, 0) for day in _last(today, days)}
    for row in await store.happened(conn, "job", scope, min(found), today):
        entry, field = found[row["day"]], row["what"].split()[1].lower()
        setattr(entry, field, getattr(entry, field) + row["number"])
    return list(found.values())


async def issued_by_day(conn: Connection, scope: Scope, today: date, days: int) -> list[IssuedOn]:
    """Return how many certificates were issued on each of the last days, today last."""
    found = {day: IssuedOn(day, 0) for day in _last(today, days)}
    for row in await store.happened(conn, "version", scope, min(found), today):
        found[row["day"]].number += row["number"]
    return list(found.values())


async def today(conn: Connection) -> date:
    """Return the day of UTC by the database's clock, which ends and issuances are dated by."""
    return await store.today(conn)


def _last(today: date, days: int) -> list[date]:
    return [today - timedelta(days=number) for number in reversed(range(days))]


async def ended_jobs(conn: Connection, scope: Scope) -> dict[JobState, int]:
    """Return how many jobs ended in each state, ever."""
    rows = await store.ended_jobs(conn, scope)
    found = {JobState(row["state"]): int(row["number"]) for row in rows}
    return {state: found.get(state, 0) for state in FINAL}


async def fold(ctx: Context) -> int:
    """Move what has changed into the sums, some at a time; return how many changes that were."""
    async with ctx.db.connection() as conn:
        return await store.fold(conn, _FOLDED_AT_ONCE)
