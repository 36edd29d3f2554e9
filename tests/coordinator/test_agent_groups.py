"""Agent groups: who fits, who is put in or kept out by hand, and that every reader sees the same."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from core import wire
from tests.coordinator.world import FakeAgent, World, done, problem

pytestmark = pytest.mark.anyio
LINUX = {"os": "linux", "architecture": "amd64", "address": "10.1.2.3", "version": "1.2.3"}
GROUP = {"name": "Edge", "id": "grp-edge"}


async def agent(world: World, name: str, **metadata: str) -> FakeAgent:
    """Enroll an agent that says this of its host."""
    made = await world.agent(name)
    await says(made, **{**LINUX, **metadata})
    return made


async def says(agent: FakeAgent, **metadata: str) -> None:
    """Sign an agent in that says this of its host."""
    body = {**await agent.token_request(), "metadata": msgspec.to_builtins(wire.Metadata(**metadata))}
    agent.token = done(await agent.world.http.post(f"/api/v1/agents/{agent.id}/token", json=body))["token"]


async def members(world: World, **query: Any) -> dict[str, str]:
    """Return who is in the group, and why, after seeing that the list of agents agrees."""
    found = (await world.get("/api/v1/agent-groups/grp-edge/members", **query))["data"]
    if not query:
        listed = (await world.get("/api/v1/agents", group_id="grp-edge", per_page=500))["data"]
        assert [row["id"] for row in listed] == [row["id"] for row in found]
    return {row["name"]: row["membership"] for row in found}


FITS: dict[str, tuple[dict[str, str], bool]] = {
    "os": ({"match_os": "Linux"}, True),
    "another os": ({"match_os": "darwin"}, False),
    "architecture": ({"match_architecture": "amd64"}, True),
    "another architecture": ({"match_architecture": "arm64"}, False),
    "network": ({"match_ip_cidr": "10.0.0.0/8"}, True),
    "another network": ({"match_ip_cidr": "192.168.0.0/16"}, False),
    "network of the other family": ({"match_ip_cidr": "::/0"}, False),
    "version": ({"match_version": ">=1.2,<2"}, True),
    "short version": ({"match_version": "<=1.2.3.0"}, True),
    "later version": ({"match_version": ">1.2.3"}, False),
    "version compared as numbers": ({"match_version": "<1.10"}, True),
    "all of them": ({"match_os": "linux", "match_ip_cidr": "10.1.2.0/24", "match_version": "1.2.3"}, True),
    "all but one": ({"match_os": "linux", "match_ip_cidr": "10.1.3.0/24"}, False),
    "nothing asked": ({}, False),
}


async def test_an_agent_fits_when_all_that_is_asked_holds(world: World, subtests: pytest.Subtests) -> None:
    await agent(world, "web")
    for what, (criteria, fits) in FITS.items():
        with subtests.test(what):
            await world.execute("DELETE FROM agent_groups")
            await world.post("/api/v1/agent-groups", {**GROUP, **criteria})
            assert await members(world) == ({"web": "matched"} if fits else {})


async def test_what_an_agent_says_may_be_nonsense(world: World) -> None:
    await agent(world, "odd", address="not an address", version="unknown")
    await agent(world, "odder", address="", version="99999999999999.1")
    await agent(world, "dev", version="v1.3.0rc1+local", address="10.0.0.1")
    await world.post("/api/v1/agent-groups", {**GROUP, "match_ip_cidr": "0.0.0.0/0", "match_version": ">=1.3"})
    assert await members(world) == {"dev": "matched"}


async def test_lists_by_hand_outweigh_what_an_agent_says(world: World) -> None:
    one, two, three = [await agent(world, name) for name in ("one", "two", "three")]
    await says(three, os="darwin")
    await world.post("/api/v1/agent-groups", {**GROUP, "match_os": "linux"})
    path = "/api/v1/agent-groups/grp-edge/members"
    for member, membership in ((two, "exclude"), (three, "include")):
        set_to = done(await world.call("PUT", f"{path}/{member.id}", json={"membership": membership}))
        assert set_to == {"agent_group_id": "grp-edge", "agent_id": member.id, "membership": membership}
    assert await members(world) == {"three": "include", "one": "matched"}
    assert await members(world, membership="include") == {"three": "include"}
    done(await world.call("PUT", f"{path}/{two.id}", json={"membership": "include"}))
    assert (await world.call("DELETE", f"{path}/{three.id}")).status_code == 204
    problem(await world.call("DELETE", f"{path}/{three.id}"), 404)
    assert await members(world) == {"two": "include", "one": "matched"}
    await world.execute("UPDATE agents SET retired_at = now() WHERE id = $1", one.id)
    assert await members(world) == {"two": "include"}
    actions = await world.rows("SELECT action FROM audit_events WHERE resource_id = 'grp-edge' ORDER BY id")
    assert [row["action"].partition(".")[2] for row in actions] == [
        "created",
        *["member_set"] * 3,
        "member_forgotten",
    ]


async def test_members_come_in_pages(world: World) -> None:
    names = [(await agent(world, f"web-{number}")).name for number in range(7)]
    await world.post("/api/v1/agent-groups", {**GROUP, "match_os": "linux"})
    path, found, cursor = "/api/v1/agent-groups/grp-edge/members", list[str](), None
    while True:
        query: dict[str, Any] = {"page_size": 3, "sort": "name", **({"cursor": cursor} if cursor else {})}
        page = await world.get(path, **query)
        found += [row["name"] for row in page["data"]]
        assert page["total"] == 7
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == names


@pytest.mark.parametrize(
    "body,field",
    [
        ({"match_ip_cidr": "10.0.0.1/8"}, "match_ip_cidr"),
        ({"match_ip_cidr": "everywhere"}, "match_ip_cidr"),
        ({"match_version": "~1.2"}, "match_version"),
        ({"match_kernel": "6"}, "match_kernel"),
    ],
)
async def test_a_group_that_nobody_could_fit_is_refused(world: World, body: dict[str, str], field: str) -> None:
    problem(await world.call("POST", "/api/v1/agent-groups", json={**GROUP, **body}), 400, field)


async def test_unknown_groups_agents_and_memberships_are_told(world: World) -> None:
    known = await world.agent()
    path = "/api/v1/agent-groups/grp-edge/members"
    problem(await world.call("GET", path), 404)
    problem(await world.call("PUT", f"{path}/{known.id}", json={"membership": "include"}), 404)
    await world.post("/api/v1/agent-groups", GROUP)
    problem(await world.call("PUT", f"{path}/ag-none", json={"membership": "include"}), 404)
    problem(await world.call("PUT", f"{path}/{known.id}", json={"membership": "maybe"}), 400, "membership")


async def test_a_group_that_a_policy_is_about_stays(world: World) -> None:
    await world.post("/api/v1/agent-groups", GROUP)
    policy = await world.post("/api/v1/renewal-policies", {"name": "Edge", "agent_group_id": "grp-edge"})
    assert policy["id"] in problem(await world.call("DELETE", "/api/v1/agent-groups/grp-edge"), 409)["detail"]
    wrong = {"name": "Other", "agent_group_id": "grp-none"}
    problem(await world.call("POST", "/api/v1/renewal-policies", json=wrong), 400, "agent_group_id")
    done(await world.call("PATCH", f"/api/v1/renewal-policies/{policy['id']}", json={"agent_group_id": None}))
    assert (await world.call("DELETE", "/api/v1/agent-groups/grp-edge")).status_code == 204
