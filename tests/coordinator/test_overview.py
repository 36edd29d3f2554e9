"""What pages show: how everything stands, what is at risk and why, what lies where, what a word finds, and for whom."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from coordinator.overview import store
from tests.coordinator.world import FakeAgent, World, bearer, done, problem

pytestmark = pytest.mark.anyio


async def limited(world: World) -> dict[str, str]:
    """Return the header of somebody who sees the team ``team-web`` only."""
    await world.post("/api/v1/teams", {"id": "team-web", "name": "web"})
    made = await world.post("/api/v1/api-keys", {"name": "limited", "role": "viewer", "teams": ["team-web"]})
    return bearer(made["key"])


async def served(world: World, agent: FakeAgent, name: str, **wish: Any) -> str:
    """Return a certificate that is served on a target of its own."""
    target = await world.target(agent, name)
    certificate_id, _ = await world.certificate(common_name=f"{name}.example.com", target_ids=[target], **wish)
    await agent.work()
    return certificate_id


async def why(world: World, **query: Any) -> dict[str, list[str]]:
    found = await world.get("/api/v1/horizon", "viewer", **query)
    return {row["id"]: row["why"] for row in found["at_risk"]}


async def test_the_overview_tells_how_everything_stands(world: World) -> None:
    agent = await world.agent()
    late = await served(world, agent, "late", lifetime_s=86400 * 40)
    soon = await served(world, agent, "soon", lifetime_s=86400 * 3)
    await world.certificate(common_name="broken.example.com", target_ids=[await world.target(agent, "broken")])
    await agent.issue(await agent.item())
    failed = await agent.item()
    await agent.fail(failed, "nginx -t said no")
    found = await world.get("/api/v1/overview", "viewer")
    assert found["certificates"]["life"]["valid"] == 3
    assert found["certificates"]["service"]["not served"] == 1
    assert found["agents"] == {"total": 1, "online": 1, "offline": 0}
    assert found["jobs"]["states"]["Pending"] == 1
    assert [row["id"] for row in found["next_due"]][:2] == [soon, late]
    (failure,) = found["newest_failures"]
    assert (failure["job_id"], failure["step"], failure["cause"]) == (failed.job_id, "validate", "nginx -t said no")
    assert failure["certificate_name"] == "broken.example.com"
    assert "broken" not in (await world.http.get("/api/v1/overview", headers=await limited(world))).text


async def test_the_horizon_has_every_day_once(world: World) -> None:
    agent = await world.agent()
    await served(world, agent, "soon", lifetime_s=86400 * 3)
    await served(world, agent, "late", lifetime_s=86400 * 30)
    by_day = (await world.get("/api/v1/horizon", by="day", days=31))["buckets"]
    assert [bucket["number"] for bucket in by_day].count(1) == 2
    assert (by_day[3]["number"], by_day[30]["number"]) == (1, 1)
    by_week = (await world.get("/api/v1/horizon", days=31))["buckets"]
    assert [bucket["number"] for bucket in by_week] == [1, 0, 0, 0, 1]
    days = [(bucket["first"], bucket["last"]) for bucket in by_week]
    assert (days[0][0], days[-1]) == (by_day[0]["first"], (by_day[28]["first"], by_day[30]["last"]))


async def test_what_is_at_risk_is_named_with_why(world: World) -> None:
    agent = await world.agent()
    fine = await served(world, agent, "fine", lifetime_s=86400 * 60)
    short = await served(world, agent, "short", lifetime_s=86400 * 3)
    await world.post("/api/v1/renewal-policies", {"id": "rp-off", "name": "off", "auto_renew": False})
    off = await served(world, agent, "off", lifetime_s=86400 * 20, renewal_policy_id="rp-off")
    assert await why(world) == {off: ["renewal is off"]}
    assert await why(world, days=10) == {}
    world.clock.advance(timedelta(days=2, hours=6))
    assert await why(world) == {short: ["not renewed yet"], off: ["renewal is off"]}
    assert list(await why(world)) == [short, off], "what ends first comes first"
    await world.execute("UPDATE agents SET last_seen_at = now() - interval '1 hour'")
    assert (await why(world))[short] == ["agent is away", "not renewed yet"]
    world.clock.advance(timedelta(days=1))
    assert (await why(world))[short] == ["expired", "agent is away"]
    await world.execute("UPDATE holders SET failures = 99 WHERE certificate_id = $1", fine)
    assert (await why(world))[fine] == ["failing"]
    target = await world.value("SELECT target_id FROM bindings WHERE certificate_id = $1", fine)
    await world.execute("UPDATE bindings SET served_version_id = NULL WHERE target_id = $1", target)
    assert (await why(world))[fine] == ["failing", "not served"]
    assert (await world.http.get("/api/v1/horizon", headers=await limited(world))).json()["at_risk"] == []


async def test_the_map_has_agents_targets_and_their_certificates(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = await limited(world)
    agent, other = await world.agent(), await world.agent("web-2")
    mine = await served(world, agent, "b-mine", team_id="team-web")
    foreign = await served(world, agent, "a-foreign")
    await world.target(agent, "c-bare")
    page = await world.get("/api/v1/fleet/map", sort="name", per_page=1)
    assert (page["total"], [row["id"] for row in page["data"]]) == (2, [agent.id])
    rest = await world.get("/api/v1/fleet/map", sort="name", page_size=1, cursor=page["next_cursor"])
    assert [row["id"] for row in rest["data"]] == [other.id]
    (found,) = page["data"]
    assert [target["name"] for target in found["targets"]] == ["a-foreign", "b-mine", "c-bare"]
    assert [(t["certificate"] or {}).get("id") for t in found["targets"]] == [foreign, mine, None]
    assert found["targets"][0]["certificate"]["served"] is True
    assert found["targets"][0]["certificate"]["life"] == "valid"
    seen = done(await world.http.get("/api/v1/fleet/map?sort=name", headers=caller))["data"][0]
    assert [(t["certificate"] or {}).get("id") for t in seen["targets"]] == [None, mine, None]
    monkeypatch.setattr(store, "MOST_TARGETS", 2)
    (found,) = (await world.get("/api/v1/fleet/map", sort="name", per_page=1))["data"]
    assert (len(found["targets"]), found["targets_total"]) == (2, 3)


async def test_a_search_finds_things_of_every_kind(world: World) -> None:
    agent = await world.agent("alpha-host")
    certificate = await served(world, agent, "alpha")
    await world.post("/api/v1/owners", {"id": "o-alpha", "name": "Alphabet"})

    async def hits(q: str, **query: Any) -> list[tuple[str, str]]:
        found = await world.get("/api/v1/search", "viewer", q=q, **query)
        return [(hit["kind"], hit["name"]) for hit in found["hits"]]

    everything = [("certificate", "alpha.example.com"), ("target", "alpha"), ("agent", "alpha-host")]
    assert await hits("ALPHA") == [*everything, ("owner", "Alphabet")]
    assert await hits("alpha.ex") == [("certificate", "alpha.example.com")]
    assert await hits("alpha%") == [("certificate", "alpha.example.com")], "no pattern, a word"
    assert await hits(certificate) == [("certificate", "alpha.example.com")]
    fingerprint = await world.value("SELECT fingerprint FROM certificate_versions")
    assert await hits(fingerprint.upper()) == [("certificate", "alpha.example.com")]
    assert await hits(agent.id) == [("agent", "alpha-host")]
    assert await hits("iss-local") == [("issuer", await world.value("SELECT name FROM issuers"))]
    assert await hits("...") == []
    problem(await world.call("GET", "/api/v1/search"), 400, "q")
    problem(await world.call("GET", "/api/v1/search?q=x&limit=51"), 400, "limit")


async def test_a_search_shows_a_few_and_says_that_there_is_more(world: World) -> None:
    for n in range(4):
        await world.certificate(common_name=f"many-{n}.example.com")
        await world.post("/api/v1/owners", {"name": f"Many {n}"})
    found = await world.get("/api/v1/search", q="many", limit=3)
    assert [hit["kind"] for hit in found["hits"]] == ["certificate"] * 3 + ["owner"] * 3
    assert found["more"] == ["certificate", "owner"]


async def test_a_search_stays_within_the_scope(world: World) -> None:
    caller = await limited(world)
    foreign, _ = await world.certificate(common_name="alpha.example.com")
    await world.certificate(common_name="alpha.example.org", team_id="team-web")
    await world.post("/api/v1/owners", {"name": "Alpha"})
    for q, names in (("alpha", ["alpha.example.org"]), (foreign, [])):
        found = done(await world.http.get("/api/v1/search", headers=caller, params={"q": q}))
        assert [hit["name"] for hit in found["hits"]] == names
