"""The permission matrix: every route with something of a team in its path × every role × (own, foreign).

Generated from the route table. What a role may not do is refused whosever the thing is, so that a refusal tells
nothing; what it may do, it does to what is its own, and what is foreign is not there. ``test_access`` has the routes
that name nothing, and every other kind of caller; ``test_scope`` has lists.
"""

from __future__ import annotations

import re
from typing import Any

import httpx
import msgspec
import pytest

from coordinator.app import ROUTES
from coordinator.settings import ROLES
from coordinator.web.table import ROLE_PERMISSIONS, Access, Permission, Route
from core import wire
from tests.coordinator.test_scope import FOREIGN, OF_ALL, OWN, an_account, an_eab_key, an_operation, an_order, an_owner
from tests.coordinator.world import KEYS, FakeAgent, World, bearer, csr_for, done

pytestmark = pytest.mark.anyio

Ids = dict[str, str]
BODIES: dict[str, dict[str, Any]] = {
    "PUT team_id": {"name": "another name"},
    "PUT owner_id": {"name": "x", "team_id": OWN},
    "PUT certificate_id": {"common_name": "own.test", "team_id": OWN},
    "PUT view_id": {"name": "another", "page": "jobs"},
}
"""What is sent where an empty object is not enough, by method and the thing that is named last."""


def parameters(route: Route) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", route.path))


def held() -> list[Route]:
    """Return the routes that name something of a team; what removes comes last."""
    found = [route for route in ROUTES if isinstance(route.access, Permission) and parameters(route) & TEAMS_OWN]
    return sorted(found, key=lambda route: (route.method == "DELETE", route.path))


TEAMS_OWN = {
    *("team_id", "owner_id", "key_id", "session_id", "certificate_id", "job_id", "run_id"),
    *("approval_id", "notification_id", "view_id", "operation_id"),
    *("acme_eab_key_id", "acme_account_id", "acme_order_id", "ca_order_id"),
}


class Estate:
    """Things of two teams, and callers who are limited to one of them."""

    def __init__(self, world: World, agent: FakeAgent) -> None:
        self.world, self.agent = world, agent
        self.count = 0

    async def caller(self, role: str, team: str = OWN) -> dict[str, str]:
        """Return the header of a new key."""
        self.count += 1
        body = {"name": f"caller {self.count}", "role": role, "teams": [team]}
        return bearer((await self.world.post("/api/v1/api-keys", body))["key"])

    async def things(self, team: str, caller: dict[str, str]) -> Ids:
        """Make one of everything for a team, by what names it in a path; a view is the caller's."""
        self.count += 1
        name = f"n{self.count}.test"
        certificate_id, (job_id,) = await self.world.certificate(agent_id=self.agent.id, common_name=name, team_id=team)
        await self.agent.work()
        asking, _ = await self.world.certificate(
            agent_id=self.agent.id, common_name=f"asks.{name}", team_id=team, profile_id="prof-asks"
        )
        item = await self.agent.item()
        done(await self.agent.submit(item, csr_for(item)))
        approvals = await self.world.get("/api/v1/approvals", certificate_id=asking)
        key = {"name": f"key {self.count}", "role": "viewer", "teams": [team]}
        view = {"name": f"view {self.count}", "page": "jobs"}
        await self.world.person("viewer", (team,), subject=f"ada-{self.count}")
        return {
            "team_id": team,
            "owner_id": await an_owner(self.world, team),
            "key_id": (await self.world.post("/api/v1/api-keys", key))["id"],
            "session_id": await self.world.value("SELECT id FROM sessions ORDER BY created_at DESC LIMIT 1"),
            "certificate_id": certificate_id,
            "version_id": await self.world.value(
                "SELECT id FROM certificate_versions WHERE certificate_id = $1", certificate_id
            ),
            "job_id": job_id,
            "run_id": job_id,
            "ca_order_id": await self.ca_order(certificate_id, job_id),
            "approval_id": approvals["data"][0]["id"],
            "notification_id": await self.notification(certificate_id),
            "view_id": done(await self.world.http.post("/api/v1/views", headers=caller, json=view))["id"],
            "operation_id": await an_operation(self.world, team),
            "acme_eab_key_id": await an_eab_key(self.world, team),
            "acme_account_id": await an_account(self.world, team),
            "acme_order_id": await an_order(self.world, team),
        }

    async def ca_order(self, certificate_id: str, job_id: str) -> str:
        """Have an order at an authority elsewhere."""
        order_id = f"cao-{self.count}"
        await self.world.execute(
            """
            INSERT INTO ca_orders (id, request_id, job_id, certificate_id, issuer_id, status)
            SELECT $1, id, job_id, certificate_id, issuer_id, 'abandoned' FROM issuance_requests
            WHERE certificate_id = $2 AND job_id = $3
            """,
            order_id,
            certificate_id,
            job_id,
        )
        return order_id

    async def notification(self, certificate_id: str) -> str:
        """Put a message that could not be sent into the queue."""
        row_id = f"ntf-{self.count}"
        await self.world.execute(
            """
            INSERT INTO notifications (id, key, type, severity, certificate_id, channel, subject, message, status,
              next_retry_at)
            VALUES ($1, $1, 'expiring', 'warning', $2, 'webhook', 'it ends', 'it ends', 'dead', NULL)
            """,
            row_id,
            certificate_id,
        )
        return row_id

    async def ask(self, route: Route, ids: Ids, headers: dict[str, str]) -> httpx.Response:
        path = re.sub(r"\{(\w+)\}", lambda match: ids[match[1]], route.path)
        last = re.findall(r"\{(\w+)\}", route.path)[-1]
        body = BODIES.get(f"{route.method} {last}", {}) if route.method in {"PUT", "PATCH", "POST"} else None
        return await self.world.http.request(route.method, path, headers=headers, json=body)


@pytest.fixture
async def estate(world: World) -> Estate:
    for team in (OWN, FOREIGN):
        await world.post("/api/v1/teams", {"id": team, "name": team})
    await world.post("/api/v1/profiles", {"id": "prof-asks", "name": "asks", "max_lifetime_s": 86400,
                                          "requires_approval": True})  # fmt: skip
    return Estate(world, await world.agent())


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_does_what_it_may_to_its_own_and_nothing_to_what_is_foreign(estate: Estate, role: str) -> None:
    caller, stranger = await estate.caller(role), await estate.caller("admin", FOREIGN)
    foreign = await estate.things(FOREIGN, stranger)
    before = await estate.world.rows("SELECT action, resource_id FROM audit_events ORDER BY id")
    for route in held():
        response = await estate.ask(route, foreign, caller)
        expected = 404 if route.access in ROLE_PERMISSIONS[role] else 403
        assert response.status_code == expected, f"foreign: {route.method} {route.path}: {response.text}"
    assert await estate.world.rows("SELECT action, resource_id FROM audit_events ORDER BY id") == before
    own = await estate.things(OWN, caller)
    for route in held():
        response = await estate.ask(route, own, caller)
        context = f"own: {route.method} {route.path}: {response.status_code} {response.text}"
        if route.access in ROLE_PERMISSIONS[role]:
            assert response.status_code < 300 or response.status_code in {409, 422}, context
        else:
            assert response.status_code == 403, context


@pytest.mark.parametrize("role", ROLES)
async def test_who_is_not_limited_sees_both(estate: Estate, role: str) -> None:
    caller = bearer(KEYS[role])
    both = [await estate.things(team, caller) for team in (OWN, FOREIGN)]
    for route in held():
        if route.method == "GET":
            for ids in both:
                response = await estate.ask(route, ids, caller)
                expected = 200 if route.access in ROLE_PERMISSIONS[role] else 403
                assert response.status_code == expected, f"{route.path}: {response.text}"


async def test_an_agent_does_its_own_work_and_nobody_elses(estate: Estate) -> None:
    own, other = estate.agent, await estate.world.agent("other")
    await estate.world.certificate(agent_id=other.id, common_name="other.test")
    item = await other.item()
    submission = msgspec.to_builtins(wire.CSRSubmission(item.lease_epoch, csr_for(item)))
    report = await _signed(own, item)
    target_id = await estate.world.target(other, "tried")
    trial = await estate.world.post(f"/api/v1/targets/{target_id}/test")
    findings = wire.Findings((wire.Finding(target_id, "cv-1", "missing", "it is gone"),))
    bodies = {"csr": submission, "result": report, "drift": msgspec.to_builtins(findings)}
    bodies |= {"{challenge_id}": {"state": "shown"}, "{look_id}": {"state": "seen"}}
    routes = [route for route in ROUTES if route.access is Access.AGENT]
    for route in routes:
        for agent_id, expected in ((own.id, 404), (other.id, 403)):
            path = route.path.replace("{agent_id}", agent_id).replace("{job_id}", item.job_id)
            path = path.replace("{trial_id}", trial["id"])
            query: dict[str, str | int] | None = {"boot": own.boot, "wait": 0} if route.method == "GET" else None
            body = bodies.get(route.path.rpartition("/")[2])
            response = await estate.world.http.request(
                route.method, path, headers=bearer(own.token), json=body, params=query
            )
            wanted = 200 if expected == 404 and route.path.endswith(("/work", "/drift")) else expected
            assert response.status_code == wanted, f"{route.path}: {response.status_code} {response.text}"
    done(await other.submit(item, csr_for(item)))  # it was not taken away from whom it is for


async def _signed(agent: FakeAgent, item: Any) -> Any:
    payload = msgspec.json.encode(agent.report_on(item, outcome="failed"))
    return msgspec.to_builtins(wire.SignedReport(payload, b"\0" * 64))


def test_every_parameter_is_of_a_team_or_said_to_be_everybodys() -> None:
    named = {parameter for route in ROUTES for parameter in parameters(route)}
    assert named - TEAMS_OWN - OF_ALL == set()
    assert {parameter for route in held() for parameter in parameters(route)} >= TEAMS_OWN
