"""Certificates that are wanted otherwise: what a change does to holders, targets and jobs; archiving and taking up."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from core import wire
from tests.coordinator.model.stage import dying
from tests.coordinator.world import KEYS, FakeAgent, World, bearer, csr_for, done, dump, problem

pytestmark = pytest.mark.anyio


async def patch(world: World, certificate_id: str, **fields: Any) -> Any:
    return done(await world.call("PATCH", f"/api/v1/certificates/{certificate_id}", json=fields))


async def jobs(world: World, certificate_id: str) -> Counter[str]:
    rows = await world.rows("SELECT kind, state FROM jobs WHERE certificate_id = $1", certificate_id)
    return Counter(f"{row['kind']} {row['state']}" for row in rows)


async def served(world: World, *targets: str, **wish: Any) -> str:
    certificate_id, _ = await world.certificate(target_ids=list(targets), **wish)
    return certificate_id


@pytest.fixture
async def agent(world: World) -> FakeAgent:
    return await world.agent()


async def test_what_was_read_can_be_put_back_and_changes_nothing_but_the_revision(
    world: World, agent: FakeAgent
) -> None:
    target = await world.target(agent)
    other = await world.agent("other")
    wish = {"sans": ["example.com", "10.0.0.1"], "tags": {"a": "b"}, "environment": "prod", "agent_id": other.id}
    certificate_id = await served(world, target, **wish)
    await agent.work()
    read = await world.get(f"/api/v1/certificates/{certificate_id}")
    assert (read["target_ids"], read["agent_id"], read["sans"][0]) == ([target], other.id, "www.example.com")
    shown_only = {"id", "source", "archived_at", "revision", "created_at", "updated_at", "status"}
    body = {name: value for name, value in read.items() if name not in shown_only}
    put = done(await world.call("PUT", f"/api/v1/certificates/{certificate_id}", json=body))
    assert put["job_ids"] == []
    assert {**put["certificate"], "revision": 1, "updated_at": ""} == {**read, "updated_at": ""}
    assert put["certificate"]["revision"] == 2
    left_out = done(await world.call("PUT", f"/api/v1/certificates/{certificate_id}", json={"common_name": "a.test"}))
    shown = left_out["certificate"]
    assert (shown["sans"], shown["tags"], shown["target_ids"], shown["agent_id"]) == (["a.test"], {}, [], None)
    assert await world.value("SELECT count(*) FROM holders") == 0


async def test_a_patch_keeps_what_it_does_not_name(world: World, agent: FakeAgent) -> None:
    certificate_id = await served(world, await world.target(agent), sans=["b.example.com"], tags={"a": "1", "b": "2"})
    await agent.work()
    changed = await patch(world, certificate_id, name="Shop", tags={"a": None, "c": "3"}, environment="prod")
    shown = changed["certificate"]
    assert (shown["name"], shown["tags"], shown["environment"]) == ("Shop", {"b": "2", "c": "3"}, "prod")
    assert (changed["job_ids"], shown["status"]["service"]) == ([], "served")
    details = await world.value("SELECT details FROM audit_events WHERE action = 'certificate.updated'")
    assert details == {"name": "Shop", "tags": {"b": "2", "c": "3"}, "environment": "prod"}
    renamed = await patch(world, certificate_id, common_name="new.example.com")
    assert renamed["certificate"]["sans"] == ["new.example.com", "b.example.com"]


async def test_a_change_under_an_old_tag_is_refused(world: World) -> None:
    certificate_id, _ = await world.certificate()
    path = f"/api/v1/certificates/{certificate_id}"
    tag = (await world.call("GET", path)).headers["ETag"]
    answer = await world.call("PATCH", path, json={"name": "first"})
    assert answer.headers["ETag"] == '"2"'
    for method, body in (("PUT", {"common_name": "a.test"}), ("PATCH", {"name": "late"}), ("DELETE", None)):
        headers = {**bearer(KEYS["admin"]), "If-Match": tag}
        problem(await world.http.request(method, path, json=body, headers=headers), 412)
    headers = {**bearer(KEYS["admin"]), "If-Match": '"2"'}
    answers = await asyncio.gather(
        *(world.http.request("PATCH", path, json={"name": f"n{n}"}, headers=headers) for n in range(6))
    )
    assert sorted(each.status_code for each in answers) == [200, *[412] * 5]


CONTENT: dict[str, Any] = {
    "common_name": "other.example.com",
    "sans": ["more.example.com"],
    "key_algorithm": "ecdsa-p384",
    "lifetime_s": 7200,
    "profile_id": "prof-other",
}


@pytest.mark.parametrize("field", CONTENT)
async def test_a_change_of_the_content_is_issued_at_once_and_deployed(
    world: World, agent: FakeAgent, field: str
) -> None:
    await world.post("/api/v1/profiles", {"id": "prof-other", "name": "Other", "max_lifetime_s": 40 * 86400 * 10})
    certificate_id = await served(world, await world.target(agent))
    await agent.work()
    changed = await patch(world, certificate_id, **{field: CONTENT[field]})
    (job_id,) = changed["job_ids"]
    item = await agent.item()
    assert (item.job_id, isinstance(item, wire.IssuanceItem)) == (job_id, True)
    await agent.issue(item)
    await agent.work()
    shown = await world.get(f"/api/v1/certificates/{certificate_id}")
    assert (shown["status"]["service"], shown["status"]["life"]) == ("served", "valid")
    assert [row["generation"] for row in shown["status"]["holders"]] == [2]


async def test_an_issuance_in_hand_is_not_finished_with_what_is_no_longer_wanted(
    world: World, agent: FakeAgent
) -> None:
    certificate_id, _ = await world.certificate(agent_id=agent.id)
    old = await agent.item()
    changed = await patch(world, certificate_id, sans=["more.example.com"])
    assert problem(await agent.submit(old, csr_for(old)), 409)["type"].endswith("stale-lease")
    new = await agent.item()
    assert new.job_id == changed["job_ids"][0]
    assert [str(name) for name in new.names] == ["www.example.com", "more.example.com"]
    await agent.issue(new)
    assert await jobs(world, certificate_id) == {"issuance Cancelled": 1, "issuance Completed": 1}


async def test_what_the_profile_forbids_is_not_changed_to(world: World) -> None:
    certificate_id, _ = await world.certificate(lifetime_s=3600)
    profile = {"id": "prof-short", "name": "Short", "max_lifetime_s": 600, "allowed_names": ["*.example.com"]}
    await world.post("/api/v1/profiles", profile)
    before = await dump(world.dsn)
    path = f"/api/v1/certificates/{certificate_id}"
    refused = {"lifetime_s": 400 * 86400}, {"profile_id": "prof-short"}
    for body in refused:
        problem(await world.call("PATCH", path, json=body), 422, "lifetime_s")
    wrong: dict[str, Any] = {
        "owner_id": "o-none",
        "team_id": "team-none",
        "issuer_id": "iss-none",
        "renewal_policy_id": "rp-none",
        "profile_id": "prof-none",
        "agent_id": "ag-none",
        "common_name": None,
        "archived": True,
    }
    for field, value in wrong.items():
        problem(await world.call("PATCH", path, json={field: value}), 400, field)
    problem(await world.call("PATCH", path, json={"target_ids": ["tgt-none"]}), 400, "target_ids[0]")
    assert await dump(world.dsn) == before
    await world.execute("UPDATE profiles SET max_lifetime_s = 60, default_lifetime_s = 60 WHERE id = 'prof-default'")
    assert (await patch(world, certificate_id, name="renamed"))["certificate"]["name"] == "renamed"
    problem(await world.call("PATCH", path, json={"sans": ["b.example.com"]}), 422, "lifetime_s")


async def test_a_target_that_leaves_loses_its_deployment_and_its_agent_the_issuance(
    world: World, agent: FakeAgent
) -> None:
    other = await world.agent("other")
    here, there = await world.target(agent), await world.target(other, "there")
    certificate_id = await served(world, here, there)
    await agent.issue(await agent.item())
    deployment = await agent.item()
    await other.item()
    left = await patch(world, certificate_id, target_ids=[])
    assert (left["job_ids"], left["certificate"]["status"]["holders"]) == ([], [])
    assert await jobs(world, certificate_id) == {
        "issuance Completed": 1,
        "issuance Cancelled": 1,
        "deployment Cancelled": 1,
    }
    late = await agent.report(deployment.job_id, agent.report_on(deployment))
    assert problem(late, 409)["type"].endswith("stale-lease")
    assert await other.poll() == []
    taken = await world.certificate(target_ids=[here], common_name="next.example.com")
    problem(await world.call("PATCH", f"/api/v1/certificates/{certificate_id}", json={"target_ids": [here]}), 409)
    assert (await world.get(f"/api/v1/certificates/{taken[0]}"))["target_ids"] == [here]


async def test_a_new_target_gets_what_its_agent_holds_and_a_new_agent_its_own(world: World, agent: FakeAgent) -> None:
    other = await world.agent("other")
    first, second = await world.target(agent, "one"), await world.target(agent, "two")
    third = await world.target(other, "three")
    certificate_id = await served(world, first)
    await agent.work()
    same = await patch(world, certificate_id, target_ids=[first, second])
    assert same["job_ids"] == []
    item = await agent.item()
    assert (isinstance(item, wire.DeploymentItem), item.target_id) == (True, second)
    await agent.serve(item)
    more = await patch(world, certificate_id, target_ids=[first, second, third], agent_id=other.id)
    assert len(more["job_ids"]) == 1
    await other.work()
    status = (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
    assert (status["service"], status["served_on"], len(status["holders"])) == ("served", 3, 2)
    kept = await patch(world, certificate_id, target_ids=[first, second])
    assert [row["agent_id"] for row in kept["certificate"]["status"]["holders"]] == sorted([agent.id, other.id])


async def test_another_policy_moves_the_renewal(world: World, agent: FakeAgent) -> None:
    certificate_id, _ = await world.certificate(agent_id=agent.id, lifetime_s=30 * 86400)
    await agent.work()
    await world.execute("INSERT INTO renewal_policies (id, name, days_before) VALUES ('rp-late', 'late', 2)")
    await world.execute("INSERT INTO renewal_policies (id, name, auto_renew) VALUES ('rp-never', 'never', false)")
    gap = (
        "SELECT extract(day FROM not_after - renew_at) FROM holders JOIN certificate_versions AS v ON v.id = version_id"
    )
    assert await world.value(gap) == 10
    await patch(world, certificate_id, renewal_policy_id="rp-late")
    assert await world.value(gap) == 2
    never = await patch(world, certificate_id, renewal_policy_id="rp-never")
    assert (await world.value(gap), never["certificate"]["status"]["renew_at"]) == (None, None)


async def test_what_is_served_is_archived_by_force_only(world: World, agent: FakeAgent) -> None:
    target = await world.target(agent)
    certificate_id = await served(world, target)
    await agent.work()
    path = f"/api/v1/certificates/{certificate_id}"
    said = problem(await world.call("DELETE", path), 409)["detail"]
    assert f"site ({target})" in said
    await world.post(f"{path}/renew")
    assert (await world.call("DELETE", f"{path}?force=true")).status_code == 204
    assert (await world.call("DELETE", path)).status_code == 204, "it is archived already"
    assert await agent.poll() == []
    shown = await world.get(path)
    assert (shown["target_ids"], shown["status"]["renew_at"]) == ([], None)
    assert shown["archived_at"] is not None
    assert [row["version_id"] is not None for row in shown["status"]["holders"]] == [True]
    assert (await world.get("/api/v1/certificates"))["total"] == 0
    assert [row["id"] for row in (await world.get("/api/v1/certificates", archived="true"))["data"]] == [certificate_id]
    assert (await world.get(f"{path}/versions"))["total"] == 1
    for method, body in (("PUT", {"common_name": "a.test"}), ("PATCH", {"name": "x"})):
        problem(await world.call(method, path, json=body), 409)
    problem(await world.call("POST", f"{path}/renew", json={}), 409)
    assert await world.value("SELECT count(*) FROM audit_events WHERE action = 'certificate.archived'") == 1


async def test_an_archived_one_is_taken_up_with_what_its_agent_still_holds(world: World, agent: FakeAgent) -> None:
    target = await world.target(agent)
    certificate_id = await served(world, target)
    await agent.work()
    path = f"/api/v1/certificates/{certificate_id}"
    assert (await world.call("DELETE", f"{path}?force=true")).status_code == 204
    back = await patch(world, certificate_id, archived=False, target_ids=[target])
    assert (back["job_ids"], back["certificate"]["archived_at"]) == ([], None)
    assert back["certificate"]["status"]["renew_at"] is not None
    await agent.work()
    assert (await world.get(path))["status"]["service"] == "served"
    assert await world.value("SELECT count(*) FROM certificate_versions") == 1
    assert (await world.call("DELETE", f"{path}?force=true")).status_code == 204
    alone = await patch(world, certificate_id, archived=False)
    assert alone["certificate"]["status"]["holders"] == [], "no target asks for it now"


async def test_nothing_is_done_for_an_archived_one_that_had_nothing_yet(world: World, agent: FakeAgent) -> None:
    certificate_id, _ = await world.certificate(agent_id=agent.id)
    assert (await world.call("DELETE", f"/api/v1/certificates/{certificate_id}")).status_code == 204
    assert await jobs(world, certificate_id) == {"issuance Cancelled": 1}
    assert await world.value("SELECT count(*) FROM holders") == 0
    back = await patch(world, certificate_id, archived=False)
    assert len(back["job_ids"]) == 1, "its agent was wanted by name"
    await agent.work()
    assert (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]["life"] == "valid"


@pytest.mark.parametrize("point", ["certificate.changed", "certificate.archived"])
async def test_a_death_before_the_commit_changes_nothing(world: World, agent: FakeAgent, point: str) -> None:
    certificate_id, _ = await world.certificate(agent_id=agent.id)
    path = f"/api/v1/certificates/{certificate_id}"
    before = await dump(world.dsn)
    method, body = ("PATCH", {"sans": ["b.example.com"]}) if point.endswith("changed") else ("DELETE", None)
    with dying(point):
        problem(await world.call(method, path, json=body), 500)
    assert await dump(world.dsn) == before
    assert (await world.call(method, path, json=body)).is_success


async def test_changes_reports_and_renewals_at_once_wait_for_each_other(world: World, agent: FakeAgent) -> None:
    targets = [await world.target(agent, f"site-{number}") for number in range(6)]
    certificate_id = await served(world, *targets)
    await agent.issue(await agent.item())
    path = f"/api/v1/certificates/{certificate_id}"
    for turn in range(4):
        items = [item for item in await agent.poll() if isinstance(item, wire.DeploymentItem)]
        calls = [agent.report(item.job_id, agent.report_on(item)) for item in items]
        calls += [
            world.call("PATCH", path, json={"target_ids": targets[: 3 + turn]}),
            world.call("POST", f"{path}/renew", json={}),
            world.call("PATCH", path, json={"name": f"turn {turn}"}),
        ]
        answers = await asyncio.gather(*calls)
        assert {answer.status_code for answer in answers} <= {200, 202, 409}, [each.text for each in answers]
        for item in await agent.poll():
            if isinstance(item, wire.IssuanceItem):
                await agent.issue(item)
    await agent.work()
    assert (await world.get(path))["status"]["service"] == "served"
