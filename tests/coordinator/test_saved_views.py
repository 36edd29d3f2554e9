"""Saved views: everybody's own, shared when they say so, tried before they are kept."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from coordinator.saved_views import service
from tests.coordinator.world import KEYS, World, bearer, done, problem

pytestmark = pytest.mark.anyio
VIEW = {
    "name": "due in prod",
    "page": "certificates",
    "filters": {"life": "due", "environment": "prod", "sort": "-name"},
}
ALL = "/api/v1/views"


async def save(world: World, key: str = "viewer", **changes: Any) -> httpx.Response:
    return await world.call("POST", ALL, key, json={**VIEW, **changes})


async def names(world: World, headers: dict[str, str], **query: str) -> list[str]:
    page = done(await world.http.get(ALL, headers=headers, params=query))
    assert page["total"] == len(page["data"])
    return sorted(view["name"] for view in page["data"])


async def test_a_view_is_saved_changed_and_removed(world: World) -> None:
    made = done(await save(world))
    one = f"{ALL}/{made['id']}"
    assert {name: made[name] for name in VIEW} == VIEW
    assert (made["owner"].partition(":")[0], made["shared"]) == ("key", False)
    assert await world.get(one, "viewer") == made
    changed = done(await world.call("PATCH", one, "viewer", json={"filters": {"environment": None}, "shared": True}))
    assert (changed["filters"], changed["shared"]) == ({"life": "due", "sort": "-name"}, True)
    jobs = {"name": "failed", "page": "jobs", "filters": {"state": "Failed"}}
    replaced = await world.call("PUT", one, "viewer", json=jobs)
    assert (done(replaced)["page"], done(replaced)["shared"]) == ("jobs", False)
    assert (await world.http.delete(one, headers={**bearer(KEYS["viewer"]), "If-Match": '"1"'})).status_code == 412
    assert (await world.call("DELETE", one, "viewer")).status_code == 204
    problem(await world.call("GET", one, "viewer"), 404)
    actions = await world.rows("SELECT action FROM audit_events WHERE resource_type = 'saved_view' ORDER BY id")
    assert [row["action"].partition(".")[2] for row in actions] == ["created", "updated", "updated", "removed"]


@pytest.mark.parametrize(
    "changes,field",
    [
        ({"page": "nothing"}, "page"),
        ({"page": "certificates/mc-1/versions"}, "page"),
        ({"filters": {"colour": "red"}}, "filters.colour"),
        ({"filters": {"life": "long"}}, "filters.life"),
        ({"filters": {"expires_before": "tomorrow"}}, "filters.expires_before"),
        ({"filters": {"tag": "x"}}, "filters.tag"),
        ({"filters": {"q": "..."}}, "filters.q"),
        ({"filters": {"sort": "colour"}}, "filters.sort"),
        ({"filters": {"fields": "colour"}}, "filters.fields"),
        ({"filters": {"cursor": "x"}}, "filters.cursor"),
        ({"filters": {"per_page": "9"}}, "filters.per_page"),
        ({"filters": {"life": 1}}, "filters[...]"),
        ({"name": " "}, "name"),
        ({"name": ""}, "name"),
    ],
)
async def test_a_view_that_does_not_work_is_not_saved(world: World, changes: dict[str, Any], field: str) -> None:
    problem(await save(world, **changes), 400, field)
    made = done(await save(world))
    problem(await world.call("PATCH", f"{ALL}/{made['id']}", "viewer", json=changes), 400, field)
    assert await world.value("SELECT count(*) FROM saved_views") == 1


async def test_a_list_that_one_may_not_read_has_no_view(world: World) -> None:
    problem(await save(world, page="audit", filters={}), 403)
    assert done(await save(world, "auditor", page="audit", filters={"action": "certificate.due"}))["page"] == "audit"


async def test_every_list_has_views(world: World) -> None:
    for page in service.lists_of(__import__("coordinator.app", fromlist=["ROUTES"])._ROOMS):
        done(await save(world, "admin", name=page, page=page, filters={}))


async def test_others_see_what_is_shared_and_change_nothing(world: World) -> None:
    mine = done(await save(world))
    shared = done(await save(world, name="shared", shared=True))
    other = bearer(KEYS["operator"])
    assert await names(world, other) == ["shared"]
    assert await names(world, bearer(KEYS["viewer"])) == ["due in prod", "shared"]
    assert await names(world, bearer(KEYS["viewer"]), mine="true", page_of="certificates") == ["due in prod", "shared"]
    assert await names(world, other, mine="true") == []
    for view, status in ((mine, 404), (shared, 403)):
        for method in ("PUT", "PATCH", "DELETE"):
            body = None if method == "DELETE" else VIEW
            response = await world.call(method, f"{ALL}/{view['id']}", "admin", json=body)
            problem(response, status)
    assert (await world.get(f"{ALL}/{shared['id']}", "operator"))["name"] == "shared"
    problem(await world.call("GET", f"{ALL}/{mine['id']}", "admin"), 404)


async def test_what_is_shared_within_a_team_stays_there(world: World) -> None:
    callers = {}
    for team in ("team-a", "team-b"):
        await world.post("/api/v1/teams", {"id": team, "name": team})
    scopes = {"a": ["team-a"], "b": ["team-b"], "both": ["team-a", "team-b"], "all": None}
    for name, teams in scopes.items():
        made = await world.post("/api/v1/api-keys", {"name": name, "role": "viewer", "teams": teams})
        callers[name] = bearer(made["key"])
        body = {**VIEW, "name": f"of {name}", "shared": True}
        done(await world.http.post(ALL, headers=callers[name], json=body))
    assert await names(world, callers["a"]) == ["of a", "of all"]
    assert await names(world, callers["b"]) == ["of all", "of b"]
    assert await names(world, callers["both"]) == ["of a", "of all", "of b", "of both"]
    assert await names(world, callers["all"]) == ["of a", "of all", "of b", "of both"]


async def test_names_are_ones_own_and_there_are_not_too_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    done(await save(world))
    problem(await save(world), 409)
    done(await save(world, "operator"))
    monkeypatch.setattr(service, "MOST", 1)
    problem(await save(world, name="another"), 409)


async def test_a_person_has_views_as_well(world: World) -> None:
    ada = await world.person("viewer")
    done(await world.http.post(ALL, headers=ada, json=VIEW))
    assert await names(world, ada) == ["due in prod"]
    again = await world.person("viewer")
    assert await names(world, again) == ["due in prod"], "in the next session too"
    assert await names(world, await world.person("viewer", subject="bob")) == []
