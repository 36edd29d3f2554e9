"""What the list of certificates can be asked for, and what became of one: versions, deployments, timeline."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from coordinator.database import searching
from tests.coordinator.test_lists import walk
from tests.coordinator.world import KEYS, World, bearer, done, problem

pytestmark = pytest.mark.anyio
CERTIFICATES = "/api/v1/certificates"


async def names(world: World, **query: Any) -> list[str]:
    rows = await walk(world, "certificates", page_size=2, **query)
    return sorted(row["name"] for row in rows)


@pytest.fixture
async def stock(world: World) -> World:
    """Certificates that differ in everything that a list can be asked for."""
    agent, other = await world.agent(), await world.agent("other")
    await world.post("/api/v1/teams", {"id": "team-web", "name": "Web"})
    await world.post("/api/v1/owners", {"id": "o-ada", "name": "Ada"})
    await world.post("/api/v1/profiles", {"id": "prof-two", "name": "Two", "max_lifetime_s": 3600})
    await world.execute("INSERT INTO renewal_policies (id, name) VALUES ('rp-two', 'Two')")
    await world.execute("INSERT INTO issuers (id, name, type) VALUES ('iss-two', 'Two', 'local')")
    target = await world.target(agent)
    made: dict[str, dict[str, Any]] = {
        "plain": {"common_name": "www.example.com"},
        "bound": {"common_name": "api.example.com", "target_ids": [target], "lifetime_s": 3600},
        "held": {"common_name": "db.internal.test", "agent_id": other.id, "lifetime_s": 86400},
        "theirs": {"common_name": "shop.example.org", "team_id": "team-web", "owner_id": "o-ada"},
        "tagged": {"common_name": "a.test", "tags": {"app": "a:b", "tier": "1"}, "environment": "prod"},
        "special": {"common_name": "b.test", "profile_id": "prof-two", "renewal_policy_id": "rp-two"},
        "foreign": {"common_name": "c.test", "issuer_id": "iss-two", "sans": ["mail-7.eu-west.example.com"]},
    }
    for name, wish in made.items():
        await world.certificate(name=name, **wish)
    await agent.work()
    await other.work()
    return world


async def test_every_filter_finds_what_it_names(stock: World, subtests: pytest.Subtests) -> None:
    agents = {row["name"]: row["id"] for row in await stock.rows("SELECT id, name FROM agents")}
    target = await stock.value("SELECT id FROM targets")
    now = stock.clock.now()
    hours = {number: (now + timedelta(hours=number)).isoformat() for number in (-1, 2, 48)}
    everything = ["bound", "foreign", "held", "plain", "special", "tagged", "theirs"]
    expected: list[tuple[dict[str, str], list[str]]] = [
        ({}, everything),
        ({"name": "plain"}, ["plain"]),
        ({"common_name": "a.test"}, ["tagged"]),
        ({"life": "valid"}, ["bound", "held"]),
        ({"life": "pending"}, ["foreign", "plain", "special", "tagged", "theirs"]),
        ({"life": "expired"}, []),
        ({"service": "served"}, ["bound"]),
        ({"environment": "prod"}, ["tagged"]),
        ({"owner_id": "o-ada"}, ["theirs"]),
        ({"team_id": "team-web"}, ["theirs"]),
        ({"issuer_id": "iss-two"}, ["foreign"]),
        ({"profile_id": "prof-two"}, ["special"]),
        ({"renewal_policy_id": "rp-two"}, ["special"]),
        ({"agent_id": agents["other"]}, ["held"]),
        ({"target_id": target}, ["bound"]),
        ({"tag": "app:a:b"}, ["tagged"]),
        ({"tag": "app:a"}, []),
        ({"expires_before": hours[2]}, ["bound"]),
        ({"expires_after": hours[2]}, ["held"]),
        ({"expires_before": hours[48], "expires_after": hours[-1]}, ["bound", "held"]),
        ({"renews_before": hours[2]}, ["bound"]),
        ({"created_before": hours[-1]}, []),
        ({"created_after": hours[-1]}, everything),
        ({"updated_before": hours[2]}, everything),
        ({"updated_after": hours[2]}, []),
        ({"archived": "true"}, []),
        ({"q": "example"}, ["bound", "foreign", "plain", "theirs"]),
        ({"q": "EXAM org"}, ["theirs"]),
        ({"q": "api.example.com"}, ["bound"]),
        ({"q": "mail eu"}, ["foreign"]),
        ({"q": "eu-west"}, ["foreign"]),
        ({"q": "ample"}, []),
        ({"q": "held"}, ["held"]),
        ({"q": "example", "life": "valid"}, ["bound"]),
    ]
    for query, found in expected:
        with subtests.test(str(query)):
            assert await names(stock, **query) == found
            assert (await stock.get(CERTIFICATES, **query))["total"] == len(found)


async def test_time_changes_what_a_list_finds(stock: World) -> None:
    stock.clock.advance(timedelta(minutes=45))
    assert (await names(stock, life="due"), await names(stock, life="valid")) == (["bound"], ["held"])
    stock.clock.advance(timedelta(minutes=16))
    assert (await names(stock, life="expired"), await names(stock, life="due")) == (["bound"], [])


async def test_a_filter_that_cannot_be_read_is_named(world: World, subtests: pytest.Subtests) -> None:
    wrong = {
        "expires_before": ["yesterday", "2026-01-01", "2026-01-01T00:00:00", "1767225600", "2026-13-01T00:00:00Z", ""],
        "created_after": ["0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00"],
        "life": ["dead"],
        "service": ["Served"],
        "archived": ["perhaps"],
        "tag": ["app", ":x"],
        "q": ["", "...", "x" * 301, "a b c d e f g h i j k"],
        "sort": ["expiry", "-"],
    }
    for name, values in wrong.items():
        for value in values:
            with subtests.test(f"{name}={value[:30]}"):
                problem(await world.call("GET", CERTIFICATES, params={name: value}), 400, name)


@pytest.mark.parametrize("hostile", ["a' | 'b", "a:*b", "\\", "'); DROP TABLE teams; --", "é ß 漢", "!&|()<->"])
async def test_a_search_takes_words_for_words(world: World, hostile: str) -> None:
    await world.certificate(name=hostile)
    response = await world.call("GET", CERTIFICATES, params={"q": hostile})
    if any(character.isalnum() for character in hostile):
        assert done(response)["total"] == 1
    else:
        problem(response, 400, "q")


@pytest.mark.parametrize("near", [1, 3, 5])
@pytest.mark.parametrize("query", [{"q": "example"}, {"q": "example", "sort": "name"}, {"q": "test"}, {"q": "held"}])
async def test_a_search_finds_the_same_however_far_it_looks_first(
    stock: World, monkeypatch: pytest.MonkeyPatch, near: int, query: dict[str, str]
) -> None:
    every = await stock.get(CERTIFICATES, **query)
    monkeypatch.setattr(searching, "NEAR", near)
    assert await stock.get(CERTIFICATES, **query) == every
    assert await walk(stock, "certificates", page_size=1, **query) == every["data"]
    assert await walk(stock, "certificates", page_size=2, environment="", **query) == [
        row for row in every["data"] if row["environment"] == ""
    ]
    numbered = [await stock.get(CERTIFICATES, page=page, per_page=1, **query) for page in range(1, every["total"] + 1)]
    assert [page["data"][0] for page in numbered] == every["data"]
    assert {(page["total"], page["total_exact"]) for page in numbered} == {(every["total"], True)}


async def test_what_never_ends_is_sorted_last(stock: World) -> None:
    for sort, place in (("expires_at", slice(0, 2)), ("-expires_at", slice(-2, None))):
        rows = await walk(stock, "certificates", page_size=2, sort=sort)
        ends = [row["status"]["expires_at"] for row in rows]
        assert (len(ends), None in ends[place], ends.count(None)) == (7, False, 5)


async def test_one_version_and_where_it_is_served(world: World) -> None:
    agent = await world.agent()
    target = await world.target(agent)
    certificate_id, _ = await world.certificate(target_ids=[target])
    other_id, _ = await world.certificate(agent_id=agent.id, common_name="other.test")
    await agent.work()
    (version,) = (await world.get(f"{CERTIFICATES}/{certificate_id}/versions"))["data"]
    assert await world.get(f"{CERTIFICATES}/{certificate_id}/versions/{version['id']}") == version
    problem(await world.call("GET", f"{CERTIFICATES}/{other_id}/versions/{version['id']}"), 404)
    await world.post(f"{CERTIFICATES}/{certificate_id}/renew")
    for item in await agent.poll():
        await agent.issue(item)  # type: ignore[arg-type]  # nothing else is there
    await agent.fail(await agent.item(), "disk full")
    (where,) = (await world.get(f"{CERTIFICATES}/{certificate_id}/deployments"))["data"]
    assert (where["target_id"], where["target_name"], where["target_type"]) == (target, "site", "nginx")
    assert (where["desired_generation"], where["served_generation"], where["reason"]) == (2, 1, "disk full")
    assert (where["served_version_id"], where["served_until"]) == (version["id"], version["not_after"])


async def test_a_timeline_tells_events_and_steps_newest_first(world: World) -> None:
    agent = await world.agent()
    certificate_id, (job_id,) = await world.certificate(target_ids=[await world.target(agent)])
    other_id, _ = await world.certificate(agent_id=agent.id, common_name="other.test")
    await agent.work()
    every = (await world.get(f"{CERTIFICATES}/{certificate_id}/timeline", per_page=100))["data"]
    assert await walk(world, f"certificates/{certificate_id}/timeline", page_size=3) == every
    assert [row["at"] for row in every] == sorted((row["at"] for row in every), reverse=True)
    told = [(row["source"], row["what"]) for row in every]
    assert {("audit", "certificate.created"), ("audit", "certificate.issued"), ("job", "queued")} < set(told)
    steps = [row["what"] for row in every if row["job_id"] == job_id and row["source"] == "job"]
    timeline = (await world.get(f"/api/v1/jobs/{job_id}"))["timeline"]
    assert steps == [step["step"] for step in reversed(timeline)]
    assert {row["actor"] for row in every if row["source"] == "job"} == {f"agent:{agent.id}"}
    other = (await world.get(f"{CERTIFICATES}/{other_id}/timeline"))["data"]
    assert not {row["id"] for row in other} & {row["id"] for row in every}


async def test_a_page_that_is_the_last_counts_what_was_before_it(stock: World) -> None:
    for page, size in ((3, 3), (2, 4), (9, 3)):
        assert (await stock.get(CERTIFICATES, page=page, per_page=size))["total"] == 7


async def test_the_etag_of_a_certificate_is_its_revision_whatever_happens_to_it(world: World) -> None:
    agent = await world.agent()
    certificate_id, _ = await world.certificate(target_ids=[await world.target(agent)])
    first = (await world.call("GET", f"{CERTIFICATES}/{certificate_id}")).headers["ETag"]
    await agent.work()
    assert (await world.call("GET", f"{CERTIFICATES}/{certificate_id}")).headers["ETag"] == first == '"1"'
    made = await world.http.post(CERTIFICATES, json={"common_name": "b.test"}, headers=bearer(KEYS["admin"]))
    assert made.headers["ETag"] == '"1"'
