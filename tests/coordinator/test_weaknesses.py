"""What a reference product does wrong on its core path (A) and in its security (B), each by its number and name.

Every test takes the road on which the fault showed there, and would fail on that behaviour.
"""

from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest

from coordinator.bindings import service as bindings
from coordinator.certificates import lives
from coordinator.issuance import service as issuance
from coordinator.serving import metrics_app
from coordinator.web import dispatch
from core import wire
from tests.connectors.targets import secretive
from tests.coordinator.world import KEYS, World, bearer, csr_for, csr_of, done, dump, problem, running

pytestmark = pytest.mark.anyio
CERTIFICATES = "/api/v1/certificates"
DAY = 86400


async def status(world: World, certificate_id: str) -> dict[str, object]:
    found: dict[str, object] = (await world.get(f"{CERTIFICATES}/{certificate_id}"))["status"]
    return found


async def policy(world: World, **fields: object) -> str:
    return str((await world.post("/api/v1/renewal-policies", {"name": f"policy {fields}", **fields}))["id"])


# A. Core path ---------------------------------------------------------------------------------------------------


async def test_a1_no_coordinator_takes_the_jobs_of_agents(replicas: tuple[World, World]) -> None:
    one, two = replicas
    agent = await one.agent()
    certificate_id, _ = await one.certificate(target_ids=[await one.target(agent)])
    async with running(one, two):
        issued = await agent.item()
        await agent.issue(issued)
        for loop in ("job-processor", "job-retry", "job-timeout"):
            done(await two.call("POST", f"/api/v1/admin/loops/{loop}/run"))
        (job,) = await one.rows("SELECT state, lease_epoch FROM jobs WHERE kind = 'deployment'")
        assert (job["state"], job["lease_epoch"]) == ("Pending", 0), "nobody but the agent may take it"
        await agent.serve(await agent.item())
    assert (await status(one, certificate_id))["service"] == "served"


async def test_a2_a_certificate_reaches_the_targets_it_is_made_or_changed_with(world: World) -> None:
    agent = await world.agent()
    first, second = await world.target(agent, "first"), await world.target(agent, "second")
    certificate_id, job_ids = await world.certificate(target_ids=[first])
    assert len(job_ids) == 1
    await agent.work()
    assert (await status(world, certificate_id))["service"] == "served"
    done(await world.call("PATCH", f"{CERTIFICATES}/{certificate_id}", json={"target_ids": [first, second]}))
    await agent.work()
    found = await status(world, certificate_id)
    served = {binding["target_id"] for binding in found["bindings"] if binding["served_version_id"]}  # type: ignore[attr-defined]
    assert (found["service"], served) == ("served", {first, second})


async def test_a3_an_agent_gets_its_configuration_as_it_was_entered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await world.agent()
    config = {"cert_path": "/etc/nginx/a.pem", "key_path": "/etc/nginx/private_key.pem", "probe": {"port": 443}}
    body = {"name": "site", "type": "nginx", "agent_id": agent.id, "config": config}
    target = await world.post("/api/v1/targets", body)
    await world.certificate(target_ids=[target["id"]])
    await agent.issue(await agent.item())
    item = await agent.item()
    assert item.config["key_path"] == "/etc/nginx/private_key.pem", "a path with 'key' in its name is no secret"
    assert "*" not in str(item.config)
    assert (await world.get(f"/api/v1/targets/{target['id']}"))["config"]["key_path"] == config["key_path"]


async def test_a7_what_an_authority_has_not_answered_is_pending_and_two_of_them_do_not_meet(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await world.agent()
    ids = [(await world.certificate(agent_id=agent.id, common_name=f"{name}.test"))[0] for name in ("a", "b")]

    class AwayError(BaseException):
        """The authority does not answer."""

    def away(point: str) -> None:
        if point == "issuance.intent":
            raise AwayError

    with monkeypatch.context() as patched:
        patched.setattr(issuance, "crash_point", away)
        for item in await agent.poll():
            with contextlib.suppress(BaseException):
                await agent.submit(item, csr_for(item))  # type: ignore[arg-type]
    for certificate_id in ids:
        found = await status(world, certificate_id)
        assert (found["life"], found["expires_at"]) == ("pending", None)
        assert (await world.get(f"{CERTIFICATES}/{certificate_id}/versions"))["data"] == []
    states = {job["state"] for job in (await world.get("/api/v1/jobs"))["data"]}
    assert states == {"AwaitingCA"}
    await world.execute("UPDATE issuance_requests SET created_at = now() - interval '11 seconds'")
    assert await issuance.finish_interrupted(world.ctx) == 2, "somebody asks for the answers"
    assert [(await status(world, certificate_id))["life"] for certificate_id in ids] == ["valid", "valid"]


@pytest.mark.parametrize(
    "lifetime_s,fields,due_after_s",
    [
        (30 * DAY, {}, 20 * DAY),
        (6 * DAY, {}, 4 * DAY),
        (3600, {}, 2400),
        (90 * DAY, {"days_before": 10}, 80 * DAY),
        (90 * DAY, {"auto_renew": False}, None),
    ],
)
async def test_a8_the_renewal_window_is_the_policys_and_fits_the_lifetime(
    world: World, lifetime_s: int, fields: dict[str, object], due_after_s: int | None
) -> None:
    agent = await world.agent()
    await world.certificate(
        agent_id=agent.id, lifetime_s=lifetime_s, renewal_policy_id=await policy(world, **fields), common_name="a.test"
    )
    await agent.work()
    if due_after_s is None:
        world.clock.advance(timedelta(seconds=lifetime_s))
        assert await bindings.renew_due(world.ctx) == 0, "auto_renew is off"
        return
    world.clock.advance(timedelta(seconds=due_after_s * 0.98))
    assert await bindings.renew_due(world.ctx) == 0
    world.clock.advance(timedelta(seconds=due_after_s * 0.04))
    assert await bindings.renew_due(world.ctx) == 1
    await agent.work()
    assert await bindings.renew_due(world.ctx) == 0, "it is not renewed again and again"


async def test_a9_a_failing_certificate_becomes_louder_until_it_is_mended(world: World) -> None:
    agent = await world.agent()
    few = await policy(world, max_retries=2)
    certificate_id, _ = await world.certificate(agent_id=agent.id, lifetime_s=30 * DAY, renewal_policy_id=few)
    await agent.work()
    world.clock.advance(timedelta(days=21))
    assert await bindings.renew_due(world.ctx) == 1
    for _ in range(3):
        await world.execute("UPDATE jobs SET not_before = now() WHERE state = 'AwaitingCSR'")
        await agent.fail(await agent.item(), "the disk is full")
    world.clock.advance(timedelta(days=4))
    found = await status(world, certificate_id)
    assert (found["life"], found["failing"], found["reason"]) == ("due", True, "the disk is full")
    assert found["alert"]["threshold_days"] == 7  # type: ignore[index]
    world.clock.advance(timedelta(days=6))
    await lives.tell(world.ctx)
    assert (await status(world, certificate_id))["life"] == "expired"
    rows = await world.rows("SELECT action FROM audit_events WHERE resource_id = $1", certificate_id)
    assert {"issuance.failing", "certificate.expired"} <= {row["action"] for row in rows}
    done(await world.call("POST", f"{CERTIFICATES}/{certificate_id}/renew"))
    await agent.work()
    found = await status(world, certificate_id)
    assert (found["life"], found["failing"]) == ("valid", False), "what has expired can be renewed by hand"


async def test_a9_a_cancelled_renewal_does_not_keep_a_certificate_from_the_next(world: World) -> None:
    agent = await world.agent()
    certificate_id, _ = await world.certificate(agent_id=agent.id, lifetime_s=30 * DAY)
    await agent.work()
    world.clock.advance(timedelta(days=21))
    await bindings.renew_due(world.ctx)
    await world.execute("UPDATE jobs SET state = 'Cancelled', finished_at = now() WHERE state = 'AwaitingCSR'")
    assert await bindings.renew_due(world.ctx) == 1
    await agent.work()
    assert (await status(world, certificate_id))["life"] == "valid"


async def test_a10_attempts_and_times_are_kept_and_pauses_grow(world: World) -> None:
    agent = await world.agent()
    certificate_id, _ = await world.certificate(agent_id=agent.id)
    for _ in range(6):
        await world.execute("UPDATE jobs SET not_before = now() WHERE state = 'AwaitingCSR'")
        await agent.fail(await agent.item())
    rows = await world.rows(
        """
        SELECT attempt, started_at IS NOT NULL AS started, finished_at IS NOT NULL AS finished,
          extract(epoch FROM not_before - created_at)::float8 AS pause
        FROM jobs WHERE certificate_id = $1 ORDER BY attempt
        """,
        certificate_id,
    )
    assert [row["attempt"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert all(row["started"] and row["finished"] for row in rows[:-1])
    assert (rows[-1]["started"], rows[-1]["finished"], rows[-1]["pause"] > 30) == (False, False, True)


async def test_a13_a_list_of_more_than_500_is_whole_or_refused_never_cut(world: World) -> None:
    await world.execute(
        """
        INSERT INTO certificates (id, name, common_name, names, profile_id, issuer_id, renewal_policy_id, owner_id,
          team_id, key_algorithm, lifetime_s)
        SELECT 'mc-' || n, 'a', 'a.test', '[{"kind": "dns", "value": "a.test"}]', 'prof-default', 'iss-local',
          'rp-default', 'default', 'default', 'ecdsa-p256', 86400 FROM generate_series(1, 1203) AS n
        """
    )
    assert "500" in problem(await world.call("GET", CERTIFICATES, params={"per_page": 10000}), 400)["detail"]
    first = await world.get(CERTIFICATES, page_size=500)
    assert (first["total"], len(first["data"])) == (1203, 500)
    found, cursor = [row["id"] for row in first["data"]], first["next_cursor"]
    while cursor:
        page = await world.get(CERTIFICATES, page_size=500, cursor=cursor)
        found += [row["id"] for row in page["data"]]
        cursor = page["next_cursor"]
    assert sorted(found) == sorted(f"mc-{number}" for number in range(1, 1204))
    whole = await world.call("GET", CERTIFICATES, params={"format": "csv", "fields": "id"})
    assert len(whole.text.splitlines()) == 1204


async def test_a14_a_cursor_leads_on_and_a_wrong_one_is_refused(world: World) -> None:
    ids = [(await world.certificate(common_name=f"{number}.test"))[0] for number in range(5)]
    found: list[str] = []
    cursor = None
    for _ in range(3):
        page = await world.get(CERTIFICATES, page_size=2, **({"cursor": cursor} if cursor else {}))
        found += [row["id"] for row in page["data"]]
        cursor = page["next_cursor"]
    assert (sorted(found), len(found), cursor) == (sorted(ids), 5, None)
    problem(await world.call("GET", CERTIFICATES, params={"cursor": "bm90IGEgY3Vyc29y"}), 400, "cursor")


# B. Security ----------------------------------------------------------------------------------------------------


async def test_b_no_agent_identity(world: World) -> None:
    agent, other = await world.agent("one"), await world.agent("two")
    await world.certificate(agent_id=agent.id)
    item = await agent.item()
    for key in KEYS.values():
        answer = await world.http.get(f"/api/v1/agents/{agent.id}/work", headers=bearer(key))
        problem(answer, 403)
    problem(await world.http.get(f"/api/v1/agents/{agent.id}/work", headers=bearer(other.token)), 403)
    submission = {"lease_epoch": item.lease_epoch, "csr": "AAAA"}
    path = f"/api/v1/agents/{other.id}/jobs/{item.job_id}/csr"
    problem(await world.http.post(path, json=submission, headers=bearer(other.token)), 404)
    report = agent.report_on(item, outcome="failed", failure=wire.Failure("x", "y"), served_fingerprint="")
    problem(await other.report(item.job_id, report), 404)


async def test_b_flat_authorisation(world: World) -> None:
    agent = await world.agent()
    certificate_id, _ = await world.certificate()
    for method, path in (
        ("POST", "/api/v1/issuers"),
        ("DELETE", f"/api/v1/agents/{agent.id}"),
        ("DELETE", f"{CERTIFICATES}/{certificate_id}"),
        ("POST", f"{CERTIFICATES}/{certificate_id}/renew"),
        ("POST", "/api/v1/api-keys"),
    ):
        problem(await world.call(method, path, "viewer", json={"name": "x"} if method == "POST" else None), 403)
    assert await world.value("SELECT count(*) FROM agents WHERE retired_at IS NOT NULL") == 0
    wish = {"common_name": "www.example.com", "status": "Active"}
    problem(await world.call("PUT", f"{CERTIFICATES}/{certificate_id}", json=wish), 400, "status")


async def test_b_server_keygen_keeps_no_key(world: World) -> None:
    agent = await world.agent()
    certificate_id, _ = await world.certificate(agent_id=agent.id)
    await agent.work()
    answer = await world.call("GET", f"{CERTIFICATES}/{certificate_id}/versions")
    assert answer.json()["data"]
    assert "PRIVATE KEY" not in answer.text + str(await dump(world.dsn))


async def test_b_csr_content(world: World) -> None:
    agent = await world.agent()
    certificate_id, _ = await world.certificate(agent_id=agent.id)
    item = await agent.item()
    refused = problem(await agent.submit(item, csr_of("www.example.com", "bank.example.com")), 422, "csr")
    assert "bank.example.com" in refused["detail"]
    assert await world.value("SELECT count(*) FROM certificate_versions") == 0
    assert (await status(world, certificate_id))["life"] == "pending"


async def test_b_header_trust(world: World) -> None:
    headers = {**bearer(KEYS["operator"]), "X-Actor": "admin", "X-Forwarded-User": "admin", "X-Role": "admin"}
    answer = await world.http.post(CERTIFICATES, json={"common_name": "a.test"}, headers=headers)
    made = done(answer)["certificate"]["id"]
    actor = await world.value("SELECT actor FROM audit_events WHERE resource_id = $1", made)
    operator = await world.value("SELECT id FROM api_keys WHERE name = 'operator'")
    assert actor == f"key:{operator}"
    problem(await world.http.post("/api/v1/issuers", json={"name": "x"}, headers=headers), 403)


async def test_b_defaults(world: World) -> None:
    for path in ("/health", CERTIFICATES):
        answer = await world.call("GET", path, "")
        assert answer.headers["x-content-type-options"] == "nosniff", "also with limits on, also on a refusal"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


async def test_b_audit_is_not_lost_on_a_crash(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class CutError(BaseException):
        """The process dies."""

    def cut(point: str) -> None:
        if point == "request.committed":
            raise CutError

    monkeypatch.setattr(dispatch, "crash_point", cut)
    with pytest.raises(BaseException):  # noqa: B017, PT012 - whatever a dying server looks like
        await world.call("POST", "/api/v1/teams", json={"name": "lost?"})
        raise CutError
    assert await world.value("SELECT count(*) FROM teams WHERE name = 'lost?'") == 1
    assert await world.value("SELECT count(*) FROM audit_events WHERE action = 'team.created'") == 1


async def test_b_secrets_are_redacted_by_their_schema_and_not_by_names(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    secretive.offer(monkeypatch)
    agent = await world.agent()
    login = {"user": "ada", "password": "correct horse"}  # pragma: allowlist secret
    config = {"cert_path": "/a.pem", "key_path": "/a.key", "login": login, "pin": "4711"}
    body = {"name": "x", "type": "secretive", "agent_id": agent.id, "config": config}
    target = await world.post("/api/v1/targets", body)
    assert target["config"]["login"] == {"user": "ada", "password": {"set": True}}
    assert target["config"]["key_path"] == "/a.key"
    assert "correct horse" not in str(await dump(world.dsn))


async def test_b_errors_tell_their_cause(world: World) -> None:
    agent = await world.agent()
    await world.certificate(agent_id=agent.id)
    item = await agent.item()
    assert "CSR" in problem(await agent.submit(item, b"no request"), 400)["detail"].upper()
    await world.execute("UPDATE issuers SET enabled = false")
    refused = problem(await agent.submit(item, csr_for(item)), 422)
    assert "switched off" in refused["detail"]
    missing = problem(await world.call("POST", "/api/v1/targets", json={"name": "x", "type": "nginx"}), 400)
    assert missing["errors"]


async def test_b_tests_and_probes_are_for_those_who_may_change_what_they_test(world: World) -> None:
    document = (await world.http.get("/api/v1/openapi.json")).json()
    asked = [path for path in document["paths"] if path.endswith(("/test", "/probe", "/scan"))]
    assert "/api/v1/issuers/{issuer_id}/test" in asked
    for path in asked:
        for key in ("viewer", "approver", "auditor"):
            problem(await world.call("POST", path.replace("{issuer_id}", "iss-local"), key), 403)


async def test_b_metrics_need_no_key(world: World) -> None:
    """They have a listener of their own (``CERTCTL_METRICS_LISTEN``), which asks for none."""
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    await metrics_app(world.ctx)({"type": "http", "path": "/metrics", "method": "GET"}, None, send)
    assert sent[0]["status"] == 200
    assert b"certctl_http_requests" in bytes(sent[1]["body"])  # type: ignore[call-overload]
