"""What a page and a watcher look at first, over HTTP; all of it within the caller's scope."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

import msgspec

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.overview import service, store
from coordinator.overview.service import AtRisk, Bucket, Found, Stand
from coordinator.stats import service as stats
from coordinator.stats.service import AgentNumbers, CertificateNumbers, JobNumbers
from coordinator.web.paging import Page, PageQuery, of_row, read_page
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Streamed, Strict

_SHOWN = 10


class FailedJob(msgspec.Struct):
    """An attempt that failed, where and why."""

    job_id: str
    kind: str
    run_id: str
    certificate_id: str
    certificate_name: str
    agent_id: str
    target_id: str | None
    attempt: int
    step: str | None
    cause: str | None
    at: datetime | None


class Overview(msgspec.Struct):
    """How everything stands at a moment. ``next_due``: what falls due first by its own renewal policy, or is due.

    ``approvals_pending`` is exact up to 10,000.
    """

    at: datetime
    certificates: CertificateNumbers
    agents: AgentNumbers
    jobs: JobNumbers
    approvals_pending: int
    next_due: list[Stand]
    newest_failures: list[FailedJob]


class HorizonQuery(Strict):
    """How far to look, and whether by day or by week; days are UTC's, and a week begins today."""

    days: Annotated[int, msgspec.Meta(ge=1, le=365)] = 90
    by: Literal["day", "week"] = "week"


class Horizon(msgspec.Struct):
    """What ends when. ``at_risk`` names up to a hundred certificates that end by then unless something changes."""

    at: datetime
    buckets: list[Bucket]
    at_risk: list[AtRisk]


class MapCertificate(msgspec.Struct):
    """What a target should serve, and whether it does."""

    id: str
    name: str
    life: str
    expires_at: datetime | None
    served: bool
    reason: str


class MapTarget(msgspec.Struct):
    """A target and its certificate: none, or none that the caller may see."""

    id: str
    name: str
    type: str
    enabled: bool
    certificate: MapCertificate | None


class MapAgent(msgspec.Struct):
    """An agent with its targets by name: the first twenty of ``targets_total``."""

    id: str
    name: str
    os: str
    online: bool
    last_seen_at: datetime
    enrolled_at: datetime
    targets_total: int
    targets: list[MapTarget]


class MapQuery(PageQuery):
    """Filters of the map."""

    online: bool | None = None


class SearchQuery(Strict):
    """What to look for: words of names, the beginning of a name, an id, a fingerprint. At most ``limit`` of a kind."""

    q: Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
    limit: Annotated[int, msgspec.Meta(ge=1, le=50)] = 10


async def overview(call: Call[NoBody, NoQuery]) -> Overview:
    """Return how everything stands now."""
    scope, now = call.actor.scope, call.ctx.clock.now()
    async with call.ctx.db.connection() as conn:
        return Overview(
            now,
            await stats.certificates(conn, scope, now),
            await stats.agents(call.ctx, conn),
            await stats.jobs(conn, scope),
            await store.pending_approvals(conn, scope),
            await service.next_due(conn, scope, now, _SHOWN),
            [of_row(FailedJob, row) for row in await store.newest_failures(conn, scope, _SHOWN)],
        )


async def horizon(call: Call[NoBody, HorizonQuery]) -> Horizon:
    """Return what ends when, and what of it is at risk and why."""
    scope, now, query = call.actor.scope, call.ctx.clock.now(), call.query
    size = 1 if query.by == "day" else 7
    async with call.ctx.db.connection() as conn:
        return Horizon(
            now,
            await service.buckets(conn, scope, now, query.days, size),
            await service.at_risk(conn, scope, now, service.end_of(now, query.days)),
        )


async def fleet_map(call: Call[NoBody, MapQuery]) -> Page[MapAgent] | Streamed:
    """List agents with their targets and what these should serve."""

    async def shape(conn: Connection, rows: Sequence[Row]) -> list[MapAgent]:
        ids = [row["id"] for row in rows]
        found = await store.targets_of(conn, ids, call.actor.scope, call.ctx.clock.now())
        targets: dict[str, list[MapTarget]] = {each: [] for each in ids}
        for row in found:
            targets[row["agent_id"]].append(_target(row))
        own = [name for name in MapAgent.__struct_fields__ if name != "targets"]
        return [MapAgent(**{name: row[name] for name in own}, targets=targets[row["id"]]) for row in rows]

    return await read_page(call, store.AGENTS, MapAgent, shape)


def _target(row: Row) -> MapTarget:
    certificate = None
    if row["certificate_id"] is not None:
        certificate = MapCertificate(
            row["certificate_id"],
            row["certificate_name"],
            row["life"],
            row["expires_at"],
            served=row["served"],
            reason=row["reason"],
        )
    return MapTarget(row["id"], row["name"], row["type"], row["enabled"], certificate)


async def search(call: Call[NoBody, SearchQuery]) -> Found:
    """Find certificates, targets, agents, issuers and owners."""
    async with call.ctx.db.connection() as conn:
        return await service.search(conn, call.actor.scope, call.query.q.strip(), call.query.limit)


_READ = Permission.READ

ROUTES = [
    Route("GET", "/api/v1/overview", overview, _READ, "How everything stands", Overview),
    Route("GET", "/api/v1/horizon", horizon, _READ, "What ends when, what is at risk", Horizon, query=HorizonQuery),
    Route(
        "GET",
        "/api/v1/fleet/map",
        fleet_map,
        _READ,
        "Agents, their targets, their certificates",
        Page[MapAgent],
        query=MapQuery,
    ),
    Route("GET", "/api/v1/search", search, _READ, "Find things by their names", Found, query=SearchQuery),
]
