"""Numbers that are kept are the same as those that are counted, whatever happens, for everybody who asks."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from coordinator.stats import service as stats
from tests.coordinator.world import World, bearer, done, problem

pytestmark = pytest.mark.anyio
LIMITED = {"name": "limited", "role": "viewer", "teams": ["team-web"], "environments": ["prod"]}


async def headers(world: World) -> list[dict[str, str]]:
    """Return the headers of callers: one who sees all, and some who see parts."""
    scopes: list[dict[str, Any]] = [{}, {"teams": ["team-web"]}, {"environments": ["prod"]}, LIMITED]
    keys = [
        await world.post("/api/v1/api-keys", {"name": f"k{n}", "role": "viewer", **scope})
        for n, scope in enumerate(scopes)
    ]
    return [bearer(key["key"]) for key in keys]


async def check(world: World, callers: list[dict[str, str]]) -> dict[str, Any]:
    """Hold the numbers against the lists, for each of the callers; return what the first one was told."""
    told = list[dict[str, Any]]()
    for caller in callers:
        listed = done(await world.http.get("/api/v1/certificates", headers=caller, params={"per_page": 500}))["data"]
        summary = done(await world.http.get("/api/v1/stats/summary", headers=caller))
        numbers = summary["certificates"]
        assert {life: n for life, n in numbers["life"].items() if n} == Counter(row["status"]["life"] for row in listed)
        served = Counter(row["status"]["service"] for row in listed)
        assert {service: n for service, n in numbers["service"].items() if n} == served
        assert numbers["total"] == len(listed)
        assert numbers["failing"] == sum(row["status"]["failing"] for row in listed)
        by_status = done(await world.http.get("/api/v1/stats/certificates-by-status", headers=caller))
        assert {row["status"]: row["count"] for row in by_status} == numbers["life"]
        timeline = done(await world.http.get("/api/v1/stats/expiration-timeline?days=90", headers=caller))
        live = [row for row in listed if row["status"]["life"] in {"valid", "due"}]
        ends = Counter(row["status"]["expires_at"][:10] for row in live)
        assert {row["day"]: row["number"] for row in timeline[1:] if row["number"]} == {
            day: number for day, number in ends.items() if timeline[1]["day"] <= day <= timeline[-1]["day"]
        }
        told.append(summary)
    return told[0]


async def test_the_numbers_are_those_of_the_lists(world: World) -> None:
    await world.post("/api/v1/teams", {"id": "team-web", "name": "web"})
    callers = await headers(world)
    await check(world, callers)
    agent = await world.agent()
    targets = [await world.target(agent, f"site-{n}") for n in range(4)]
    ids = []
    for n, days in enumerate((1, 2, 30, 60, 80)):
        wish = {"lifetime_s": days * 86400, "environment": ("prod", "lab")[n % 2], "common_name": f"a{n}.example.com"}
        team = {"team_id": "team-web"} if n % 3 else {}
        bound = {"target_ids": targets[n : n + 1]} if n < len(targets) else {"agent_id": agent.id}
        ids.append((await world.certificate(**wish, **team, **bound))[0])
    await world.certificate(common_name="nobody.example.com")
    assert (await check(world, callers))["jobs"]["states"]["AwaitingCSR"] == len(ids)
    await agent.work()
    told = await check(world, callers)
    assert told["certificates"]["life"] == {"pending": 1, "valid": 5, "due": 0, "expired": 0, "revoked": 0}
    assert told["certificates"]["service"]["served"] == 4
    await stats.fold(world.ctx)
    assert await world.value("SELECT count(*) FROM tally_changes") == 0
    await check(world, callers)
    for hours in (1, 15, 3, 6, 20, 24, 24 * 20, 24 * 20):
        world.clock.advance(timedelta(hours=hours))
        await check(world, callers)
    told = await check(world, callers)
    assert told["certificates"]["life"]["expired"] == 3
    await world.execute("UPDATE certificate_versions SET revoked_at = now() WHERE certificate_id = $1", ids[3])
    await world.call("PATCH", f"/api/v1/certificates/{ids[4]}", json={"team_id": "default", "environment": "lab"})
    await world.call("DELETE", f"/api/v1/certificates/{ids[0]}", params={"force": "true"})
    told = await check(world, callers)
    assert told["certificates"]["life"]["revoked"] == 1
    await stats.fold(world.ctx)
    await check(world, callers)
    before = await world.rows(
        "SELECT * FROM tallies WHERE number <> 0 AND about = 'certificate' ORDER BY 1, 2, 3, 4, 5, 6"
    )
    await world.execute("SELECT tally_anew()")
    anew = await world.rows(
        "SELECT * FROM tallies WHERE number <> 0 AND about = 'certificate' ORDER BY 1, 2, 3, 4, 5, 6"
    )
    assert anew == before


async def test_what_ended_and_what_was_issued_is_told_by_day(world: World) -> None:
    agent = await world.agent()
    target = await world.target(agent)
    await world.certificate(target_ids=[target])
    await agent.issue(await agent.item())
    await agent.fail(await agent.item())
    for _ in range(2):
        *past, today = await world.get("/api/v1/stats/job-trends", days=7)
        assert len(past) == 6
        assert not any(day["completed"] for day in past)
        assert (today["completed"], today["failed"], today["cancelled"]) == (1, 1, 0)
        *_, issued = await world.get("/api/v1/stats/issuance-rate", days=1)
        assert issued["number"] == 1
        await stats.fold(world.ctx)


async def test_two_coordinators_tell_the_same_and_fold_once(replicas: tuple[World, World]) -> None:
    one, two = replicas
    await one.certificate()
    for world in (one, two):
        assert (await world.get("/api/v1/stats/summary"))["certificates"]["total"] == 1
    async with one.ctx.db.transaction() as tx:
        assert await tx.fetchval("SELECT fold_tallies(100)") > 0
        assert await stats.fold(two.ctx) == 0
    assert (await two.get("/api/v1/stats/summary"))["certificates"]["total"] == 1


async def test_agents_are_counted_once_in_a_while(world: World) -> None:
    await world.agent()
    assert (await world.get("/api/v1/stats/summary"))["agents"] == {"total": 1, "online": 1, "offline": 0}
    await world.agent("web-2")
    assert (await world.get("/api/v1/stats/summary"))["agents"]["total"] == 1
    world.ctx.kept_agents = stats.Kept()
    assert (await world.get("/api/v1/stats/summary"))["agents"]["total"] == 2


@pytest.mark.parametrize("days", ["0", "366", "x"])
async def test_days_are_a_year_at_most(world: World, days: str) -> None:
    problem(await world.call("GET", f"/api/v1/stats/issuance-rate?days={days}"), 400, "days")
