"""Who is limited to a team sees and touches what is that team's: every route with a resource in it, own and foreign.

Generated from the route table: a new kind of resource has to be made here, or named as one that has no team.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from coordinator.app import ROUTES
from coordinator.database.listing import EVERYTHING, Scope
from coordinator.web.table import Permission, Route
from core.ids import new_id
from tests.coordinator.world import World, bearer, done, problem

pytestmark = pytest.mark.anyio
OWN, FOREIGN = "team-own", "team-foreign"
Maker = Callable[[World, str], Awaitable[str]]


async def a_team(world: World, team: str) -> str:
    return team


async def an_owner(world: World, team: str) -> str:
    return str((await world.post("/api/v1/owners", {"name": f"Ada of {team}", "team_id": team}))["id"])


async def a_key(world: World, team: str) -> str:
    made = await world.post("/api/v1/api-keys", {"name": f"key of {team}", "role": "viewer", "teams": [team]})
    return str(made["id"])


async def a_session(world: World, team: str) -> str:
    await world.person("viewer", (team,), subject=f"ada-{team}")
    return str(await world.value("SELECT id FROM sessions WHERE teams = ARRAY[$1]", team))


async def an_operation(world: World, team: str) -> str:
    made = await world.post("/api/v1/api-keys", {"name": f"of {team}", "role": "operator", "teams": [team]})
    body = {"filter": {"q": "nothing"}, "dry_run": True}
    begun = await world.http.post("/api/v1/certificates/bulk-renew", headers=bearer(made["key"]), json=body)
    return str(done(begun)["snapshot"])


SCOPED: dict[str, Maker] = {"team_id": a_team, "owner_id": an_owner, "key_id": a_key, "session_id": a_session}
SCOPED["operation_id"] = an_operation


async def an_eab_key(world: World, team: str) -> str:
    return str((await world.post("/api/v1/acme-eab-keys", {"name": f"of {team}", "team_id": team}))["id"])


async def an_account(world: World, team: str) -> str:
    account_id = new_id("aca")
    await world.execute(
        """
        INSERT INTO acme_accounts (id, profile_id, thumbprint, jwk, eab_key_id)
        VALUES ($1, 'prof-default', $1, '{}', $2)
        """,
        account_id,
        await an_eab_key(world, team),
    )
    return account_id


async def an_order(world: World, team: str) -> str:
    order_id = new_id("aco")
    await world.execute(
        """
        INSERT INTO acme_orders (id, account_id, profile_id, identifiers, authorization_ids, expires_at)
        VALUES ($1, $2, 'prof-default', '[]', '{}', now())
        """,
        order_id,
        await an_account(world, team),
    )
    return order_id


SCOPED |= {"acme_eab_key_id": an_eab_key, "acme_account_id": an_account, "acme_order_id": an_order}
"""Resources by the parameter that names them in a path, and how one of a team is made."""
OF_ALL = {
    *("agent_id", "target_id", "target_type", "profile_id", "issuer_id", "job_id", "version_id", "run_id", "token_id"),
    *("event_id", "file", "policy_id", "renewal_policy_id", "agent_group_id", "violation_id", "loop_name"),
    *("trial_id", "challenge_id", "look_id"),
}
"""Parameters of what belongs to no team: the platform's own."""
BY_ITS_ROOM = {"ca_order_id", "certificate_id", "approval_id", "notification_id", "view_id"}
"""Certificates, what is about one, and saved views are held against the scope by their own rooms' tests."""
LISTS = ["teams", "owners", "api-keys", "sessions", "acme-eab-keys", "acme-accounts", "acme-orders"]


def parameters(route: Route) -> list[str]:
    return re.findall(r"\{(\w+)\}", route.path)


def with_a(parameter: str) -> list[Route]:
    return [route for route in ROUTES if parameter in parameters(route)]


def test_every_resource_in_a_path_has_its_place_here() -> None:
    named = {parameter for route in ROUTES for parameter in parameters(route)}
    assert named - set(SCOPED) - OF_ALL - BY_ITS_ROOM == set()
    assert all(with_a(parameter) for parameter in SCOPED)
    held = [route for parameter in SCOPED for route in with_a(parameter)]
    assert all(isinstance(route.access, Permission) for route in held)


@pytest.fixture
async def limited(world: World) -> tuple[World, dict[str, str]]:
    """A coordinator with two teams, and the header of an admin who is limited to one of them."""
    for team in (OWN, FOREIGN):
        await world.post("/api/v1/teams", {"id": team, "name": team})
    made = await world.post("/api/v1/api-keys", {"name": "limited", "role": "admin", "teams": [OWN]})
    return world, bearer(made["key"])


@pytest.mark.parametrize("parameter", SCOPED)
@pytest.mark.parametrize("caller", ["key", "person"])
async def test_a_foreign_resource_is_not_there_and_an_own_one_is(
    limited: tuple[World, dict[str, str]], parameter: str, caller: str
) -> None:
    world, headers = limited
    if caller == "person":
        headers = await world.person("admin", (OWN,), subject="limited")
    foreign, own = await SCOPED[parameter](world, FOREIGN), await SCOPED[parameter](world, OWN)
    before = await world.rows("SELECT action, resource_id FROM audit_events ORDER BY id")
    for route in with_a(parameter):
        response = await ask(world, route, foreign, headers)
        problem(response, 404)
    assert await world.rows("SELECT action, resource_id FROM audit_events ORDER BY id") == before
    # What removes comes last: until then there is something to ask for.
    for route in sorted(with_a(parameter), key=lambda route: route.method == "DELETE"):
        response = await ask(world, route, own, headers)
        expected = {200, 201, 204} if (parameter, route.method) != ("team_id", "DELETE") else {204, 409}
        assert response.status_code in expected, f"{route.method} {route.path}: {response.text}"


BODIES = {"PUT /api/v1/teams/{team_id}": {"name": OWN}, "PUT /api/v1/owners/{owner_id}": {"name": "x", "team_id": OWN}}


async def ask(world: World, route: Route, row_id: str, headers: dict[str, str]) -> Any:
    path = re.sub(r"\{\w+\}", row_id, route.path)
    body = BODIES.get(f"{route.method} {route.path}", {}) if route.method in {"PUT", "PATCH", "POST"} else None
    return await world.http.request(route.method, path, headers=headers, json=body)


@pytest.mark.parametrize("path", LISTS)
async def test_a_list_holds_what_is_own(limited: tuple[World, dict[str, str]], path: str) -> None:
    world, headers = limited
    parameter = {"api-keys": "key_id"}.get(path, f"{path.removesuffix('s').replace('-', '_')}_id")
    foreign, own = await SCOPED[parameter](world, FOREIGN), await SCOPED[parameter](world, OWN)
    page = done(await world.http.get(f"/api/v1/{path}", headers=headers))
    seen = {row["id"] for row in page["data"]}
    assert (own in seen, foreign in seen) == (True, False)
    assert page["total"] == len(seen)
    lines = await world.http.get(f"/api/v1/{path}", headers=headers, params={"format": "jsonl"})
    assert (own in lines.text, foreign in lines.text) == (True, False)
    everything = await world.get(f"/api/v1/{path}")
    assert {own, foreign} <= {row["id"] for row in everything["data"]}


async def test_nothing_is_made_or_moved_out_of_ones_scope(limited: tuple[World, dict[str, str]]) -> None:
    world, headers = limited
    mine = await an_owner(world, OWN)
    before = await world.rows("SELECT to_jsonb(t) FROM (SELECT * FROM owners ORDER BY id) AS t")
    for method, path, body in (
        ("POST", "teams", {"name": "new"}),
        ("POST", "owners", {"name": "new", "team_id": FOREIGN}),
        ("POST", "owners", {"name": "new"}),
        ("PUT", f"owners/{mine}", {"name": "moved", "team_id": FOREIGN}),
        ("PATCH", f"owners/{mine}", {"team_id": "default"}),
    ):
        problem(await world.http.request(method, f"/api/v1/{path}", headers=headers, json=body), 403)
    assert await world.rows("SELECT to_jsonb(t) FROM (SELECT * FROM owners ORDER BY id) AS t") == before
    assert await world.value("SELECT count(*) FROM teams WHERE name = 'new'") == 0


@pytest.mark.parametrize(
    "scope,other,covered",
    [
        (EVERYTHING, EVERYTHING, True),
        (EVERYTHING, Scope(("a",)), True),
        (Scope(("a",)), EVERYTHING, False),
        (Scope(("a", "b")), Scope(("b",)), True),
        (Scope(("a",)), Scope(("a", "b")), False),
        (Scope(("a",)), Scope(None, ("x",)), False),
        (Scope(("a",), ("x",)), Scope(("a",), ("x",)), True),
        (Scope(("a",), ("x",)), Scope(("a",)), False),
    ],
)
def test_a_scope_covers_what_is_no_wider(scope: Scope, other: Scope, covered: bool) -> None:
    assert scope.covers(other) is covered
