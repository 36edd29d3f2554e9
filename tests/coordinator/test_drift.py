"""What agents find when they look again: who is told, what is repaired, how often, and when it is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from core import wire
from tests.coordinator.world import FakeAgent, World, done, problem

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Installation:
    """A certificate that an agent has served at a target."""

    world: World
    agent: FakeAgent
    target_id: str
    certificate_id: str
    item: wire.DeploymentItem

    async def tell(self, state: wire.InstalledState, cause: str = "/a.key is gone", **more: Any) -> tuple[str, ...]:
        """Tell a finding; return what is not wanted any more."""
        fields = {"target_id": self.target_id, "version_id": self.item.version_id, **more}
        return await tell(self.agent, wire.Finding(state=state, cause=cause, **fields))

    async def is_well(self) -> tuple[str, ...]:
        """Tell that everything is as it was, and seen."""
        return await self.tell("in place", "", served_fingerprint=self.item.fingerprint)

    async def status(self) -> dict[str, Any]:
        """Return how the certificate stands."""
        found: dict[str, Any] = (await self.world.get(f"/api/v1/certificates/{self.certificate_id}"))["status"]
        return found

    async def binding(self) -> dict[str, Any]:
        """Return how its one target stands."""
        (binding,) = (await self.status())["bindings"]
        return dict(binding)

    async def told(self) -> list[tuple[str, str]]:
        """Return what people were told of drift: severity and subject."""
        listed = await self.world.get("/api/v1/notifications", type="certificate_drifted")
        return [(each["severity"], each["subject"]) for each in reversed(listed["data"])]

    async def actions(self) -> list[str]:
        """Return what the audit trail says of drift."""
        events = (await self.world.get("/api/v1/audit", resource_id=self.certificate_id))["data"]
        return [event["action"] for event in reversed(events) if "drift" in event["action"]]


async def tell(agent: FakeAgent, *findings: wire.Finding) -> tuple[str, ...]:
    answer = done(await agent.call("POST", "/drift", json=msgspec.to_builtins(wire.Findings(findings))))
    return msgspec.convert(answer, wire.FindingsTaken).unwanted


@pytest.fixture
async def installed(world: World) -> Installation:
    agent = await world.agent()
    target_id = await world.target(agent, "web")
    certificate_id, _ = await world.certificate(target_ids=[target_id], name="shop")
    await agent.issue(await agent.item())
    item = await agent.item()
    await agent.serve(item)
    return Installation(world, agent, target_id, certificate_id, item)


async def report_only(world: World) -> None:
    await world.call("PATCH", "/api/v1/renewal-policies/rp-default", json={"on_drift": "report"})


async def test_a_change_is_told_once_and_repaired(installed: Installation) -> None:
    assert await installed.tell("missing") == ()
    binding = await installed.binding()
    assert (binding["drift"], binding["served_version_id"]) == ("missing", installed.item.version_id)
    assert binding["reason"] == "missing: /a.key is gone – it is installed again now"
    assert await installed.told() == [("warning", "shop on web: missing")]
    repair = await installed.agent.item()
    assert (repair.target_id, repair.version_id) == (installed.target_id, installed.item.version_id)
    await installed.agent.serve(repair)
    binding = await installed.binding()
    assert (binding["drift"], binding["drift_since"], binding["reason"]) == ("", None, "")
    assert await installed.actions() == ["certificate.drifted"]


async def test_what_is_not_served_does_not_count_as_served(installed: Installation) -> None:
    await report_only(installed.world)
    await installed.tell("served differs", "127.0.0.1:443 serves another")
    status = await installed.status()
    assert (status["service"], status["served_on"]) == ("drifted", 0)
    assert "its renewal policy says to report this only" in status["reason"]
    assert await installed.told() == [("error", "shop on web: served differs")]
    assert await installed.agent.poll() == []
    await installed.tell("in place", "")
    assert (await installed.status())["service"] == "drifted", "nobody has seen it"
    await installed.is_well()
    assert (await installed.status())["service"] == "served"
    assert await installed.actions() == ["certificate.drifted", "certificate.drift_ended"]


async def test_the_reconciler_leaves_alone_what_shall_only_be_reported(installed: Installation) -> None:
    await report_only(installed.world)
    await installed.tell("served differs")
    done(await installed.world.call("POST", "/api/v1/admin/loops/job-retry/run", json={}))
    assert await installed.agent.poll() == []
    done(await installed.world.call("PATCH", "/api/v1/renewal-policies/rp-default", json={"on_drift": "repair"}))
    await installed.tell("served differs")
    assert (await installed.agent.item()).target_id == installed.target_id
    assert await installed.told() == [("error", "shop on web: served differs")], "once for one and the same"


async def test_another_kind_is_told_again(installed: Installation) -> None:
    await report_only(installed.world)
    states: tuple[wire.InstalledState, ...] = ("changed", "changed", "served differs", "changed")
    for state in states:
        await installed.tell(state)
    subjects = [subject for _, subject in await installed.told()]
    assert subjects == ["shop on web: changed", "shop on web: served differs", "shop on web: changed"]


async def test_two_who_write_there_do_not_fight_without_end(installed: Installation) -> None:
    for _ in range(3):
        await installed.tell("changed", "/a.pem holds something else")
        await installed.agent.serve(await installed.agent.item())
    await installed.tell("changed", "/a.pem holds something else")
    assert await installed.agent.poll() == []
    assert "it was repaired 3 times within an hour" in (await installed.status())["reason"]
    await installed.world.execute("UPDATE jobs SET created_at = created_at - interval '1 h'")
    await installed.tell("changed", "/a.pem holds something else")
    assert len(await installed.agent.poll()) == 1


async def test_what_is_being_deployed_has_a_report_of_its_own(installed: Installation) -> None:
    await installed.tell("missing")
    await installed.tell("served differs")
    assert (await installed.binding())["drift"] == "missing"
    await installed.agent.work()
    await installed.world.post(f"/api/v1/certificates/{installed.certificate_id}/renew")
    await installed.agent.issue(await installed.agent.item())
    before = installed.item.version_id
    assert await installed.tell("missing", version_id=before) == ()
    await installed.agent.work()
    assert await installed.tell("missing", version_id=before) == ()
    assert (await installed.binding())["drift"] == ""


async def test_a_renewal_takes_the_place_of_what_has_drifted(installed: Installation) -> None:
    await report_only(installed.world)
    await installed.tell("changed")
    await installed.world.post(f"/api/v1/certificates/{installed.certificate_id}/renew")
    await installed.agent.issue(await installed.agent.item())
    assert (await installed.binding())["drift"] == ""
    await installed.agent.work()
    assert (await installed.status())["service"] == "served"


async def test_a_target_that_is_switched_off_is_not_repaired(installed: Installation) -> None:
    done(await installed.world.call("PATCH", f"/api/v1/targets/{installed.target_id}", json={"enabled": False}))
    await installed.tell("missing")
    assert "the target is switched off" in (await installed.status())["reason"]
    assert await installed.agent.poll() == []


async def test_what_is_not_wanted_there_any_more_is_looked_at_no_more(installed: Installation) -> None:
    path = f"/api/v1/certificates/{installed.certificate_id}"
    done(await installed.world.call("PATCH", path, json={"target_ids": [], "agent_id": installed.agent.id}))
    assert await installed.tell("missing") == (installed.target_id,)
    assert await installed.tell("missing", target_id="tgt-nowhere") == ("tgt-nowhere",)


async def test_an_agent_speaks_of_its_own_targets_only(installed: Installation) -> None:
    other = await installed.world.agent("other")
    finding = wire.Finding(installed.target_id, installed.item.version_id, "missing", "it is gone")
    assert await tell(other, finding) == (installed.target_id,)
    assert (await installed.binding())["drift"] == ""


async def test_it_shows_wherever_people_look(installed: Installation) -> None:
    world = installed.world
    await report_only(world)
    await installed.tell("changed", "/a.pem holds something else")
    target = await world.get(f"/api/v1/targets/{installed.target_id}")
    assert target["drift"] == "changed"
    listed = await world.get("/api/v1/targets", drifted="true")
    assert [each["id"] for each in listed["data"]] == [installed.target_id]
    assert (await world.get("/api/v1/targets", drifted="false"))["data"] == []
    (deployment,) = (await world.get(f"/api/v1/certificates/{installed.certificate_id}/deployments"))["data"]
    assert (deployment["drift"], deployment["drift_since"] is None) == ("changed", False)
    assert (await world.get("/api/v1/stats/summary"))["certificates"]["service"]["drifted"] == 1
    assert (await world.get("/api/v1/certificates", service="drifted"))["total"] == 1
    (risk,) = (await world.get("/api/v1/horizon"))["at_risk"]
    assert risk["why"] == ["drifted"]


@pytest.mark.parametrize(
    "findings", [[], [{"target_id": "tgt-1"}], [{"target_id": "t", "version_id": "v", "state": "?"}]]
)
async def test_findings_of_another_form_are_refused(installed: Installation, findings: list[Any]) -> None:
    problem(await installed.agent.call("POST", "/drift", json={"findings": findings}), 400)
