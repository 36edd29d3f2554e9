"""The audit trail: one event for each change, in its transaction, never changed, never a secret."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.audit import service as audit
from coordinator.database import driver
from coordinator.web.table import Actor
from tests.coordinator.world import KEYS, World

pytestmark = pytest.mark.anyio


async def events(world: World) -> list[str]:
    return [row["action"] for row in await world.rows("SELECT action FROM audit_events ORDER BY id")]


async def test_one_event_for_each_change_and_none_for_reading(world: World) -> None:
    before = len(await events(world))
    agent = await world.agent()
    target = await world.target(agent)
    certificate_id, _ = await world.certificate(target_ids=[target])
    await agent.issue(await agent.item())
    await agent.fail(await agent.item())
    await world.execute("UPDATE jobs SET not_before = now()")
    await agent.work()
    await world.post(f"/api/v1/certificates/{certificate_id}/renew")
    await world.post("/api/v1/profiles", {"name": "short", "max_lifetime_s": 3600})
    await world.post("/api/v1/api-keys", {"name": "ci", "role": "viewer"})
    for path in ("certificates", "jobs", "agents", "targets", "audit", "profiles", "issuers", "api-keys"):
        await world.get(f"/api/v1/{path}")
    assert (await events(world))[before:] == [
        "enrollment_token.created",
        "agent.enrolled",
        "target.created",
        "certificate.created",
        "certificate.csr_accepted",
        "certificate.issued",
        "deployment.failed",
        "deployment.served",
        "certificate.renewal_requested",
        "profile.created",
        "api_key.created",
    ]


async def test_an_event_says_who_did_what_to_which_and_in_which_request(world: World) -> None:
    response = await world.call("POST", "/api/v1/certificates", "operator", json={"common_name": "a.example.com"})
    certificate_id = response.json()["certificate"]["id"]
    page = await world.get("/api/v1/audit", resource_type="certificate", resource_id=certificate_id)
    (event,) = page["data"]
    key_id = await world.value("SELECT id FROM api_keys WHERE name = 'operator'")
    assert (event["actor"], event["action"]) == (f"key:{key_id}", "certificate.created")
    assert event["request_id"] == response.headers["x-request-id"]
    assert event["details"]["names"] == ["a.example.com"]


async def test_an_event_goes_with_its_change(world: World) -> None:
    before = await events(world)
    with pytest.raises(RuntimeError):
        await changed_and_failed(world)
    assert await events(world) == before
    assert await world.value("SELECT count(*) FROM teams WHERE id = 'team-x'") == 0


async def changed_and_failed(world: World) -> None:
    async with world.ctx.db.transaction() as tx:
        await tx.execute("INSERT INTO teams (id, name) VALUES ('team-x', 'x')")
        await audit.record(tx, Actor(kind="system"), "team.created", "team", "team-x")
        raise RuntimeError


@pytest.mark.parametrize(
    "statement", ["UPDATE audit_events SET actor = 'nobody'", "DELETE FROM audit_events", "TRUNCATE audit_events"]
)
async def test_the_table_itself_refuses_changes(world: World, statement: str) -> None:
    before = await world.rows("SELECT * FROM audit_events ORDER BY id")
    with pytest.raises(driver.Error, match="append-only"):
        await world.execute(statement)
    assert await world.rows("SELECT * FROM audit_events ORDER BY id") == before


async def test_no_credential_is_anywhere_in_the_database(world: World) -> None:
    agent = await world.agent()
    token = (await world.post("/api/v1/enrollment-tokens"))["token"]
    key = (await world.post("/api/v1/api-keys", {"name": "ci", "role": "viewer"}))["key"]
    tables = await world.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    stored = ""
    for table in tables:
        stored += str(await world.rows(f'SELECT to_jsonb(t)::text AS row FROM "{table["tablename"]}" AS t'))
    for secret in (agent.token, token, key, *KEYS.values()):
        assert secret not in stored
        assert secret.encode().hex() not in stored
    assert "PRIVATE KEY" not in stored
    assert b"PRIVATE KEY".hex() not in stored


async def test_pages_of_events_join_without_gaps_and_doubles(world: World) -> None:
    for number in range(25):
        await world.post("/api/v1/enrollment-tokens", {"note": str(number)})
    every = (await world.get("/api/v1/audit", per_page=500))["data"]
    walked: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    while True:
        page = await world.get("/api/v1/audit", page_size=7, **cursor)
        walked += page["data"]
        if page["next_cursor"] is None:
            break
        await world.post("/api/v1/enrollment-tokens", {"note": "meanwhile"})
        cursor = {"cursor": page["next_cursor"]}
    assert walked == every
    assert [event["id"] for event in every] == sorted((event["id"] for event in every), reverse=True)
