"""Two-person approval: what the gate holds back until enough persons agree, and every way around that is closed."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coordinator.app import ROUTES
from coordinator.approvals import deciding, store
from coordinator.bindings import service as bindings
from coordinator.database import driver
from coordinator.issuance import service as issuance
from coordinator.issuance import store as issuance_store
from coordinator.operations import service as operations
from core.certificates import read_certificate
from core.errors import Transient
from tests.coordinator.world import KEYS, FakeAgent, World, bearer, csr_for, done, open_world, problem, variables

pytestmark = pytest.mark.anyio


class Case:
    """A certificate under a profile that asks for approvals, its agent, and people with keys of their own."""

    def __init__(self, world: World, agent: FakeAgent) -> None:
        self.world, self.agent = world, agent

    async def ruled(self, **rules: Any) -> None:
        await self.world.call("PATCH", "/api/v1/profiles/prof-default", json={"requires_approval": True, **rules})

    async def key(self, name: str, role: str = "approver", **more: Any) -> dict[str, str]:
        return bearer((await self.world.post("/api/v1/api-keys", {"name": name, "role": role, **more}))["key"])

    async def owner(self, name: str) -> str:
        body = {"name": name, "team_id": "default", "email": f"{name}@example.com"}
        return str((await self.world.post("/api/v1/owners", body))["id"])

    async def asked(self, **wish: Any) -> tuple[str, str, bytes]:
        """Want a certificate and hand in its CSR; return its id, its job's and the CSR."""
        certificate_id, (job_id,) = await self.world.certificate(agent_id=self.agent.id, **wish)
        return certificate_id, job_id, await self.hand_in()

    async def hand_in(self) -> bytes:
        item = await self.agent.item()
        csr = csr_for(item)
        assert done(await self.agent.submit(item, csr))["state"] == "pending"
        return csr

    async def pending(self, **query: str) -> dict[str, Any]:
        (found,) = (await self.world.get("/api/v1/approvals", state="pending", **query))["data"]
        return dict(found)

    async def decide(self, what: str, approval_id: str, headers: dict[str, str], note: str = "") -> Any:
        path = f"/api/v1/approvals/{approval_id}/{what}"
        return await self.world.http.post(path, headers=headers, json={"note": note})

    async def state(self, job_id: str) -> str:
        return str((await self.world.get(f"/api/v1/jobs/{job_id}"))["state"])

    async def versions(self) -> int:
        return int(await self.world.value("SELECT count(*) FROM certificate_versions"))

    async def run_out(self) -> None:
        await self.world.execute("UPDATE approvals SET expires_at = now() - interval '1 s' WHERE state = 'pending'")

    async def loops(self) -> None:
        """Let everything that runs by itself run, a long time from now."""
        self.world.clock.advance(timedelta(days=400))
        await deciding.expire(self.world.ctx)
        await issuance.finish_interrupted(self.world.ctx)
        await bindings.end_overdue(self.world.ctx)
        await bindings.reconcile(self.world.ctx)
        await bindings.renew_due(self.world.ctx)


@pytest.fixture
async def case(world: World) -> Case:
    made = Case(world, await world.agent())
    await made.ruled()
    return made


async def test_what_needs_approval_waits_and_is_issued_when_somebody_else_agrees(case: Case) -> None:
    certificate_id, job_id, csr = await case.asked(sans=["api.example.com"])
    assert await case.state(job_id) == "AwaitingApproval"
    assert await case.agent.poll() == []
    approval = await case.pending()
    assert (approval["certificate_id"], approval["job_id"], approval["required"]) == (certificate_id, job_id, 1)
    assert approval["wanted"]["names"] == ["api.example.com", "www.example.com"]
    assert {"field": "names", "before": "", "after": "api.example.com www.example.com"} in approval["changes"]
    shown = await case.world.get(f"/api/v1/certificates/{certificate_id}")
    assert approval["id"] in shown["status"]["reason"]
    decided = done(await case.decide("approve", approval["id"], bearer("approver-key-of-the-tests"), "as announced"))
    assert (decided["state"], decided["approved"]) == ("approved", 1)
    assert [(vote["name"], vote["vote"], vote["note"]) for vote in decided["votes"]] == [
        ("approver", "approve", "as announced")
    ]
    assert await case.state(job_id) == "Completed"
    body = {"lease_epoch": 0, "csr": base64.b64encode(csr).decode()}
    answer = done(await case.agent.call("POST", f"/jobs/{job_id}/csr", json=body))
    assert answer["state"] == "issued"
    run = await case.world.get(f"/api/v1/runs/{job_id}")
    assert [step["step"] for step in run["steps"]] == [
        "requested",
        "key",
        "csr",
        "approval asked",
        "approved",
        "signed",
    ]
    assert run["steps"][3]["evidence"] == {"approval_id": approval["id"]}
    actions = [row["action"] for row in await case.world.rows("SELECT action FROM audit_events ORDER BY id")]
    assert actions[-3:] == ["approval.requested", "approval.approved", "certificate.issued"]


async def test_the_lifetime_begins_when_it_is_approved(case: Case) -> None:
    await case.asked(lifetime_s=86400)
    case.world.clock.advance(timedelta(days=3))
    done(await case.decide("approve", (await case.pending())["id"], bearer("approver-key-of-the-tests")))
    facts = read_certificate(await case.world.value("SELECT der FROM certificate_versions"))
    assert facts.not_after == case.world.clock.now() + timedelta(days=1)


async def test_m_of_n_counts_persons_and_none_of_them_twice(case: Case) -> None:
    await case.ruled(approvals_required=3)
    _, job_id, _ = await case.asked()
    approval_id = (await case.pending())["id"]
    ada = await case.owner("ada")
    keys = [await case.key("ada-1", owner_id=ada), await case.key("ada-2", owner_id=ada)]
    assert done(await case.decide("approve", approval_id, keys[0]))["approved"] == 1
    for headers in keys:
        assert "voted already" in problem(await case.decide("approve", approval_id, headers), 409)["detail"]
    signed_in = await case.world.person("approver", subject="ada")
    assert "voted already" in problem(await case.decide("approve", approval_id, signed_in), 409)["detail"]
    assert done(await case.decide("approve", approval_id, await case.key("bob")))["approved"] == 2
    assert (await case.state(job_id), await case.versions()) == ("AwaitingApproval", 0)
    assert done(await case.decide("approve", approval_id, await case.key("cy")))["state"] == "approved"
    assert (await case.state(job_id), await case.versions()) == ("Completed", 1)
    problem(await case.decide("approve", approval_id, await case.key("dan")), 409)
    problem(await case.decide("reject", approval_id, await case.key("eve")), 409)


async def test_votes_that_come_at_once_are_counted_one_by_one(case: Case) -> None:
    await case.ruled(approvals_required=2)
    _, job_id, _ = await case.asked()
    approval_id = (await case.pending())["id"]
    one = await case.key("one")
    answers = await asyncio.gather(*(case.decide("approve", approval_id, one) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    assert await case.state(job_id) == "AwaitingApproval"
    others = [await case.key(f"other-{number}") for number in range(4)]
    answers = await asyncio.gather(*(case.decide("approve", approval_id, other) for other in others))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    assert await case.versions() == 1


@pytest.mark.parametrize("who", ["the same key", "a rotated key", "a key of the same name", "a key of the same owner",
                                 "a person with that owner's address"])  # fmt: skip
async def test_nobody_approves_what_they_asked_for(case: Case, who: str) -> None:
    ada = await case.owner("ada")
    made = await case.world.post("/api/v1/api-keys", {"name": "ada", "role": "admin", "owner_id": ada})
    asking = bearer(made["key"])
    body = {"common_name": "www.example.com", "agent_id": case.agent.id}
    done(await case.world.http.post("/api/v1/certificates", headers=asking, json=body))
    await case.hand_in()
    approval = await case.pending()
    assert approval["requested_by"] == [f"key:{made['id']}"]
    voting: dict[str, Callable[[], Awaitable[dict[str, str]]]] = {
        "the same key": lambda: asking_self(asking),
        "a rotated key": lambda: rotated(case, made["id"]),
        "a key of the same name": lambda: case.key("ada", "admin"),
        "a key of the same owner": lambda: case.key("other", "admin", owner_id=ada),
        "a person with that owner's address": lambda: case.world.person("admin", subject="ada"),
    }
    for what in ("approve", "reject"):
        assert "yourself" in problem(await case.decide(what, approval["id"], await voting[who]()), 403)["detail"]
    assert await case.versions() == 0
    assert done(await case.decide("approve", approval["id"], await case.key("somebody else")))["state"] == "approved"


async def asking_self(headers: dict[str, str]) -> dict[str, str]:
    return headers


async def rotated(case: Case, key_id: str) -> dict[str, str]:
    return bearer((await case.world.post(f"/api/v1/api-keys/{key_id}/rotate"))["key"])


async def test_whoever_asked_cannot_have_the_loops_ask_in_their_place(case: Case) -> None:
    """A job that is queued by itself after the one that somebody asked for is still that person's wish."""
    ada = await case.key("ada", "admin")
    body = {"common_name": "www.example.com", "agent_id": case.agent.id}
    done(await case.world.http.post("/api/v1/certificates", headers=ada, json=body))
    await case.agent.fail(await case.agent.item())
    await case.world.execute("UPDATE jobs SET not_before = now()")
    await case.hand_in()
    problem(await case.decide("approve", (await case.pending())["id"], ada), 403)
    await case.world.execute("UPDATE jobs SET state = 'Cancelled' WHERE state = 'AwaitingApproval'")
    await bindings.reconcile(case.world.ctx)
    await case.hand_in()
    problem(await case.decide("approve", (await case.pending())["id"], ada), 403)


async def test_two_coordinators_count_together(replicas: tuple[World, World]) -> None:
    one, two = [Case(world, await world.agent(f"web-{place}")) for place, world in enumerate(replicas)]
    await one.ruled(approvals_required=2)
    _, job_id, _ = await one.asked()
    approval_id = (await two.pending())["id"]
    ada, bob = await one.key("ada"), await two.key("bob")
    words = [case.decide("approve", approval_id, headers) for case in (one, two) for headers in (ada, bob)]
    answers = await asyncio.gather(*words)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 409, 409]
    assert (await two.state(job_id), await one.versions()) == ("Completed", 1)


async def test_only_named_owners_decide_where_a_profile_names_them(case: Case) -> None:
    ada = await case.owner("ada")
    await case.ruled(approver_owner_ids=[ada])
    await case.asked()
    approval_id = (await case.pending())["id"]
    problem(await case.decide("approve", approval_id, await case.key("bob")), 403)
    done(await case.decide("approve", approval_id, await case.key("hers", owner_id=ada)))
    body = {"requires_approval": True, "approver_owner_ids": ["o-none"], "approvals_required": 2}
    response = await case.world.call("PATCH", "/api/v1/profiles/prof-default", json=body)
    problem(response, 400, "approver_owner_ids[0]")
    problem(response, 400, "approvals_required")


async def test_who_may_not_decide_may_not(case: Case) -> None:
    await case.asked()
    approval_id = (await case.pending())["id"]
    for role in ("viewer", "operator", "auditor"):
        for what in ("approve", "reject"):
            problem(await case.world.call("POST", f"/api/v1/approvals/{approval_id}/{what}", role, json={}), 403)
    problem(await case.world.call("POST", "/api/v1/approvals/apr-none/approve", "approver", json={}), 404)


async def test_an_approver_of_another_team_sees_and_decides_nothing(case: Case) -> None:
    await case.world.post("/api/v1/teams", {"id": "team-x", "name": "x"})
    await case.asked()
    approval_id = (await case.pending())["id"]
    scopes: list[dict[str, Any]] = [{"teams": ["team-x"]}, {"environments": ["prod"]}]
    for scope in scopes:
        foreign = await case.key(f"foreign {scope}", **scope)
        problem(await case.decide("approve", approval_id, foreign), 404)
        problem(await case.decide("reject", approval_id, foreign), 404)
        problem(await case.world.http.get(f"/api/v1/approvals/{approval_id}", headers=foreign), 404)
        assert done(await case.world.http.get("/api/v1/approvals", headers=foreign))["data"] == []
    done(await case.decide("approve", approval_id, await case.key("own", teams=["default"])))


async def test_a_rejection_cancels_says_why_and_holds_until_somebody_asks_again(case: Case) -> None:
    certificate_id, job_id, csr = await case.asked()
    rejected = done(await case.decide("reject", (await case.pending())["id"], await case.key("ada"), "wrong name"))
    assert (rejected["state"], rejected["reason"]) == ("rejected", "rejected by ada: wrong name")
    job = await case.world.get(f"/api/v1/jobs/{job_id}")
    assert (job["state"], job["failure"]["cause"]) == ("Cancelled", "rejected by ada: wrong name")
    assert (await case.world.get(f"/api/v1/runs/{job_id}"))["state"] == "failed"
    shown = await case.world.get(f"/api/v1/certificates/{certificate_id}")
    assert "rejected by ada: wrong name; renew" in shown["status"]["reason"]
    await case.loops()
    assert await case.agent.poll() == []
    await case.world.post(f"/api/v1/certificates/{certificate_id}/renew")
    assert await case.hand_in() != csr
    shown = await case.world.get(f"/api/v1/certificates/{certificate_id}")
    assert "waits for approval" in shown["status"]["reason"]


async def test_approval_bypass_by_timeout(case: Case) -> None:
    """The reference fails what was not approved in time, and its retry loop then runs it unapproved."""
    certificate_id, job_id, _ = await case.asked()
    approval_id = (await case.pending())["id"]
    await case.run_out()
    problem(await case.decide("approve", approval_id, await case.key("late")), 409)
    for _ in range(3):
        await case.loops()
    assert await case.state(job_id) == "Cancelled"
    expired = await case.world.get(f"/api/v1/approvals/{approval_id}")
    assert (expired["state"], expired["reason"]) == (
        "expired", f"approval {approval_id} has expired: nobody has decided in time",
    )  # fmt: skip
    assert await case.world.rows("SELECT id FROM jobs WHERE state <> 'Cancelled'") == []
    assert await case.versions() == 0
    shown = await case.world.get(f"/api/v1/certificates/{certificate_id}")
    assert "nobody has decided in time" in shown["status"]["reason"]
    problem(await case.decide("approve", approval_id, await case.key("later")), 409)


async def test_approval_bypass_by_route(case: Case) -> None:
    """The reference has a second route that asks for no second person, and roads that ask for none at all."""
    deciding_routes = [route.path for route in ROUTES if route.path.endswith(("/approve", "/reject"))]
    assert deciding_routes == [f"/api/v1/approvals/{{approval_id}}/{what}" for what in ("approve", "reject")]
    certificate_id, job_id, csr = await case.asked()
    problem(await case.world.call("POST", f"/api/v1/jobs/{job_id}/approve", json={}), 404)
    await case.world.post(f"/api/v1/certificates/{certificate_id}/renew")
    assert await case.state(job_id) == "AwaitingApproval"
    done(await case.decide("approve", (await case.pending())["id"], await case.key("ada")))
    roads: dict[str, Callable[[], Awaitable[object]]] = {
        "asked for": lambda: case.world.post(f"/api/v1/certificates/{certificate_id}/renew"),
        "changed": lambda: change(case, certificate_id),
        "due": lambda: fall_due(case),
        "many": lambda: renew_many(case, bearer(KEYS["admin"])),
    }
    for name, road in roads.items():
        await road()
        assert await case.hand_in() != csr, name
        done(await case.decide("approve", (await case.pending())["id"], await case.key(name)))
    assert await case.versions() == 1 + len(roads)


async def renew_many(case: Case, headers: dict[str, str]) -> None:
    body = {"filter": {"common_name": "www.example.com"}}
    done(await case.world.http.post("/api/v1/certificates/bulk-renew", headers=headers, json=body))
    while await operations.work(case.world.ctx):
        pass


async def test_whoever_renews_many_at_once_has_asked_for_each(case: Case) -> None:
    await case.asked()
    done(await case.decide("approve", (await case.pending())["id"], await case.key("bob")))
    ada = await case.key("ada", "admin")
    await renew_many(case, ada)
    await case.hand_in()
    problem(await case.decide("approve", (await case.pending())["id"], ada), 403)


async def change(case: Case, certificate_id: str) -> None:
    done(await case.world.call("PATCH", f"/api/v1/certificates/{certificate_id}", json={"sans": ["b.example.com"]}))


async def fall_due(case: Case) -> None:
    case.world.clock.advance(timedelta(days=40))
    assert await bindings.renew_due(case.world.ctx) == 1


@pytest.mark.parametrize("broken", ["profile", "question"])
async def test_approvals_fail_open(case: Case, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference issues without approval when it cannot read the profile."""

    async def unreadable(*_: object) -> None:
        raise Transient("the database is away")

    certificate_id, (job_id,) = await case.world.certificate(agent_id=case.agent.id)
    item = await case.agent.item()
    with monkeypatch.context() as patched:
        patched.setattr(*((issuance_store, "wanted") if broken == "profile" else (store, "insert")), unreadable)
        problem(await case.agent.submit(item, csr_for(item)), 503)
        await case.loops()
    assert (await case.state(job_id), await case.versions()) == ("AwaitingCSR", 0)
    assert await case.world.rows("SELECT id FROM issuance_requests") == []
    assert certificate_id


async def test_the_database_itself_lets_no_job_past_its_approval(case: Case) -> None:
    _, job_id, _ = await case.asked()
    for state in ("AwaitingCA", "Completed"):
        with pytest.raises(driver.Error, match="has not been approved"):
            await case.world.execute("UPDATE jobs SET state = $2 WHERE id = $1", job_id, state)
    await case.world.execute("UPDATE jobs SET state = 'Failed' WHERE id = $1", job_id)
    (approval,) = (await case.world.get("/api/v1/approvals"))["data"]
    assert approval["state"] == "cancelled"


@pytest.mark.parametrize("change_of", [{"must_staple": True}, {"extended_key_usages": ["clientAuth"]},
                                       {"requires_approval": False}])  # fmt: skip
async def test_what_changes_after_the_request_is_not_what_was_approved(case: Case, change_of: dict[str, Any]) -> None:
    _, job_id, _ = await case.asked()
    approval_id = (await case.pending())["id"]
    done(await case.world.call("PATCH", "/api/v1/profiles/prof-default", json=change_of))
    assert "changed" in problem(await case.decide("approve", approval_id, await case.key("ada")), 409)["detail"]
    assert await case.state(job_id) == "Cancelled"
    assert (await case.world.get(f"/api/v1/approvals/{approval_id}"))["state"] == "cancelled"
    assert await case.versions() == 0


async def test_what_changes_between_approval_and_signature_is_not_signed(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, job_id, csr = await case.asked()

    async def dies(*_: object) -> None:
        pass

    with monkeypatch.context() as patched:
        patched.setattr(issuance, "finish", dies)
        done(await case.decide("approve", (await case.pending())["id"], await case.key("ada")))
    assert await case.state(job_id) == "AwaitingCA"
    done(await case.world.call("PATCH", "/api/v1/profiles/prof-default", json={"must_staple": True}))
    await case.world.execute("UPDATE issuance_requests SET created_at = now() - interval '11 s'")
    await issuance.finish_interrupted(case.world.ctx)
    assert (await case.state(job_id), await case.versions()) == ("Cancelled", 0)
    assert csr


async def test_an_approved_job_whose_coordinator_died_is_signed_by_another(
    case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, job_id, _ = await case.asked()

    async def dies(*_: object) -> None:
        pass

    with monkeypatch.context() as patched:
        patched.setattr(issuance, "finish", dies)
        done(await case.decide("approve", (await case.pending())["id"], await case.key("ada")))
    await case.world.execute("UPDATE issuance_requests SET created_at = now() - interval '11 s'")
    async with open_world(variables(case.world.dsn, tmp_path / "other")) as other:
        assert await issuance.finish_interrupted(other.ctx) == 1
    assert (await case.state(job_id), await case.versions()) == ("Completed", 1)


async def test_a_change_of_the_certificate_withdraws_what_was_asked_for(case: Case) -> None:
    certificate_id, job_id, _ = await case.asked()
    approval_id = (await case.pending())["id"]
    await change(case, certificate_id)
    assert await case.state(job_id) == "Cancelled"
    withdrawn = await case.world.get(f"/api/v1/approvals/{approval_id}")
    assert (withdrawn["state"], withdrawn["reason"]) == ("cancelled", "another certificate is wanted now")
    problem(await case.decide("approve", approval_id, await case.key("ada")), 409)
    await case.hand_in()
    assert (await case.pending())["wanted"]["names"] == ["b.example.com", "www.example.com"]


async def test_a_renewal_of_what_was_approved_goes_on_by_itself_where_the_profile_says_so(case: Case) -> None:
    await case.ruled(approve_renewals=False)
    certificate_id, _, _ = await case.asked()
    done(await case.decide("approve", (await case.pending())["id"], await case.key("ada")))
    for _ in range(2):
        await fall_due(case)
        assert (await case.agent.issue(await case.agent.item())).state == "issued"
    await change(case, certificate_id)
    await case.hand_in()
    changes = {change["field"]: change for change in (await case.pending())["changes"]}
    assert set(changes) == {"names"}
    assert changes["names"]["after"] == "b.example.com www.example.com"
    assert (await case.pending())["requested_by"] != ["system"]


async def test_what_was_issued_before_approvals_were_asked_for_needs_one(world: World) -> None:
    case = Case(world, await world.agent())
    await world.certificate(agent_id=case.agent.id)
    await case.agent.work()
    await case.ruled(approve_renewals=False)
    await fall_due(case)
    await case.hand_in()
    assert (await case.pending())["requested_by"] == ["system"]


async def test_the_same_csr_stays_pending_and_another_key_is_refused(case: Case) -> None:
    await case.world.certificate(agent_id=case.agent.id)
    item = await case.agent.item()
    csr = csr_for(item)
    for _ in range(2):
        assert done(await case.agent.submit(item, csr))["state"] == "pending"
    problem(await case.agent.submit(item, csr_for(item)), 409)
    assert len((await case.world.get("/api/v1/approvals"))["data"]) == 1
