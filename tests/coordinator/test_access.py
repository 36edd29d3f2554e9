"""Who may call what: every route of the table with every kind of caller, and the life of API keys."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coordinator import start
from coordinator.access.routes import info
from coordinator.app import ROUTES
from coordinator.issuers.routes import PUBLIC_ROUTES
from coordinator.settings import ROLES, load
from coordinator.web.table import ROLE_PERMISSIONS, Access, NoBody, Permission, Route
from tests.coordinator import permissions_page
from tests.coordinator.world import KEYS, World, bearer, open_world, problem, variables

pytestmark = pytest.mark.anyio

EVERY_ROUTE = [*ROUTES, *PUBLIC_ROUTES]


def url_of(route: Route, agent_id: str) -> str:
    """Return a URL of a route, with this agent's id where one is asked for and unknown ids elsewhere."""
    return re.sub(r"\{\w+\}", "unknown", route.path.replace("{agent_id}", agent_id))


FORGED: dict[str, dict[str, str | None]] = {
    "without a token": {"X-CSRF-Token": None},
    "with another session's token": {"X-CSRF-Token": "x" * 43},
    "from another site": {"Sec-Fetch-Site": "cross-site"},
    "from a sister site": {"Sec-Fetch-Site": "same-site"},
    "from another origin": {"Origin": "https://evil.example", "Sec-Fetch-Site": None},
    "from nowhere": {"Origin": None, "Sec-Fetch-Site": None},
}
"""What is wrong with a request that an admin's browser was made to send by somebody else."""
PEOPLE = [f"{role} in person" for role in ROLES]


def allowed(route: Route, caller: str) -> bool:
    """Say, from the table alone, whether a caller gets past the door."""
    if caller in FORGED:
        return route.access is Access.OPEN or (route.method == "GET" and allowed(route, "admin"))
    caller = caller.removesuffix(" in person")
    if route.access is Access.OPEN:
        return True
    if route.access is Access.AGENT:
        return caller == "agent"
    if route.access is Access.ANY_KEY:
        return caller in ROLES
    return caller in ROLES and route.access in ROLE_PERMISSIONS[caller]


@pytest.mark.parametrize(
    "caller",
    [
        *ROLES,
        *PEOPLE,
        *FORGED,
        *("agent", "another agent", "nobody", "not bearer"),
        *("wrong key", "switched-off key", "expired key", "wrong cookie", "expired session", "idle session"),
    ],
)
async def test_every_route_lets_in_whom_the_table_names_and_nobody_else(world: World, caller: str) -> None:
    agent, other = await world.agent("one"), await world.agent("other")
    headers = await headers_of(world, caller, agent.token, other.token)
    for route in ROUTES:
        # A body of the wrong kind: those who are let in are told so, and nothing is changed by the asking.
        response = await world.http.request(route.method, url_of(route, agent.id), headers=headers, content=b"[]")
        context = f"{caller}: {route.method} {route.path}: {response.status_code} {response.text}"
        if allowed(route, caller):
            # An enrollment's own credential is in its body; an agent has to be known before it is told more.
            assert response.status_code not in {401, 403}, context
        elif caller in {*ROLES, *PEOPLE, *FORGED} or "agent" in caller:
            assert response.status_code == 403, context
        else:
            assert response.status_code == 401, context
            assert response.headers["www-authenticate"].startswith("Bearer"), context


async def headers_of(world: World, caller: str, own: str, foreign: str) -> dict[str, str]:
    """Return the credential of a kind of caller."""
    if caller in {"switched-off key", "expired key"}:
        made = await world.post("/api/v1/api-keys", {"name": "late", "role": "admin", "ttl_s": 3600})
        column = "expires_at" if "expired" in caller else "disabled_at"
        await world.execute(f"UPDATE api_keys SET {column} = now() WHERE id = $1", made["id"])
        return bearer(made["key"])
    if caller in {*PEOPLE, *FORGED, "wrong cookie", "expired session", "idle session"}:
        return await browser_of(world, caller)
    if caller == "nobody":
        return {}
    if caller == "not bearer":
        return {"Authorization": f"Basic {KEYS['admin']}"}
    others = {"agent": own, "another agent": foreign, "wrong key": "ctk_" + "x" * 43}
    return bearer({**KEYS, **others}[caller])


async def browser_of(world: World, caller: str) -> dict[str, str]:
    """Return what a kind of caller's browser sends."""
    headers = await world.person(caller.removesuffix(" in person") if caller in PEOPLE else "admin")
    if caller == "expired session":
        await world.execute("UPDATE sessions SET expires_at = now()")
    elif caller == "idle session":
        await world.execute("UPDATE sessions SET last_seen_at = now() - interval '31 minutes'")
    elif caller == "wrong cookie":
        headers["Cookie"] = "__Host-certctl=cts_" + "x" * 43
    changed = FORGED.get(caller, {})
    return {name: value for name, value in ({**headers, **changed}).items() if value is not None}


def test_every_route_says_who_may_call_it() -> None:
    assert all(isinstance(route.access, Access | Permission) for route in EVERY_ROUTE)
    with pytest.raises(TypeError, match="access"):
        Route("GET", "/somewhere", info, summary="Nobody said who", response=None)  # type: ignore[call-arg]


def test_the_open_routes_are_these() -> None:
    assert sorted(f"{route.method} {route.path}" for route in ROUTES if route.access is Access.OPEN) == [
        "GET /.well-known/pki/ca/{issuer_id}",
        "GET /.well-known/pki/ca/{issuer_id}/{file}",
        "GET /.well-known/pki/crl/{issuer_id}",
        "GET /.well-known/pki/crl/{issuer_id}/{file}",
        "GET /api/docs",
        "GET /api/v1/auth/info",
        "GET /api/v1/openapi.json",
        "GET /api/v1/server-root",
        "GET /api/v1/version",
        "GET /auth/oidc/callback",
        "GET /auth/oidc/login",
        "GET /health",
        "GET /ready",
        "POST /api/v1/agents",
        "POST /api/v1/agents/{agent_id}/nonce",
        "POST /api/v1/agents/{agent_id}/token",
    ]


def test_the_page_of_permissions_is_that_of_the_route_table() -> None:
    written = permissions_page.PAGE.read_text(encoding="utf-8")
    assert written == permissions_page.page(), "run: python -m tests.coordinator.permissions_page"
    for route in EVERY_ROUTE:
        for caller in (*ROLES, "agent", "nobody"):
            assert permissions_page.may(route, caller) == allowed(route, caller), f"{caller}: {route.path}"


def test_only_admins_write_keys_and_nothing_is_changed_by_those_who_read() -> None:
    for role in ("viewer", "approver", "auditor"):
        assert not {p for p in ROLE_PERMISSIONS[role] if p.endswith(":write")}, role
    assert [role for role in ROLES if Permission.KEYS in ROLE_PERMISSIONS[role]] == ["admin"]
    assert all(
        route.access not in (Permission.READ, Permission.AUDIT_READ) for route in ROUTES if route.method != "GET"
    )
    assert all(route.request is NoBody for route in ROUTES if route.method == "GET")


async def test_an_expired_session_is_no_session(world: World) -> None:
    agent = await world.agent()
    await world.execute("UPDATE agent_sessions SET expires_at = now()")
    problem(await agent.call("GET", "/work", params={"boot": agent.boot, "wait": 0}), 401)
    await agent.sign_in()
    assert await agent.poll() == []


async def test_a_retired_agent_is_told_that_it_is_gone(world: World) -> None:
    agent = await world.agent()
    request = await agent.token_request()
    await world.execute("UPDATE agents SET retired_at = now()")
    problem(await agent.call("GET", "/work", params={"boot": agent.boot, "wait": 0}), 410)
    problem(await world.http.post(f"/api/v1/agents/{agent.id}/nonce"), 410)
    problem(await world.http.post(f"/api/v1/agents/{agent.id}/token", json=request), 410)
    token = (await world.post("/api/v1/enrollment-tokens"))["token"]
    problem(await agent.enroll(token), 410)


@pytest.mark.parametrize("wrong", ["signature", "other signer", "used", "old", "foreign", "unknown"])
async def test_a_session_needs_a_fresh_nonce_and_the_agents_own_signature(world: World, wrong: str) -> None:
    agent, other = await world.agent("one"), await world.agent("other")
    body: dict[str, Any] = await agent.token_request(other.signing if wrong == "other signer" else None)
    url = f"/api/v1/agents/{agent.id}/token"
    if wrong == "signature":
        body["signature"] = body["signature"][:-8] + "AAAAAAA="
    elif wrong == "used":
        assert (await world.http.post(url, json=body)).is_success
    elif wrong == "old":
        await world.execute("UPDATE agent_nonces SET expires_at = now()")
    elif wrong == "foreign":
        await world.execute("UPDATE agent_nonces SET agent_id = $1", other.id)
    elif wrong == "unknown":
        await world.execute("DELETE FROM agent_nonces")
    sessions = await world.value("SELECT count(*) FROM agent_sessions")
    problem(await world.http.post(url, json=body), 401)
    assert await world.value("SELECT count(*) FROM agent_sessions") == sessions


async def test_keys_of_the_environment_appear_and_disappear(database_url: str, tmp_path: Path) -> None:
    first = variables(database_url, tmp_path)
    second = {**first, "CERTCTL_API_KEYS_NAMED": f"auditor:{KEYS['auditor']}:auditor,new:{'n' * 20}:admin"}
    events: list[dict[str, Any]] = []
    for environment in (first, second, second, first):
        async with open_world(environment) as world:
            for role in ROLES:
                kept = environment is first or role == "auditor"
                response = await world.call("GET", "/api/v1/auth/check", role)
                assert response.status_code == (200 if kept else 401), role
            new = await world.http.get("/api/v1/auth/check", headers=bearer("n" * 20))
            assert new.status_code == (200 if environment is second else 401)
            events = await world.rows("SELECT action FROM audit_events WHERE action LIKE 'api_key.%' ORDER BY id")
    # Five, then one more with four gone, then nothing, then four anew with one gone.
    assert [event["action"] for event in events].count("api_key.created") == 5 + 1 + 4
    assert [event["action"] for event in events].count("api_key.disabled") == 4 + 1


async def test_the_first_start_makes_one_admin_key_for_its_owner_only(database_url: str, tmp_path: Path) -> None:
    environment = {**variables(database_url, tmp_path), "CERTCTL_API_KEYS_NAMED": ""}
    path = tmp_path / "admin.key"
    async with open_world(environment) as world:
        assert path.stat().st_mode & 0o777 == 0o600
        key = path.read_text().strip()
        answer = (await world.http.get("/api/v1/auth/check", headers=bearer(key))).json()
        assert (answer["user"], answer["role"]) == ("admin", "admin")
    path.unlink()
    async with start.open_context(load(environment)):
        assert not path.exists(), "it is made once"


async def test_a_made_key_works_until_it_ends_and_is_never_shown_or_stored(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    made = await world.post("/api/v1/api-keys", {"name": "ci", "role": "viewer", "ttl_s": 60})
    check = (await world.http.get("/api/v1/auth/check", headers=bearer(made["key"]))).json()
    assert (check["user"], check["role"], check["permissions"]) == ("ci", "viewer", ["inventory:read", "views:own"])
    listed = (await world.http.get("/api/v1/api-keys", headers=bearer(KEYS["admin"]))).text
    stored = str(await world.rows("SELECT to_jsonb(k)::text AS row FROM api_keys AS k"))
    stored += str(await world.rows("SELECT to_jsonb(e)::text AS row FROM audit_events AS e"))
    told = "".join(capsys.readouterr())
    for place in (listed, stored, told):
        assert made["key"] not in place
        assert KEYS["admin"] not in place
    ends = await world.value("SELECT expires_at FROM api_keys WHERE id = $1", made["id"])
    assert ends - world.clock.now() == timedelta(seconds=60)
