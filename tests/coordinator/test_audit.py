"""The audit trail: one event for each change, in its transaction, never changed, never a secret."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Annotated, Any

import msgspec
import pytest

from connectors.targets import registry
from connectors.targets.base import FileTargetConfig
from coordinator.audit import service as audit
from coordinator.audit import store
from coordinator.database import driver
from coordinator.database.connection import Connection
from coordinator.database.listing import After, Window
from coordinator.metrics import service as metrics
from coordinator.web.table import Actor
from core.marks import SECRET
from tests.coordinator.world import KEYS, World, problem

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


class Planted(FileTargetConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The configuration of a connector that knows a secret."""

    cert_path: str
    password: Annotated[str, msgspec.Meta(extra_json_schema=SECRET)]


async def test_a_secret_of_a_targets_configuration_is_not_recorded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "find", lambda _: SimpleNamespace(config_type=Planted))
    agent = await world.agent()
    config = {"service": "x", "cert_path": "/etc/x/site.pem", "password": "planted"}
    body = {"name": "site", "type": "planted", "agent_id": agent.id, "config": config}
    target = await world.post("/api/v1/targets", body)
    (event,) = (await world.get("/api/v1/audit", resource_id=target["id"]))["data"]
    assert event["details"]["config"]["cert_path"] == "/etc/x/site.pem"
    assert event["details"]["config"]["password"] == {"set": True}
    for row in await world.rows("SELECT to_jsonb(e)::text AS row FROM audit_events AS e"):
        assert "planted" not in row["row"].replace('"type": "planted"', "")


async def test_what_is_personal_is_not_recorded(world: World) -> None:
    owner = await world.post("/api/v1/owners", {"name": "Jane Planted", "email": "planted@example.com"})
    path = f"/api/v1/owners/{owner['id']}"
    await world.call("PATCH", path, json={"email": "planted@example.org"})
    assert (await world.call("DELETE", path)).is_success
    told = (await world.get("/api/v1/audit", resource_id=owner["id"]))["data"]
    assert [event["action"] for event in told] == ["owner.removed", "owner.updated", "owner.created"]
    assert "lanted" not in str(told)
    assert [event["details"]["team_id"] for event in told] == ["default"] * 3


async def test_details_without_a_schema_are_refused(world: World) -> None:
    async with world.ctx.db.transaction() as tx:
        with pytest.raises(TypeError):
            await audit.record(tx, Actor(kind="system"), "test.noted", "test", "x", {"config": {"password": "p"}})


async def test_reads_and_polls_are_counted_and_not_recorded(world: World) -> None:
    agent = await world.agent()
    before, requests = len(await events(world)), counted()
    await agent.poll()
    await world.get("/api/v1/audit")
    await world.get(f"/api/v1/agents/{agent.id}")
    after = counted()
    for route in ("/api/v1/agents/{agent_id}/work", "/api/v1/audit", "/api/v1/agents/{agent_id}"):
        assert after[route] == requests.get(route, 0) + 1
    assert len(await events(world)) == before


def counted() -> dict[str, float]:
    """Return how many GET requests were answered, by route."""
    pattern = r'^certctl_http_requests_total\{method="GET",route="(.*)",status="200"\} (.*)$'
    found = re.findall(pattern, metrics.exposition().decode(), flags=re.MULTILINE)
    return {route: float(number) for route, number in found}


async def test_every_filter_finds_what_it_names(world: World) -> None:
    response = await world.call("POST", "/api/v1/enrollment-tokens", "operator", json={"note": "one"})
    await world.post("/api/v1/enrollment-tokens", {"note": "two"})
    newest = (await world.get("/api/v1/audit"))["data"]
    one = next(event for event in newest if event["details"].get("note") == "one")
    for name in ("actor", "resource_id", "request_id"):
        page = await world.get("/api/v1/audit", **{name: one[name]})
        assert one in page["data"]
        assert {event[name] for event in page["data"]} == {one[name]}
        assert page["total"] == len(page["data"]) < len(newest)
    assert one["request_id"] == response.headers["x-request-id"]
    later = (await world.get("/api/v1/audit", **{"from": one["at"]}))["data"]
    assert later[-1] == one
    earlier = (await world.get("/api/v1/audit", to=one["at"]))["data"]
    assert [*later, *earlier] == newest
    assert await world.get(f"/api/v1/audit/{one['id']}") == one


@pytest.mark.parametrize(
    "name,value",
    [
        ("actor", "somebody"),
        ("actor", "key:' OR true"),
        ("action", "created"),
        ("resource_type", "Certificate"),
        ("resource_id", ""),
        ("request_id", "42"),
        ("from", "yesterday"),
        ("from", "2026-01-01T00:00:00"),
        ("to", "2026-13-01T00:00:00Z"),
        ("to", "1999-01-01T00:00:00Z"),
        ("since", "2026-01-01T00:00:00Z"),
    ],
)
async def test_a_wrong_filter_is_an_error(world: World, name: str, value: str) -> None:
    query = {"from": "2000-01-01T00:00:00Z", name: value}
    problem(await world.call("GET", "/api/v1/audit", params=query), 400, name)


@pytest.mark.parametrize("event_id", ["0", "999999", "x", "-1", "9" * 30])
async def test_an_event_that_is_not_there(world: World, event_id: str) -> None:
    problem(await world.call("GET", f"/api/v1/audit/{event_id}"), 404)
    problem(await world.call("GET", f"/api/v1/audit/{event_id}", "operator"), 403)


PLANS: dict[str, dict[str, object]] = {
    "all": {},
    "actor": {"actor": "key:key-rare"},
    "action": {"action": "test.rare"},
    "resource_type": {"resource_type": "rare"},
    "resource": {"resource_type": "test", "resource_id": "r7"},
    "request": {"request_id": "req-7"},
    "time": {"since": datetime(2026, 1, 1, tzinfo=UTC), "until": datetime(2026, 1, 2, tzinfo=UTC)},
}


async def test_no_list_reads_a_whole_month(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.execute(
        """
        INSERT INTO audit_events (at, actor, action, resource_type, resource_id, request_id)
        SELECT now() - n * interval '1 ms', 'key:key-' || n % 5, 'test.a' || n % 5, 'test', 'r' || n, 'req-' || n
        FROM generate_series(1, 20000) AS n
        """
    )
    await world.execute("ANALYZE audit_events")
    plans: list[str] = []
    real = Connection.fetch

    async def explained(conn: Connection, sql: str, *arguments: object) -> Any:
        if "FROM audit_events" in sql:
            plans.extend(row["QUERY PLAN"] for row in await real(conn, f"EXPLAIN {sql}", *arguments))
        return await real(conn, sql, *arguments)

    monkeypatch.setattr(Connection, "fetch", explained)
    for name, filters in PLANS.items():
        for after in (None, After(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}+00", "10000")):
            plans.clear()
            async with world.ctx.db.connection() as conn:
                await store.LISTING.read(conn, Window(50, 0, after, None, store.LISTING.default_order), filters)
            assert plans
            month = [line for line in plans if "Seq Scan" in line and f"{datetime.now(UTC):%Y_%m}" in line]
            assert month == [], (name, plans)


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
