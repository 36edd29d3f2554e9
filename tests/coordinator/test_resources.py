"""Things that people make and change: replaced, merged, guarded by revisions, removed when nothing needs them."""

from __future__ import annotations

import asyncio

import pytest

from tests.coordinator.world import KEYS, World, bearer, done, problem

pytestmark = pytest.mark.anyio
TEAM = {"name": "Web", "description": "runs the shops"}


async def test_put_replaces_the_whole_and_patch_merges(world: World) -> None:
    team = await world.post("/api/v1/teams", {**TEAM, "id": "team-web"})
    assert team == {
        **TEAM,
        "id": "team-web",
        "revision": 1,
        "created_at": team["created_at"],
        "updated_at": team["updated_at"],
    }
    merged = done(await world.call("PATCH", "/api/v1/teams/team-web", json={"name": "Shops"}))
    assert (merged["name"], merged["description"], merged["revision"]) == ("Shops", "runs the shops", 2)
    reset = done(await world.call("PATCH", "/api/v1/teams/team-web", json={"description": None}))
    assert (reset["description"], reset["revision"]) == ("", 3)
    replaced = done(await world.call("PUT", "/api/v1/teams/team-web", json=TEAM))
    assert (replaced["name"], replaced["description"]) == ("Web", "runs the shops")
    left_out = done(await world.call("PUT", "/api/v1/teams/team-web", json={"name": "Web"}))
    assert left_out["description"] == "", "what a PUT leaves out takes its default"
    assert await world.get("/api/v1/teams/team-web") == left_out
    actions = await world.rows("SELECT action, details FROM audit_events WHERE resource_id = 'team-web' ORDER BY id")
    assert [row["action"] for row in actions] == ["team.created", *["team.updated"] * 4]
    assert actions[1]["details"] == {"name": "Shops", "description": "runs the shops"}


@pytest.mark.parametrize(
    "method,body,field",
    [
        ("PATCH", {"name": None}, "name"),
        ("PATCH", {"name": ""}, "name"),
        ("PATCH", {"colour": "red"}, "colour"),
        ("PUT", {}, "name"),
        ("PUT", {"name": "x", "id": "team-other"}, "id"),
    ],
)
async def test_a_wrong_change_names_the_field_and_changes_nothing(
    world: World, method: str, body: dict[str, object], field: str
) -> None:
    team = await world.post("/api/v1/teams", TEAM)
    problem(await world.call(method, f"/api/v1/teams/{team['id']}", json=body), 400, field)
    assert await world.get(f"/api/v1/teams/{team['id']}") == team


async def test_a_change_of_what_was_changed_meanwhile_is_refused(world: World) -> None:
    path = f"/api/v1/teams/{(await world.post('/api/v1/teams', TEAM))['id']}"
    read = await world.call("GET", path)
    tag = read.headers["ETag"]
    done(await world.call("PATCH", path, json={"name": "Faster"}))
    for method, body in (("PUT", TEAM), ("PATCH", {"name": "Late"}), ("DELETE", None)):
        response = await world.http.request(method, path, json=body, headers={**bearer(KEYS["admin"]), "If-Match": tag})
        assert 'revision "2"' in problem(response, 412)["detail"]
    assert (await world.get(path))["name"] == "Faster"
    newest = (await world.call("GET", path)).headers["ETag"]
    headers = {**bearer(KEYS["admin"]), "If-Match": f'"0", {newest}'}
    assert done(await world.http.request("PUT", path, json=TEAM, headers=headers))["revision"] == 3


async def test_of_two_changes_at_once_under_one_tag_one_is_refused(world: World) -> None:
    path = f"/api/v1/teams/{(await world.post('/api/v1/teams', TEAM))['id']}"
    headers = {**bearer(KEYS["admin"]), "If-Match": '"1"'}
    answers = await asyncio.gather(
        *(world.http.request("PATCH", path, json={"name": f"n{number}"}, headers=headers) for number in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [200, *[412] * 7]


async def test_what_is_in_use_stays_and_says_by_what(world: World) -> None:
    team = await world.post("/api/v1/teams", TEAM)
    owner = await world.post("/api/v1/owners", {"name": "Ada", "email": "ada@example.com", "team_id": team["id"]})
    said = problem(await world.call("DELETE", f"/api/v1/teams/{team['id']}"), 409)
    assert f"in use by 1 owners ({owner['id']})" in said["detail"]
    assert (await world.call("DELETE", f"/api/v1/owners/{owner['id']}")).status_code == 204
    assert (await world.call("DELETE", f"/api/v1/teams/{team['id']}")).status_code == 204
    problem(await world.call("GET", f"/api/v1/teams/{team['id']}"), 404)
    problem(await world.call("DELETE", f"/api/v1/teams/{team['id']}"), 404)
    problem(await world.call("DELETE", "/api/v1/teams/default"), 409)


async def test_a_reference_to_nothing_and_a_name_that_is_taken(world: World) -> None:
    problem(await world.call("POST", "/api/v1/owners", json={"name": "Ada", "team_id": "team-none"}), 400, "team_id")
    await world.post("/api/v1/teams", {**TEAM, "id": "team-web"})
    assert "this name" in problem(await world.call("POST", "/api/v1/teams", json=TEAM), 409)["detail"]
    again = {"name": "Another", "id": "team-web"}
    assert "the id team-web" in problem(await world.call("POST", "/api/v1/teams", json=again), 409)["detail"]
