"""Lists: pages by number and by cursor, totals, filters, for every room that has one."""

from __future__ import annotations

import base64
import csv
import io
import json
from typing import Any

import pytest

from coordinator.agents.store import LISTING as AGENTS
from coordinator.certificates.store import LISTING as CERTIFICATES
from coordinator.database import listing
from coordinator.jobs.store import LISTING as JOBS
from coordinator.teams.store import LISTING as TEAMS
from tests.coordinator.world import World, problem

pytestmark = pytest.mark.anyio


@pytest.fixture
async def full(world: World) -> World:
    """A coordinator with 23 rows in each list."""
    agents = [await world.agent(f"agent-{number}") for number in range(22)]
    for number in range(23):
        target = await world.target(agents[number % 22], f"site-{number}")
        environment = "production" if number % 2 else "test"
        await world.certificate(
            target_ids=[target], common_name=f"n{number % 5}.example.com", environment=environment, lifetime_s=3600
        )
        await world.post("/api/v1/profiles", {"name": f"profile {number}", "max_lifetime_s": 3600})
        await world.post("/api/v1/teams", {"name": f"team {number % 7}.{number}", "description": "x" * (number % 3)})
        await world.post("/api/v1/api-keys", {"name": f"key {number}", "role": "viewer"})
    return world


LISTS = [
    "certificates",
    "teams",
    "targets",
    "agents",
    "jobs",
    "profiles",
    "api-keys",
    "enrollment-tokens",
    "issuers",
    "audit",
]


SORTED = {"certificates": CERTIFICATES, "agents": AGENTS, "jobs": JOBS, "teams": TEAMS}


async def walk(world: World, path: str, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = await world.get(f"/api/v1/{path}", **query)
        found += page["data"]
        if page["next_cursor"] is None:
            return found
        query = {**query, "cursor": page["next_cursor"]}
        query.pop("page", None)


async def test_every_list_is_the_same_by_number_and_by_cursor(full: World, subtests: pytest.Subtests) -> None:
    for path in LISTS:
        with subtests.test(path):
            every = await full.get(f"/api/v1/{path}", per_page=500)
            assert (every["next_cursor"], every["page"], every["per_page"]) == (None, 1, 500)
            assert (every["total"], every["total_exact"]) == (len(every["data"]), True)
            assert len({row["id"] for row in every["data"]}) == len(every["data"])
            assert await walk(full, path, page_size=7) == every["data"]
            assert await walk(full, path, page=1, per_page=7) == every["data"], "a page's cursor goes on from it"
            numbered: list[Any] = []
            for page in range(1, 10):
                numbered += (await full.get(f"/api/v1/{path}", page=page, per_page=5))["data"]
            assert numbered == every["data"][:45]


async def test_every_sort_is_the_same_by_number_and_by_cursor(full: World, subtests: pytest.Subtests) -> None:
    for path, sorted_list in SORTED.items():
        for name in sorted_list.sorts:
            for sort in (name, f"-{name}"):
                with subtests.test(f"{path} {sort}"):
                    every = (await full.get(f"/api/v1/{path}", per_page=500, sort=sort))["data"]
                    assert len(every) > 20
                    assert await walk(full, path, page_size=7, sort=sort) == every
                    backwards = sort.removeprefix("-") if sort.startswith("-") else f"-{sort}"
                    other = (await full.get(f"/api/v1/{path}", per_page=500, sort=backwards))["data"]
                    assert other == every[::-1]


async def test_a_sort_is_by_the_value_itself(full: World) -> None:
    names = [row["name"] for row in await walk(full, "teams", page_size=5, sort="name")]
    assert names == sorted(names)


async def test_a_cursor_belongs_to_its_sort(full: World) -> None:
    cursor = (await full.get("/api/v1/teams", page_size=1, sort="name"))["next_cursor"]
    problem(await full.call("GET", "/api/v1/teams", params={"cursor": cursor, "sort": "-name"}), 400, "cursor")
    problem(await full.call("GET", "/api/v1/teams", params={"cursor": cursor}), 400, "cursor")
    problem(await full.call("GET", "/api/v1/teams", params={"sort": "colour"}), 400, "sort")
    broken = base64.urlsafe_b64encode(b'["created_at", true, "yesterday", "team-1"]').decode()
    problem(await full.call("GET", "/api/v1/teams", params={"cursor": broken}), 400, "cursor")


async def test_rows_can_be_sparse(full: World) -> None:
    page = await full.get("/api/v1/certificates", per_page=2, fields="id,common_name")
    assert [list(row) for row in page["data"]] == [["id", "common_name"]] * 2
    problem(await full.call("GET", "/api/v1/certificates", params={"fields": "id,key"}), 400, "fields")


async def test_whole_lists_are_streamed_as_csv_and_json_lines(full: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PIECE", 7)
    every = await walk(full, "certificates", page_size=500, environment="test")
    lines = await full.call("GET", "/api/v1/certificates", params={"format": "jsonl", "environment": "test"})
    assert lines.headers["Content-Type"] == "application/jsonl"
    assert [json.loads(line) for line in lines.text.splitlines()] == every
    query = {"format": "csv", "environment": "test", "fields": "id,common_name,tags"}
    cells = list(csv.reader(io.StringIO((await full.call("GET", "/api/v1/certificates", params=query)).text)))
    assert cells[0] == ["id", "common_name", "tags"]
    assert cells[1:] == [[row["id"], row["common_name"], "{}"] for row in every]


async def test_a_cell_is_no_formula(world: World) -> None:
    await world.post("/api/v1/teams", {"name": "=cmd|' /C calc'!A0"})
    text = (await world.call("GET", "/api/v1/teams", params={"format": "csv", "fields": "name"})).text
    assert "'=cmd|' /C calc'!A0" in text


async def test_newest_comes_first(full: World) -> None:
    for path, moment in (("certificates", "created_at"), ("agents", "enrolled_at"), ("audit", "at")):
        moments = [row[moment] for row in await walk(full, path, page_size=50)]
        assert moments == sorted(moments, reverse=True)


async def test_filters_narrow_rows_and_total(full: World, subtests: pytest.Subtests) -> None:
    agent_id = await full.value("SELECT id FROM agents WHERE name = 'agent-0'")
    expected = {
        ("certificates", "environment", "production"): 11,
        ("certificates", "common_name", "n4.example.com"): 4,
        ("certificates", "agent_id", agent_id): 2,
        ("certificates", "environment", "' OR true --"): 0,
        ("targets", "agent_id", agent_id): 2,
        ("agents", "name", "agent-7"): 1,
        ("jobs", "state", "AwaitingCSR"): 23,
        ("jobs", "kind", "deployment"): 0,
        ("jobs", "agent_id", agent_id): 2,
        ("audit", "action", "target.created"): 23,
    }
    for (path, name, value), number in expected.items():
        with subtests.test(f"{path} {name}"):
            page = await full.get(f"/api/v1/{path}", **{name: value, "per_page": 3})
            assert page["total"] == number
            assert len(await walk(full, path, **{name: value, "page_size": 3})) == number
    both = await full.get("/api/v1/certificates", environment="test", common_name="n0.example.com")
    assert both["total"] == 3


async def test_a_cursor_of_one_list_is_no_cursor_of_another(full: World) -> None:
    cursor = (await full.get("/api/v1/certificates", page_size=1))["next_cursor"]
    for path in LISTS[1:]:
        problem(await full.call("GET", f"/api/v1/{path}", params={"cursor": cursor}), 400, "cursor")


async def test_a_total_is_exact_up_to_ten_thousand(world: World) -> None:
    statement = "INSERT INTO teams (id, name) SELECT 'team-' || n, n::text FROM generate_series(1, $1) AS n"
    await world.execute(statement, 9_999)
    await world.execute(
        """
        INSERT INTO profiles (id, name, default_issuer_id, key_algorithms, default_lifetime_s, max_lifetime_s,
                              extended_key_usages)
        SELECT 'prof-' || n, n::text, 'iss-local', '{}', 60, 60, '{}' FROM generate_series(1, 9999) AS n
        """
    )
    page = await world.get("/api/v1/profiles", per_page=1)
    assert (page["total"], page["total_exact"]) == (10_000, True)
    await world.post("/api/v1/profiles", {"name": "one more", "max_lifetime_s": 3600})
    page = await world.get("/api/v1/profiles", per_page=1)
    assert (page["total"], page["total_exact"]) == (10_000, False)


async def test_what_was_made_can_be_read_one_by_one(full: World) -> None:
    for path in ("certificates", "targets", "agents", "jobs", "profiles", "issuers"):
        (row,) = (await full.get(f"/api/v1/{path}", per_page=1))["data"]
        assert await full.get(f"/api/v1/{path}/{row['id']}") == row


async def test_versions_are_listed_with_their_chain_newest_first(world: World) -> None:
    agent = await world.agent()
    certificate_id, _ = await world.certificate(agent_id=agent.id)
    await agent.work()
    await world.post(f"/api/v1/certificates/{certificate_id}/renew")
    await agent.work()
    versions = (await world.get(f"/api/v1/certificates/{certificate_id}/versions"))["data"]
    assert [version["generation"] for version in versions] == [2, 1]
    assert all(version["pem"].count("BEGIN CERTIFICATE") == 1 for version in versions), "no root in a chain"
    assert len(await walk(world, f"certificates/{certificate_id}/versions", page_size=1)) == 2


@pytest.mark.parametrize("room", ["certificates", "targets", "profiles"])
async def test_a_chosen_id_or_name_that_is_taken_is_a_conflict(world: World, room: str) -> None:
    agent = await world.agent()
    config = {"cert_path": "/a/b", "key_path": "/a/c"}
    bodies: dict[str, dict[str, Any]] = {
        "certificates": {"id": "mc-a", "common_name": "a.example.com"},
        "targets": {"id": "tgt-a", "name": "a", "type": "NGINX", "agent_id": agent.id, "config": config},
        "profiles": {"id": "prof-a", "name": "a", "max_lifetime_s": 3600},
    }
    await world.post(f"/api/v1/{room}", bodies[room])
    problem(await world.call("POST", f"/api/v1/{room}", json=bodies[room]), 409)
