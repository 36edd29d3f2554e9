"""The numbers over HTTP. All are the caller's own, within its scope."""

from __future__ import annotations

from typing import Annotated

import msgspec

from coordinator.stats import service
from coordinator.stats.service import AgentNumbers, CertificateNumbers, DayNumbers, EndedOn, IssuedOn, JobNumbers
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Strict


class Summary(msgspec.Struct):
    """How everything stands, in numbers."""

    certificates: CertificateNumbers
    agents: AgentNumbers
    jobs: JobNumbers


class StatusNumber(msgspec.Struct):
    """How many certificates have a life."""

    status: str
    count: int


class DaysQuery(Strict):
    """How many days, the present one included; days are UTC's."""

    days: Annotated[int, msgspec.Meta(ge=1, le=365)] = 30


async def summary(call: Call[NoBody, NoQuery]) -> Summary:
    """Return the numbers of everything. The certificates' are those of this very moment."""
    scope = call.actor.scope
    async with call.ctx.db.connection() as conn:
        return Summary(
            await service.certificates(conn, scope, call.ctx.clock.now()),
            await service.agents(call.ctx, conn),
            await service.jobs(conn, scope),
        )


async def by_status(call: Call[NoBody, NoQuery]) -> list[StatusNumber]:
    """Return how many certificates have which life."""
    async with call.ctx.db.connection() as conn:
        numbers = await service.certificates(conn, call.actor.scope, call.ctx.clock.now())
    return [StatusNumber(life, number) for life, number in numbers.life.items()]


async def timeline(call: Call[NoBody, DaysQuery]) -> list[DayNumbers]:
    """Return what ends on each of the next days."""
    async with call.ctx.db.connection() as conn:
        return await service.ending(conn, call.actor.scope, call.ctx.clock.now(), call.query.days)


async def trends(call: Call[NoBody, DaysQuery]) -> list[EndedOn]:
    """Return how jobs ended on each of the last days."""
    async with call.ctx.db.connection() as conn:
        today = await service.today(conn)
        return await service.ended_jobs_by_day(conn, call.actor.scope, today, call.query.days)


async def rate(call: Call[NoBody, DaysQuery]) -> list[IssuedOn]:
    """Return how many certificates were issued on each of the last days."""
    async with call.ctx.db.connection() as conn:
        today = await service.today(conn)
        return await service.issued_by_day(conn, call.actor.scope, today, call.query.days)


_READ, _PATH = Permission.READ, "/api/v1/stats"

ROUTES = [
    Route("GET", f"{_PATH}/summary", summary, _READ, "How everything stands, in numbers", Summary),
    Route("GET", f"{_PATH}/certificates-by-status", by_status, _READ, "Certificates by their life", list[StatusNumber]),
    Route(
        "GET",
        f"{_PATH}/expiration-timeline",
        timeline,
        _READ,
        "What ends on which day",
        list[DayNumbers],
        query=DaysQuery,
    ),
    Route("GET", f"{_PATH}/job-trends", trends, _READ, "How jobs ended by day", list[EndedOn], query=DaysQuery),
    Route("GET", f"{_PATH}/issuance-rate", rate, _READ, "What was issued by day", list[IssuedOn], query=DaysQuery),
]
