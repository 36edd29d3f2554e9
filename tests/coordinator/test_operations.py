"""Operations on many certificates: the set is fixed at the beginning, each is done once, and counts are exact."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from coordinator.operations import service as operations
from core.names import parse_name
from tests.coordinator.world import KEYS, FakeAgent, World, bearer, done, problem, variables

pytestmark = pytest.mark.anyio
BULK = "/api/v1/certificates/bulk-"
_MANY = """
INSERT INTO certificates (id, name, common_name, names, profile_id, issuer_id, renewal_policy_id, owner_id, team_id,
  environment, key_algorithm, lifetime_s)
SELECT 'mc-many-' || n, 'many', 'many.test', $2, 'prof-default', 'iss-local', 'rp-default', 'default', 'default',
  'many', 'ecdsa-p256', 86400 FROM generate_series(1, $1::int) AS n
"""


async def many(world: World, number: int) -> None:
    """Put certificates that nobody holds into the inventory."""
    await world.execute(_MANY, number, [parse_name("many.test")])


async def begin(world: World, kind: str, body: dict[str, Any], key: str = "admin") -> dict[str, Any]:
    answer: dict[str, Any] = await world.post(BULK + kind, body, key=key)
    return answer


async def worked_off(world: World) -> None:
    while await operations.work(world.ctx):
        pass


async def end(world: World, begun: dict[str, Any]) -> dict[str, Any]:
    """Work everything off; return the operation as it ended."""
    await worked_off(world)
    found: dict[str, Any] = await world.get(f"/api/v1/operations/{begun['operation']['id']}")
    counts = [found[name] for name in ("succeeded", "skipped", "failed", "cancelled", "waiting")]
    assert sum(counts) == found["total"]
    assert found["waiting"] == 0
    assert found["finished_at"]
    return found


async def items(world: World, operation: dict[str, Any], **query: Any) -> dict[str, tuple[str, str]]:
    page = await world.get(f"/api/v1/operations/{operation['id']}/items", per_page=500, **query)
    return {item["certificate_id"]: (item["outcome"], item["detail"]) for item in page["data"]}


@pytest.fixture
async def agent(world: World) -> FakeAgent:
    return await world.agent()


async def held(world: World, agent: FakeAgent, number: int, **wish: Any) -> list[str]:
    """Return certificates that an agent has been given."""
    made = [await world.certificate(agent_id=agent.id, common_name=f"n{n}.test", **wish) for n in range(number)]
    await agent.work()
    return [certificate_id for certificate_id, _ in made]


async def test_what_matches_is_renewed_and_each_item_says_what_became_of_it(world: World, agent: FakeAgent) -> None:
    ids = await held(world, agent, 3, environment="prod")
    unheld, _ = await world.certificate(environment="prod")
    await world.certificate(environment="test", agent_id=agent.id)
    operation = await end(world, await begin(world, "renew", {"filter": {"environment": "prod"}}))
    assert (operation["state"], operation["total"], operation["succeeded"]) == ("completed", 4, 3)
    told = await items(world, operation)
    assert {key: told[key][0] for key in ids} == dict.fromkeys(ids, "succeeded")
    assert told[unheld][0] == "skipped"
    assert "no holder" in told[unheld][1]
    assert set(await items(world, operation, outcome="skipped")) == {unheld}
    page = await world.get(f"/api/v1/operations/{operation['id']}/items", outcome="succeeded")
    (job_id,) = page["data"][0]["job_ids"]
    assert (await world.get(f"/api/v1/jobs/{job_id}"))["state"] == "AwaitingCSR"


async def test_a_dry_run_shows_exactly_what_its_snapshot_does(world: World, agent: FakeAgent) -> None:
    ids = await held(world, agent, 3, environment="prod")
    shown = await begin(world, "renew", {"filter": {"environment": "prod"}, "dry_run": True})
    assert shown["operation"]["state"] == "planned"
    assert {row["id"] for row in shown["sample"]} == set(ids)
    assert set(await items(world, shown["operation"])) == set(ids)
    await worked_off(world)
    assert await world.value("SELECT count(*) FROM audit_events WHERE resource_type = 'operation'") == 0
    later = await held(world, agent, 1, environment="prod")
    operation = await end(world, await begin(world, "renew", {"snapshot": shown["snapshot"]}))
    assert (operation["id"], operation["succeeded"]) == (shown["snapshot"], 3)
    assert later[0] not in await items(world, operation)
    again = await world.call("POST", f"{BULK}renew", json={"snapshot": shown["snapshot"]})
    assert "used already" in problem(again, 409)["detail"]


async def test_a_snapshot_is_its_makers_for_one_purpose_and_a_while(world: World) -> None:
    await many(world, 2)
    shown = await begin(world, "renew", {"filter": {"environment": "many"}, "dry_run": True})
    body = {"snapshot": shown["snapshot"]}
    problem(await world.call("POST", f"{BULK}renew", "operator", json=body), 404)
    assert "was made to renew" in problem(await world.call("POST", f"{BULK}deploy", json=body), 409)["detail"]
    problem(await world.call("POST", f"{BULK}renew", json={**body, "dry_run": True}), 400, "snapshot")
    await world.execute("UPDATE operations SET expires_at = now()")
    assert "expired" in problem(await world.call("POST", f"{BULK}renew", json=body), 409)["detail"]
    await operations.purge(world.ctx)
    assert await world.value("SELECT count(*) FROM operation_items") == 0
    problem(await world.call("POST", f"{BULK}renew", json=body), 404)


@pytest.mark.parametrize(
    "body,field",
    [
        ({}, "filter"),
        ({"ids": ["mc-1"], "filter": {"q": "a"}}, "filter"),
        ({"filter": {}}, "filter"),
        ({"filter": {"archived": False}}, "filter"),
        ({"ids": []}, "ids"),
        ({"filter": {"colour": "red"}}, "filter.colour"),
        ({"filter": {"tag": "nocolon"}}, "tag"),
        ({"filter": {"expires_before": "2026-01-31T12:00:00"}}, "filter.expires_before"),
        ({"filter": {"expires_before": "0001-01-01T00:00:00+14:00"}}, "expires_before"),
    ],
)
async def test_a_selection_that_is_none_is_refused(world: World, body: dict[str, Any], field: str) -> None:
    problem(await world.call("POST", f"{BULK}renew", json=body), 400, field)
    assert await world.value("SELECT count(*) FROM operations") == 0


async def test_named_ones_that_are_not_there_fail_and_the_others_are_done(world: World, agent: FakeAgent) -> None:
    (known,) = await held(world, agent, 1)
    operation = await end(world, await begin(world, "renew", {"ids": [known, "mc-nobody", known]}))
    assert (operation["total"], operation["succeeded"], operation["failed"]) == (2, 1, 1)
    assert (await items(world, operation))["mc-nobody"] == ("failed", "there is no certificate mc-nobody")
    nothing = await end(world, await begin(world, "renew", {"ids": ["mc-nobody"]}))
    assert nothing["state"] == "completed"
    empty = await end(world, await begin(world, "renew", {"filter": {"environment": "nowhere"}}))
    assert (empty["state"], empty["total"]) == ("completed", 0)


async def test_counts_are_exact_for_ten_thousand(replicas: tuple[World, World]) -> None:
    one, two = replicas
    await many(one, 10_000)
    await one.post("/api/v1/teams", {"id": "team-new", "name": "New"})
    await one.execute("UPDATE certificates SET team_id = 'team-new' WHERE id LIKE 'mc-many-1%'")
    expected = await one.value("SELECT count(*) FROM certificates WHERE team_id = 'default'")
    begun = await begin(one, "reassign", {"filter": {"environment": "many"}, "team_id": "team-new"})
    assert begun["operation"]["total"] == 10_000
    await asyncio.gather(worked_off(one), worked_off(two))
    operation = await end(one, begun)
    assert (operation["succeeded"], operation["skipped"]) == (expected, 10_000 - expected)
    assert await one.value("SELECT count(*) FROM certificates WHERE team_id = 'team-new'") == 10_000
    # Each exactly once: the revision counts changes, and so does the audit trail.
    assert await one.value("SELECT max(revision) FROM certificates") == 2
    told = "SELECT count(*) FROM audit_events WHERE action = 'certificate.updated' AND request_id = $1"
    assert await one.value(told, await one.value("SELECT request_id FROM operations")) == expected
    for action in ("operation.started", "operation.ended"):
        assert await one.value("SELECT count(*) FROM audit_events WHERE action = $1", action) == 1


@pytest.mark.parametrize("batch", [1, 4])
async def test_a_coordinator_that_is_killed_in_a_batch_loses_and_doubles_nothing(
    world: World, database_url: str, tmp_path: Path, batch: int
) -> None:
    await many(world, 120)
    await world.post("/api/v1/teams", {"id": "team-new", "name": "New"})
    begun = await begin(world, "reassign", {"filter": {"environment": "many"}, "team_id": "team-new"})
    path = f"/api/v1/operations/{begun['operation']['id']}"
    environment = {
        **os.environ,
        **variables(database_url, tmp_path),
        "CERTCTL_CRASH_POINT": f"operation.batch_done:{batch}",
    }
    command = [sys.executable, "-m", "tests.coordinator.dying_worker"]
    died = await asyncio.create_subprocess_exec(*command, env=environment)
    assert await died.wait() == -signal.SIGKILL
    before = await world.get(path)
    assert (before["state"], before["succeeded"]) == ("running", (batch - 1) * 25)
    operation = await end(world, begun)
    assert (operation["state"], operation["succeeded"]) == ("completed", 120)
    assert await world.value("SELECT array_agg(DISTINCT revision) FROM certificates WHERE team_id = 'team-new'") == [2]
    assert await world.value("SELECT count(*) FROM audit_events WHERE action = 'certificate.updated'") == 120


async def test_what_waits_is_left_undone_when_it_is_cancelled(world: World) -> None:
    await many(world, 60)
    begun = await begin(world, "reassign", {"filter": {"environment": "many"}, "owner_id": "default"})
    path = f"/api/v1/operations/{begun['operation']['id']}"
    assert await operations.work(world.ctx)
    assert (await world.post(f"{path}/cancel"))["state"] == "cancelling"
    operation = await end(world, begun)
    assert (operation["state"], operation["skipped"], operation["cancelled"]) == ("cancelled", 25, 35)
    assert (await world.post(f"{path}/cancel"))["state"] == "cancelled"
    other = await end(world, await begin(world, "renew", {"ids": ["mc-many-1"]}))
    refused = await world.call("POST", f"/api/v1/operations/{other['id']}/cancel")
    assert "completed" in problem(refused, 409)["detail"]


async def test_bulk_revocation_is_for_admins_and_so_is_its_end(world: World) -> None:
    await many(world, 2)
    body = {"filter": {"environment": "many"}, "reason": "superseded"}
    problem(await world.call("POST", f"{BULK}revoke", "operator", json=body), 403)
    begun = await begin(world, "revoke", {**body, "dry_run": True})
    path = f"/api/v1/operations/{begun['snapshot']}/cancel"
    problem(await world.call("POST", path, "operator"), 403)
    assert (await world.post(path))["state"] == "cancelling"


async def test_rules_and_references_hold_for_many_as_for_one(world: World) -> None:
    await many(world, 2)
    rule = {"name": "Owner", "type": "required_owner", "enforce": "block", "config": {"email": True}}
    await world.post("/api/v1/owners", {"id": "o-mute", "name": "Mute", "team_id": "default"})
    await world.post("/api/v1/owners", {"id": "o-ada", "name": "Ada", "email": "a@b.test", "team_id": "default"})
    await world.post("/api/v1/policies", rule)
    body: dict[str, Any] = {"filter": {"environment": "many"}}
    problem(await world.call("POST", f"{BULK}reassign", json=body), 400, "owner_id")
    problem(await world.call("POST", f"{BULK}reassign", json={**body, "owner_id": "o-none"}), 400, "owner_id")
    problem(await world.call("POST", f"{BULK}reassign", json={**body, "team_id": "team-none"}), 400, "team_id")
    refused = await end(world, await begin(world, "reassign", {**body, "owner_id": "o-mute"}))
    assert (refused["failed"], refused["succeeded"]) == (2, 0)
    assert "rule 'Owner'" in (await items(world, refused))["mc-many-1"][1]
    # What was refused for one is undone for this one alone.
    assert await world.value("SELECT max(revision) FROM certificates WHERE owner_id = 'default'") == 1
    assert await world.value("SELECT count(*) FROM policy_violations") == 0
    taken = await end(world, await begin(world, "reassign", {**body, "owner_id": "o-ada"}))
    assert taken["succeeded"] == 2


async def test_what_a_caller_may_not_see_is_not_touched(world: World) -> None:
    await world.post("/api/v1/teams", {"id": "team-own", "name": "Own"})
    await many(world, 4)
    await world.execute("UPDATE certificates SET team_id = 'team-own' WHERE id IN ('mc-many-1', 'mc-many-2')")
    made = await world.post("/api/v1/api-keys", {"name": "own", "role": "operator", "teams": ["team-own"]})
    headers = bearer(made["key"])

    async def ask(body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = done(await world.http.post(f"{BULK}deploy", headers=headers, json=body))
        return answer

    own = await ask({"filter": {"environment": "many"}})
    named = await ask({"ids": ["mc-many-1", "mc-many-4"]})
    assert (own["operation"]["total"], named["operation"]["failed"]) == (2, 1)
    await world.execute("UPDATE certificates SET team_id = 'default' WHERE id = 'mc-many-2'")
    operation = await end(world, own)
    assert (await items(world, operation))["mc-many-2"][0] == "failed"
    foreign = await begin(world, "renew", {"ids": ["mc-many-4"]})
    path = f"/api/v1/operations/{foreign['operation']['id']}"
    problem(await world.http.get(path, headers=headers), 404)
    problem(await world.http.get(f"{path}/items", headers=headers), 404)
    problem(await world.http.post(f"{path}/cancel", headers=headers), 404)
    listed = done(await world.http.get("/api/v1/operations", headers=headers))
    assert {row["id"] for row in listed["data"]} == {own["operation"]["id"], named["operation"]["id"]}
    body = {"ids": ["mc-many-1"], "team_id": "default"}
    problem(await world.http.post(f"{BULK}reassign", headers=headers, json=body), 403, "team_id")


async def test_one_request_makes_one_operation(world: World) -> None:
    await many(world, 2)
    headers = {**bearer(KEYS["admin"]), "Idempotency-Key": "once"}
    body = {"filter": {"environment": "many"}}
    first = await world.http.post(f"{BULK}renew", headers=headers, json=body)
    assert first.status_code == 202
    again = await world.http.post(f"{BULK}renew", headers=headers, json=body)
    assert again.json() == first.json()
    assert await world.value("SELECT count(*) FROM operations") == 1


async def test_who_waits_for_an_operation_is_told_when_it_goes_on(world: World) -> None:
    await many(world, 30)
    begun = await begin(world, "deploy", {"filter": {"environment": "many"}})
    path = f"/api/v1/operations/{begun['operation']['id']}"
    waiting = asyncio.create_task(world.get(path, wait=30, seen=0))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await operations.work(world.ctx)
    assert (await waiting)["skipped"] == 25
    waiting = asyncio.create_task(world.get(path, wait=30, seen=25))
    await operations.work(world.ctx)
    assert (await waiting)["state"] == "completed"
