"""The end of an agent and of an enrollment token: what stands in the way, what goes with them, what stays."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from coordinator.bindings import service as bindings
from coordinator.jobs import service as jobs
from tests.coordinator.world import KEYS, FakeAgent, World, bearer, done, problem

pytestmark = pytest.mark.anyio
FORCE = {"force": "true", "reason": "the host burned down"}


def path_of(agent: FakeAgent) -> str:
    return f"/api/v1/agents/{agent.id}"


@pytest.fixture
async def busy(world: World) -> FakeAgent:
    """An agent with two targets, two certificates of which one is served, and a job in its hands."""
    agent = await world.agent()
    await world.certificate(target_ids=[await world.target(agent, "one")], id="mc-one")
    await agent.work()
    await world.certificate(target_ids=[await world.target(agent, "two")], id="mc-two", common_name="two.example.com")
    await agent.item()
    return agent


async def test_an_agent_that_nothing_depends_on_goes_without_force(world: World) -> None:
    agent = await world.agent()
    path = path_of(agent)
    counts = {"active_targets": 0, "active_certificates": 0, "pending_jobs": 0}
    asked = await world.get(f"{path}/retirement")
    assert asked == {"agent_id": agent.id, "retired_at": None, "blocked": False, "counts": counts}
    gone = done(await world.call("DELETE", path, params={"reason": "moved away"}))
    assert (gone["cascade"], gone["counts"], gone["without_holder"]) == (False, counts, [])
    shown = await world.get(path)
    assert (shown["retired_at"], shown["retired_reason"], shown["online"]) == (gone["retired_at"], "moved away", False)
    assert (await world.get("/api/v1/agents"))["data"] == []
    assert [row["id"] for row in (await world.get("/api/v1/agents/retired"))["data"]] == [agent.id]
    assert [row["id"] for row in (await world.get("/api/v1/agents", retired="true"))["data"]] == [agent.id]
    problem(await agent.call("GET", "/work", params={"boot": agent.boot, "wait": 0}), 410)
    await world.execute("DELETE FROM agent_sessions")
    problem(await world.http.post(f"{path}/nonce"), 410)
    problem(await agent.enroll((await world.post("/api/v1/enrollment-tokens"))["token"]), 410)
    await world.agent(agent.name)


async def test_what_depends_on_it_is_counted_and_keeps_it(world: World, busy: FakeAgent) -> None:
    path = path_of(busy)
    counts = {"active_targets": 2, "active_certificates": 2, "pending_jobs": 1}
    asked = await world.get(f"{path}/retirement")
    assert (asked["blocked"], asked["counts"]) == (True, counts)
    refused = problem(await world.call("DELETE", path), 409)
    assert refused["counts"] == counts
    assert "2 targets, 2 certificates, 1 jobs" in refused["detail"]
    for reason in ({}, {"reason": " "}):
        problem(await world.call("DELETE", path, params={"force": "true", **reason}), 400, "reason")
    assert (await world.get(path))["retired_at"] is None
    assert len((await world.get("/api/v1/targets"))["data"]) == 2


async def test_with_force_everything_that_was_its_ends_and_certificates_stay(world: World, busy: FakeAgent) -> None:
    other = await world.agent("other")
    await world.certificate(id="mc-both", common_name="both.example.com", agent_id=other.id)
    await other.work()
    await world.execute("INSERT INTO holders (certificate_id, agent_id) VALUES ('mc-both', $1)", busy.id)
    path = path_of(busy)
    gone = done(await world.call("DELETE", path, params=FORCE))
    assert gone["cascade"] is True
    assert len(gone["target_ids"]) == 2
    assert gone["without_holder"] == ["mc-one", "mc-two"]
    assert (await world.get("/api/v1/targets"))["data"] == []
    assert await world.value("SELECT count(*) FROM bindings") == 0
    assert await world.rows("SELECT certificate_id, agent_id FROM holders") == [
        {"certificate_id": "mc-both", "agent_id": other.id}
    ]
    for certificate_id in ("mc-one", "mc-two"):
        stand = (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
        assert "no agent has a key for it" in stand["reason"]
    (job,) = (await world.get("/api/v1/jobs", state="Cancelled", agent_id=busy.id))["data"]
    assert "the host burned down" in job["failure"]["cause"]
    assert (await world.get("/api/v1/jobs", agent_id=busy.id, state="AwaitingCSR"))["data"] == []
    (event,) = (await world.get("/api/v1/audit", action="agent.retired"))["data"]
    assert event["resource_id"] == busy.id
    assert (event["details"]["reason"], event["details"]["counts"]["pending_jobs"]) == (FORCE["reason"], 1)
    assert await bindings.reconcile(world.ctx) == 0
    assert await bindings.renew_due(world.ctx) == 0


async def test_repeated_it_says_nothing_and_changes_nothing(world: World, busy: FakeAgent) -> None:
    path = path_of(busy)
    done(await world.call("DELETE", path, params=FORCE))
    before = await world.get(path)
    again = await world.call("DELETE", path, params={"force": "true", "reason": "another one"})
    assert (again.status_code, again.content) == (204, b"")
    assert await world.get(path) == before
    assert len((await world.get("/api/v1/audit", action="agent.retired"))["data"]) == 1


async def test_who_is_no_host_and_who_is_not_there(world: World) -> None:
    for params in ({}, FORCE):
        problem(await world.call("DELETE", "/api/v1/agents/ag-server-scanner", params=params), 403)
        problem(await world.call("DELETE", "/api/v1/agents/ag-none", params=params), 404)
    problem(await world.call("GET", "/api/v1/agents/ag-none/retirement"), 404)
    agent = await world.agent()
    problem(await world.call("DELETE", path_of(agent), "viewer"), 403)


async def test_nothing_new_is_given_to_a_retired_agent(world: World) -> None:
    agent = await world.agent()
    done(await world.call("DELETE", path_of(agent)))
    wish = {"common_name": "www.example.com", "agent_id": agent.id}
    assert "was retired" in problem(await world.call("POST", "/api/v1/certificates", json=wish), 400)["detail"]
    config = {"cert_path": "/etc/nginx/site.pem", "key_path": "/etc/nginx/site.key"}
    body = {"name": "late", "type": "nginx", "agent_id": agent.id, "config": config}
    problem(await world.call("POST", "/api/v1/targets", json=body), 400, "agent_id")


async def test_a_target_of_a_retired_agent_takes_no_certificate(world: World, busy: FakeAgent) -> None:
    gone = done(await world.call("DELETE", path_of(busy), params=FORCE))
    wish = {"common_name": "www.example.com", "target_ids": gone["target_ids"][:1]}
    problem(await world.call("POST", "/api/v1/certificates", json=wish), 400, "target_ids[0]")


@pytest.mark.parametrize("round_number", range(3))
async def test_whatever_comes_in_at_the_same_time_nothing_is_left_of_it(
    world: World, busy: FakeAgent, round_number: int
) -> None:
    async def one_after_another() -> None:
        with contextlib.suppress(AssertionError):  # refused at some point, as it should be
            await busy.work()

    calls = [
        world.call("DELETE", path_of(busy), params=FORCE),
        *(world.call("POST", f"/api/v1/certificates/mc-{name}/renew", json={}) for name in ("one", "two")),
        world.call("POST", "/api/v1/certificates", json={"common_name": "late.example.com", "agent_id": busy.id}),
    ]
    working = asyncio.create_task(one_after_another())
    answers = await asyncio.gather(*calls)
    await working
    assert answers[0].status_code in {200, 503}, answers[0].text
    if answers[0].status_code == 503:
        done(await world.call("DELETE", path_of(busy), params=FORCE))
    await bindings.reconcile(world.ctx)
    for table in ("holders", "bindings"):
        assert await world.rows(f"SELECT * FROM {table}") == []
    live = "SELECT count(*) FROM jobs WHERE state NOT IN ('Completed', 'Failed', 'Cancelled')"
    assert await world.value(live) == 0


async def test_what_was_queued_in_that_very_moment_is_cancelled_by_the_reconciler(world: World) -> None:
    agent = await world.agent()
    certificate_id, _ = await world.certificate(agent_id=agent.id)
    done(await world.call("DELETE", path_of(agent), params=FORCE))
    async with world.ctx.db.transaction() as tx:
        assert await jobs.queue_issuance(tx, certificate_id, agent.id, "requested")
    assert await bindings.reconcile(world.ctx) == 1
    states = await world.rows("SELECT DISTINCT state FROM jobs")
    assert states == [{"state": "Cancelled"}]


async def test_an_agent_gets_another_name(world: World) -> None:
    agent, _ = await world.agent("one"), await world.agent("two")
    path = path_of(agent)
    tag = (await world.call("GET", path)).headers["ETag"]
    assert done(await world.call("PATCH", path, json={"name": "edge"}))["name"] == "edge"
    problem(await world.call("PATCH", path, json={"name": "two"}), 409)
    problem(await world.call("PATCH", path, json={"name": ""}), 400, "name")
    problem(await world.call("PATCH", path, json={"name": "a\nb"}), 400, "name")
    problem(await world.call("PATCH", "/api/v1/agents/ag-none", json={"name": "x"}), 404)
    headers = {**bearer(KEYS["admin"]), "If-Match": tag}
    problem(await world.http.patch(path, json={"name": "late"}, headers=headers), 412)
    (event,) = (await world.get("/api/v1/audit", action="agent.updated"))["data"]
    assert event["details"] == {"name": "edge", "before": "one"}


async def test_agents_are_found_by_what_they_say_of_themselves(world: World, subtests: pytest.Subtests) -> None:
    for name, system, version in (("web-1", "linux", "0.1"), ("web-2", "darwin", "0.1"), ("db-1", "linux", "0.2")):
        token = (await world.post("/api/v1/enrollment-tokens"))["token"]
        host = {"hostname": f"{name}.example.com", "os": system, "architecture": "x86_64", "version": version}
        done(await FakeAgent(world, name).enroll(token, metadata={**host, "address": "192.0.2.7"}))
    await world.execute("UPDATE agents SET last_seen_at = now() - interval '1 hour' WHERE name = 'web-2'")
    await world.execute("UPDATE agents SET retired_at = now(), retired_reason = 'old' WHERE name = 'db-1'")
    found: dict[str, tuple[dict[str, str], list[str]]] = {
        "all": ({}, ["web-1", "web-2"]),
        "by system": ({"os": "linux"}, ["web-1"]),
        "by machine": ({"architecture": "arm64"}, []),
        "by version": ({"version": "0.1"}, ["web-1", "web-2"]),
        "online": ({"online": "true"}, ["web-1"]),
        "away": ({"online": "false"}, ["web-2"]),
        "retired": ({"retired": "true"}, ["db-1"]),
        "by text": ({"q": "EB-2.EX"}, ["web-2"]),
        "by address": ({"q": "192.0.2.7"}, ["web-1", "web-2"]),
        "by a text with a wildcard": ({"q": "%"}, []),
    }
    for what, (query, names) in found.items():
        with subtests.test(what):
            rows = (await world.get("/api/v1/agents", sort="name", **query))["data"]
            assert [row["name"] for row in rows] == names


async def test_a_token_is_revoked_and_lets_in_nobody(world: World) -> None:
    made = await world.post("/api/v1/enrollment-tokens", {"note": "lost"})
    path = f"/api/v1/enrollment-tokens/{made['id']}"
    for _ in range(2):
        assert (await world.call("DELETE", path)).status_code == 204
    assert "was revoked" in problem(await FakeAgent(world, "late").enroll(made["token"]), 401)["detail"]
    (listed,) = (await world.get("/api/v1/enrollment-tokens"))["data"]
    assert listed["revoked_at"] is not None
    assert len((await world.get("/api/v1/audit", action="enrollment_token.revoked"))["data"]) == 1
    problem(await world.call("DELETE", "/api/v1/enrollment-tokens/tok-none"), 404)


async def test_a_token_that_was_used_is_no_longer_revoked(world: World) -> None:
    made = await world.post("/api/v1/enrollment-tokens")
    agent = await world.agent(token=made["token"])
    said = problem(await world.call("DELETE", f"/api/v1/enrollment-tokens/{made['id']}"), 409)
    assert agent.id in said["detail"]
    done(await agent.enroll(made["token"]))
