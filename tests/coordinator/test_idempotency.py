"""Requests that are repeated under one Idempotency-Key make something once."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from coordinator.app import ROUTES
from coordinator.web.table import Permission
from tests.coordinator.model.stage import dying
from tests.coordinator.world import KEYS, World, bearer, done, problem

pytestmark = pytest.mark.anyio


async def ask(world: World, path: str, body: Any, key: str = "k-1", role: str = "admin") -> httpx.Response:
    headers = {**bearer(KEYS[role]), "Idempotency-Key": key}
    return await world.http.post(f"/api/v1/{path}", json=body, headers=headers)


def test_every_post_that_makes_something_for_a_key_is_one() -> None:
    made = {route.path for route in ROUTES if route.creates}
    posts = {route.path for route in ROUTES if route.method == "POST" and isinstance(route.access, Permission)}
    assert {"/api/v1/certificates", "/api/v1/api-keys", "/api/v1/teams"} <= made <= posts


async def test_a_repetition_gets_the_first_answer_and_makes_nothing(world: World) -> None:
    first = await ask(world, "api-keys", {"name": "ci", "role": "viewer"})
    second = await ask(world, "api-keys", {"name": "ci", "role": "viewer"})
    assert done(second) == done(first)
    assert ("Idempotency-Replayed" in first.headers, second.headers["Idempotency-Replayed"]) == (False, "true")
    assert first.headers["X-Request-ID"] != second.headers["X-Request-ID"]
    assert await world.value("SELECT count(*) FROM api_keys WHERE name = 'ci'") == 1
    kept = await world.value("SELECT answer FROM idempotency_keys")
    assert done(first)["key"].encode() not in kept, "a credential is not kept in clear"


async def test_a_key_belongs_to_one_request_and_to_who_used_it(world: World) -> None:
    done(await ask(world, "teams", {"name": "Web"}))
    problem(await ask(world, "teams", {"name": "Shop"}), 422)
    problem(await ask(world, "owners", {"name": "Web"}), 422)
    done(await ask(world, "certificates", {"common_name": "a.example.com"}, role="operator"))
    for wrong in ("", "x" * 256):
        problem(await ask(world, "teams", {"name": "Mail"}, wrong), 400, "Idempotency-Key")
    await world.execute("UPDATE idempotency_keys SET expires_at = now() - interval '1 second'")
    done(await ask(world, "teams", {"name": "Shop"}))


async def test_a_failure_is_not_kept(world: World) -> None:
    problem(await ask(world, "owners", {"name": "Ada", "team_id": "team-web"}), 400, "team_id")
    done(await ask(world, "teams", {"name": "Web", "id": "team-web"}, "k-2"))
    done(await ask(world, "owners", {"name": "Ada", "team_id": "team-web"}))


async def test_repetitions_at_once_make_one_thing(world: World) -> None:
    answers = await asyncio.gather(*(ask(world, "teams", {"name": "Web"}) for _ in range(8)))
    assert len({done(answer)["id"] for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 7


@pytest.mark.parametrize("point,made", [("request.answer_kept", 0), ("request.committed", 1)])
async def test_after_a_death_in_the_middle_the_repetition_makes_it_or_finds_it(
    world: World, point: str, made: int
) -> None:
    with dying(point):
        problem(await ask(world, "teams", {"name": "Web"}), 500)
    assert await world.value("SELECT count(*) FROM teams WHERE name = 'Web'") == made
    done(await ask(world, "teams", {"name": "Web"}))
    assert await world.value("SELECT count(*) FROM teams WHERE name = 'Web'") == 1
    assert await world.value("SELECT count(*) FROM audit_events WHERE action = 'team.created'") == 1
