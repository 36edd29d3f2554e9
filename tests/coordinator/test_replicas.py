"""Two coordinators on one PostgreSQL are one to their callers: what one has stored holds at the other at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import httpx
import pytest

from coordinator.limits import service as limits
from core.errors import TooManyRequests
from tests.coordinator.world import KEYS, World, bearer, csr_for, done, problem

pytestmark = pytest.mark.anyio
TEAMS, API_KEYS, CHECK = "/api/v1/teams", "/api/v1/api-keys", "/api/v1/auth/check"
Replicas = tuple[World, World]


async def with_headers(world: World, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
    return await world.http.request(method, path, json=body, headers={**bearer(KEYS["admin"]), **headers})


async def knows(world: World, value: str) -> int:
    return (await world.http.get(CHECK, headers=bearer(value))).status_code


# Keys -----------------------------------------------------------------------------------------------------------


async def test_a_rotated_key_has_both_values_everywhere_until_the_overlap_ends(replicas: Replicas) -> None:
    one, two = replicas
    made = await one.post(API_KEYS, {"name": "ci", "role": "viewer"})
    assert [await knows(world, made["key"]) for world in replicas] == [200, 200]
    fresh = await two.post(f"{API_KEYS}/{made['id']}/rotate", {"overlap_s": 600})
    assert [await knows(world, value) for world in replicas for value in (made["key"], fresh["key"])] == [200] * 4
    await one.execute("UPDATE api_keys SET previous_until = now() - interval '1 s' WHERE id = $1", made["id"])
    assert [await knows(world, made["key"]) for world in replicas] == [401, 401]
    assert [await knows(world, fresh["key"]) for world in replicas] == [200, 200]


async def test_a_key_that_is_switched_off_at_one_is_off_at_both(replicas: Replicas) -> None:
    one, two = replicas
    made = await one.post(API_KEYS, {"name": "ci", "role": "viewer"})
    assert [await knows(world, made["key"]) for world in replicas] == [200, 200]
    assert (await two.call("DELETE", f"{API_KEYS}/{made['id']}")).status_code == 204
    assert [await knows(world, made["key"]) for world in replicas] == [401, 401]


async def test_a_narrower_scope_is_narrower_at_both(replicas: Replicas) -> None:
    one, two = replicas
    made = await one.post(API_KEYS, {"name": "ci", "role": "operator"})
    certificate_id, _ = await one.certificate()
    path = f"/api/v1/certificates/{certificate_id}"
    assert (await two.http.get(path, headers=bearer(made["key"]))).status_code == 200
    await one.post(TEAMS, {"id": "team-web", "name": "Web"})
    done(await one.call("PATCH", f"{API_KEYS}/{made['id']}", json={"teams": ["team-web"]}))
    problem(await two.http.get(path, headers=bearer(made["key"])), 404)


# Sessions -------------------------------------------------------------------------------------------------------


async def test_who_signs_in_at_one_is_known_at_both_until_the_session_ends_at_either(replicas: Replicas) -> None:
    one, two = replicas
    cookie = await one.person("viewer")
    assert [(await world.http.get(CHECK, headers=cookie)).status_code for world in replicas] == [200, 200]
    session = await two.value("SELECT id FROM sessions")
    assert (await two.call("DELETE", f"/api/v1/sessions/{session}")).status_code == 204
    assert [(await world.http.get(CHECK, headers=cookie)).status_code for world in replicas] == [401, 401]


async def test_an_agents_session_and_nonce_count_at_both(replicas: Replicas) -> None:
    one, two = replicas
    agent = await one.agent()
    await two.certificate(agent_id=agent.id)
    request = await agent.token_request()
    path = f"/api/v1/agents/{agent.id}"
    agent.token = done(await two.http.post(f"{path}/token", json=request))["token"]
    problem(await one.http.post(f"{path}/token", json=request), 401)
    work = done(await one.http.get(f"{path}/work", params={"boot": agent.boot, "wait": 0}, headers=bearer(agent.token)))
    assert len(work["items"]) == 1


# Limits ---------------------------------------------------------------------------------------------------------


async def test_what_must_not_be_had_too_often_is_counted_together(replicas: Replicas) -> None:
    async def take(world: World) -> bool:
        try:
            await limits.take(world.ctx, "export", "key:one", 5, timedelta(hours=1))
        except TooManyRequests:
            return False
        return True

    taken = await asyncio.gather(*(take(world) for world in replicas * 6))
    assert Counter(taken) == {True: 5, False: 7}


# Idempotency ----------------------------------------------------------------------------------------------------


async def test_one_request_at_both_at_once_makes_one_thing_and_two_equal_answers(replicas: Replicas) -> None:
    key = {"Idempotency-Key": "one-and-the-same"}
    answers = await asyncio.gather(
        *(with_headers(world, "POST", TEAMS, {"name": "Web"}, **key) for world in replicas * 4)
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 7
    one, two = replicas
    assert await one.value("SELECT count(*) FROM teams WHERE name = 'Web'") == 1
    problem(await with_headers(two, "POST", TEAMS, {"name": "Other"}, **key), 422)


async def test_of_changes_under_one_tag_at_both_one_holds(replicas: Replicas) -> None:
    one, _ = replicas
    team = await one.post(TEAMS, {"name": "Web"})
    path, tag = f"{TEAMS}/{team['id']}", {"If-Match": '"1"'}
    answers = await asyncio.gather(
        *(
            with_headers(world, "PATCH", path, {"description": f"{number}"}, **tag)
            for number, world in enumerate(replicas * 3)
        )
    )
    assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 5}
    (held,) = [answer.json() for answer in answers if answer.is_success]
    assert (await one.get(path))["description"] == held["description"]


async def test_one_renewal_asked_of_both_is_one_run_and_one_csr_at_both_one_version(replicas: Replicas) -> None:
    one, _ = replicas
    agent = await one.agent()
    certificate_id, _ = await one.certificate(agent_id=agent.id)
    await agent.work()
    asked: list[Any] = await asyncio.gather(
        *(world.post(f"/api/v1/certificates/{certificate_id}/renew") for world in replicas * 3)
    )
    assert len({answer["run_id"] for answer in asked}) == 1
    item = await agent.item()
    csr = csr_for(item)

    async def submit(world: World) -> str:
        agent.world = world
        return str(done(await agent.submit(item, csr))["version_id"])

    assert len(set(await asyncio.gather(*(submit(world) for world in replicas * 3)))) == 1
    assert await one.value("SELECT count(*) FROM certificate_versions") == 2
