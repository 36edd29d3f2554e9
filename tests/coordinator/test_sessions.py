"""Sessions of people: what they may do, how they end, what another site cannot make of them."""

from __future__ import annotations

import time

import pytest

from coordinator.access.uses import store_uses
from coordinator.sessions import service as sessions
from tests.coordinator.world import KEYS, World, bearer, done, dump, problem

pytestmark = pytest.mark.anyio
CHECK = "/api/v1/auth/check"


async def test_a_session_says_who_it_is_and_gives_its_token(world: World) -> None:
    headers = await world.person("operator", ("default",))
    told = done(await world.http.get(CHECK, headers={"Cookie": headers["Cookie"]}))
    person = (await world.rows("SELECT id FROM people"))[0]["id"]
    assert (told["kind"], told["id"], told["user"], told["role"]) == ("person", person, "Ada", "operator")
    assert told["scope"] == {"teams": ["default"], "environments": None}
    assert told["csrf_token"] == headers[sessions.CSRF_HEADER]
    again = await world.person("viewer")
    assert again["Cookie"] != headers["Cookie"]
    assert again[sessions.CSRF_HEADER] != headers[sessions.CSRF_HEADER]
    assert await world.value("SELECT count(*) FROM people") == 1, "the same subject is the same person"


async def test_changes_are_recorded_in_the_persons_name(world: World) -> None:
    headers = await world.person("admin")
    done(await world.http.post("/api/v1/teams", json={"name": "Web"}, headers=headers))
    person = await world.value("SELECT id FROM people")
    events = await world.rows("SELECT actor, action FROM audit_events WHERE actor LIKE 'person:%' ORDER BY id")
    assert events == [
        {"actor": f"person:{person}", "action": "person.login"},
        {"actor": f"person:{person}", "action": "team.created"},
    ]


async def test_a_key_goes_before_the_cookie_and_needs_no_token(world: World) -> None:
    headers = {**await world.person("viewer"), **bearer(KEYS["admin"])}
    del headers[sessions.CSRF_HEADER]
    done(await world.http.post("/api/v1/teams", json={"name": "Web"}, headers=headers))
    wrong = {**headers, **bearer("ctk_" + "x" * 43)}
    problem(await world.http.get(CHECK, headers=wrong), 401)


async def test_the_token_of_one_session_is_worth_nothing_in_another(world: World) -> None:
    mine, other = await world.person("admin"), await world.person("admin", subject="eve")
    mixed = {**mine, sessions.CSRF_HEADER: other[sessions.CSRF_HEADER]}
    before = await world.value("SELECT count(*) FROM teams")
    problem(await world.http.post("/api/v1/teams", json={"name": "Web"}, headers=mixed), 403)
    assert await world.value("SELECT count(*) FROM teams") == before


async def test_admins_see_sessions_and_end_them(world: World) -> None:
    headers = await world.person("viewer")
    (row,) = (await world.get("/api/v1/sessions", role="viewer"))["data"]
    assert (row["name"], row["email"], row["user_agent"]) == ("Ada", "ada@example.com", "Browser/1")
    assert (await world.call("DELETE", f"/api/v1/sessions/{row['id']}")).status_code == 204
    problem(await world.http.get(CHECK, headers=headers), 401)
    problem(await world.call("DELETE", f"/api/v1/sessions/{row['id']}"), 404)
    ended = await world.rows("SELECT action, details FROM audit_events WHERE action = 'session.ended'")
    assert ended == [{"action": "session.ended", "details": {"session": row["id"]}}]
    assert (await world.get("/api/v1/sessions"))["data"] == []


async def test_nothing_of_a_session_that_opens_it_is_stored_or_told(world: World) -> None:
    headers = await world.person("admin")
    value = headers["Cookie"].partition("=")[2]
    told = (await world.call("GET", "/api/v1/sessions")).text
    stored = str(await dump(world.dsn))
    for secret in (value, headers[sessions.CSRF_HEADER]):
        assert secret not in stored
        assert secret not in told


async def test_a_session_lives_on_while_it_is_used_and_no_longer_than_its_end(world: World) -> None:
    headers = await world.person("viewer")
    session = await world.value("SELECT id FROM sessions")
    await world.execute("UPDATE sessions SET last_seen_at = now() - interval '29 minutes'")
    done(await world.http.get(CHECK, headers=headers))
    assert session in world.ctx.uses.sessions
    await store_uses(world.ctx)
    assert await world.value("SELECT now() - last_seen_at < interval '1 minute' FROM sessions")
    world.ctx.uses.sessions[session] = time.monotonic() - 1000
    await store_uses(world.ctx)
    assert await world.value("SELECT now() - last_seen_at < interval '1 minute' FROM sessions"), "never backwards"
    assert await world.value("SELECT expires_at - now() BETWEEN '11 hours' AND '12 hours' FROM sessions")


async def test_what_has_ended_is_forgotten(world: World) -> None:
    for subject, change in (("ada", "expires_at = now() - interval '1 second'"),
                            ("eve", "last_seen_at = now() - interval '31 minutes'"),
                            ("bob", "role = role")):  # fmt: skip
        await world.person("viewer", subject=subject)
        await world.execute(
            f"UPDATE sessions SET {change} WHERE person_id = (SELECT id FROM people WHERE subject = $1)", subject
        )
    await sessions.purge(world.ctx)
    assert [row["name"] for row in (await world.get("/api/v1/sessions"))["data"]] == ["Bob"]
