"""Rules: each type keeps what it says; who breaks one is refused or written down, and forgiven when it is mended."""

from __future__ import annotations

import asyncio
from typing import Any, get_args

import pytest

from coordinator.policies import service as policies
from coordinator.policies.routes import RuleType
from coordinator.policies.rules import RULES, Wanted, read_rule
from core.errors import InvalidInput
from core.names import parse_name
from tests.coordinator.database.conftest import until
from tests.coordinator.world import World, csr_for, done, problem, running

pytestmark = pytest.mark.anyio
DAY = 86400
GOOD = Wanted(
    id="mc-a",
    names=(parse_name("www.example.com"), parse_name("10.0.0.1")),
    owner_id="o-ada",
    owner_email="ada@example.com",
    environment="production",
    tags={"service": "shop", "tier": "gold"},
    issuer_id="iss-local",
    key_algorithm="rsa-3072",
    lifetime_s=90 * DAY,
    auto_renew=True,
    days_before=None,
)
RSA = {"algorithm": "RSA", "min_size": 3072}
KEPT: dict[str, dict[str, Any]] = {
    "required_owner": {"email": True},
    "allowed_environments": {"environments": ["production", "test"]},
    "maximum_lifetime": {"max_lifetime_s": 90 * DAY},
    "minimum_renewal_window": {"days": 30},
    "allowed_issuers": {"issuer_ids": ["iss-local"]},
    "allowed_key_types": {"key_algorithms": [RSA, "ed25519"]},
    "allowed_domains": {"patterns": ["*.example.com", "10.0.0.0/8"]},
    "required_names": {"patterns": ["10.0.0.0/8", "www.**"]},
    "required_tags": {"tags": {"service": [], "tier": ["gold", "silver"]}},
}
BROKEN: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("required_owner", {}, {"owner_id": "default"}, "names nobody"),
    ("required_owner", {"email": True}, {"owner_email": ""}, "no e-mail"),
    ("allowed_environments", {"environments": ["test"]}, {}, "allowed are test"),
    ("maximum_lifetime", {"max_lifetime_s": 90 * DAY - 1}, {}, "at most"),
    ("minimum_renewal_window", {"days": 31}, {}, "renews 30.0 days before"),
    ("minimum_renewal_window", {"days": 11}, {"days_before": 10}, "renews 10.0 days before"),
    ("minimum_renewal_window", {"days": 1}, {"auto_renew": False}, "nothing by itself"),
    ("minimum_renewal_window", {"days": 3}, {"lifetime_s": 6 * DAY}, "renews 2.0 days before"),
    ("allowed_issuers", {"issuer_ids": ["iss-other"]}, {}, "is iss-local"),
    ("allowed_key_types", {"key_algorithms": ["ed25519"]}, {}, "is rsa-3072"),
    ("allowed_key_types", {"key_algorithms": [RSA]}, {"key_algorithm": "rsa-2048"}, "rsa-3072"),
    ("allowed_domains", {"patterns": ["*.example.com"]}, {}, "hold 10.0.0.1"),
    ("required_names", {"patterns": ["*.example.com", "*@example.com"]}, {}, "form *@example.com"),
    ("required_tags", {"tags": {"cost": []}}, {}, "lack cost"),
    ("required_tags", {"tags": {"tier": ["silver"]}}, {}, "tier=gold"),
]
SENSELESS: list[tuple[str, dict[str, Any], str]] = [
    ("required_owner", {"mail": True}, "config.mail"),
    ("allowed_environments", {}, "config.environments"),
    ("allowed_environments", {"environments": []}, "config.environments"),
    ("maximum_lifetime", {"max_lifetime_s": "1d"}, "config.max_lifetime_s"),
    ("minimum_renewal_window", {"days": 0}, "config.days"),
    ("allowed_key_types", {"key_algorithms": [{**RSA, "min_size": 9999}]}, "config.key_algorithms[0].min_size"),
    ("allowed_domains", {"patterns": ["*.example.com", "10.0.0.1/8"]}, "config.patterns[1]"),
    ("required_names", {"patterns": [""]}, "config.patterns[0]"),
    ("required_tags", {"tags": {}}, "config.tags"),
]  # fmt: skip


@pytest.mark.parametrize("kind", RULES)
def test_a_certificate_that_keeps_a_rule_has_no_problem(kind: str) -> None:
    assert read_rule(kind, KEPT[kind]).problem(GOOD) == ""


@pytest.mark.parametrize("kind,config,changes,words", BROKEN)
def test_a_certificate_that_breaks_a_rule_is_told_how(
    kind: str, config: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    fields = {name: getattr(GOOD, name) for name in GOOD.__struct_fields__}
    assert words in read_rule(kind, config).problem(Wanted(**{**fields, **changes}))


@pytest.mark.parametrize("kind,config,field", SENSELESS)
async def test_a_senseless_rule_is_refused_with_the_field(
    world: World, kind: str, config: dict[str, Any], field: str
) -> None:
    body = {"name": "x", "type": kind, "config": config}
    problem(await world.call("POST", "/api/v1/policies", json=body), 400, field)


def test_every_type_can_be_asked_for_and_is_broken_in_some_test() -> None:
    assert set(get_args(RuleType)) == set(RULES) == {kind for kind, *_ in BROKEN}
    with pytest.raises(InvalidInput):
        read_rule("required_owner", {"email": "yes"})


async def test_every_type_says_what_it_is_told(world: World) -> None:
    types = {row["type"]: row for row in (await world.get("/api/v1/policy-types"))["data"]}
    assert set(types) == set(RULES)
    assert all(row["description"] and row["schema"] for row in types.values())
    (definition,) = [v for k, v in types["maximum_lifetime"]["schema"]["$defs"].items() if k == "MaximumLifetime"]
    assert definition["properties"]["max_lifetime_s"] == {"type": "integer", "minimum": 60}


OWNED = {"name": "Owned", "id": "pol-owned", "type": "required_owner"}
PRODUCTION = {"type": "allowed_environments", "config": {"environments": ["production"]}}


async def rule(world: World, **changes: Any) -> str:
    """Add a rule and hold every certificate against it; return its id."""
    made = await world.post("/api/v1/policies", {**OWNED, **changes})
    await scanned(world)
    return str(made["id"])


async def scanned(world: World) -> int:
    """Follow all marks; return in how many steps."""
    steps = 0
    while await policies.scan(world.ctx):
        steps += 1
    return steps


async def violations(world: World, **query: Any) -> list[dict[str, Any]]:
    return list((await world.get("/api/v1/violations", **query))["data"])


async def test_a_rule_is_made_merged_and_removed_with_its_violations(world: World) -> None:
    await world.certificate()
    await rule(world)
    merged = done(await world.call("PATCH", "/api/v1/policies/pol-owned", json={"config": {"email": True}}))
    assert (merged["config"], merged["enforce"], merged["severity"]) == ({"email": True}, "warn", "warning")
    problem(await world.call("PATCH", "/api/v1/policies/pol-owned", json={"type": "required_tags"}), 400)
    assert len(await violations(world)) == 1
    assert (await world.call("DELETE", "/api/v1/policies/pol-owned")).status_code == 204
    assert await violations(world) == []


async def test_a_rule_that_warns_writes_down_who_breaks_it(world: World) -> None:
    await rule(world, severity="error")
    certificate_id, _ = await world.certificate()
    (found,) = await violations(world)
    assert (found["rule_id"], found["certificate_id"], found["severity"]) == ("pol-owned", certificate_id, "error")
    assert (found["field"], found["rule_name"], found["common_name"]) == ("owner_id", "Owned", "www.example.com")
    assert "names nobody" in found["message"]
    assert found["closed_at"] is None


async def test_rules_that_block_refuse_a_wish_and_each_is_named(world: World) -> None:
    await rule(world, enforce="block")
    await rule(world, **PRODUCTION, name="Production", id="pol-prod", enforce="block")
    await rule(world, name="Tagged", id="pol-tags", type="required_tags", config={"tags": {"cost": []}})
    refused = problem(await world.call("POST", "/api/v1/certificates", json={"common_name": "a.test"}), 422, "owner_id")
    assert [error["field"] for error in refused["errors"]] == ["owner_id", "environment"]
    assert all(name in refused["detail"] for name in ("pol-owned", "pol-prod", "'Production'"))
    assert await world.value("SELECT count(*) FROM certificates") == 0
    owner = await world.post("/api/v1/owners", {"name": "Ada"})
    await world.certificate(owner_id=owner["id"], environment="production")
    assert [found["rule_id"] for found in await violations(world)] == ["pol-tags"]


async def test_a_rule_that_blocks_stops_what_was_wanted_before_at_the_gate(world: World) -> None:
    agent = await world.agent()
    certificate_id, _ = await world.certificate(agent_id=agent.id)
    item = await agent.item()
    await rule(world, enforce="block", severity="critical")
    refused = problem(await agent.submit(item, csr_for(item)), 422, "owner_id")
    await agent.fail(item, refused["detail"])
    status = (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
    assert "rule 'Owned'" in status["reason"]
    assert [found["severity"] for found in await violations(world, open=True)] == ["critical"]
    done(await world.call("PATCH", "/api/v1/policies/pol-owned", json={"enforce": "warn"}))
    await world.execute("UPDATE jobs SET not_before = now()")
    await agent.issue(await agent.item())


async def test_the_gate_closes_what_is_mended_and_opens_what_is_not(world: World) -> None:
    agent = await world.agent()
    await world.certificate(agent_id=agent.id)
    await rule(world)
    owner = await world.post("/api/v1/owners", {"name": "Ada"})
    await world.execute("UPDATE certificates SET owner_id = $1", owner["id"])
    await agent.work()
    (closed,) = await violations(world)
    assert closed["closed_at"] is not None
    assert await violations(world, open=True) == []
    await world.execute("UPDATE certificates SET owner_id = 'default'")
    await world.execute("UPDATE holders SET renew_at = now()")
    certificate_id = closed["certificate_id"]
    await world.post(f"/api/v1/certificates/{certificate_id}/renew")
    await agent.work()
    assert len(await violations(world, open=True)) == 1
    assert len(await violations(world, open=False)) == 1


async def test_violations_are_filtered(world: World) -> None:
    first, _ = await world.certificate()
    second, _ = await world.certificate(common_name="b.example.com")
    await rule(world)
    await rule(world, **PRODUCTION, name="Production", id="pol-prod", severity="critical")
    counts = {
        "certificate_id": (first, 2),
        "rule_id": ("pol-prod", 2),
        "severity": ("critical", 2),
        "open": (False, 0),
    }
    for name, (value, count) in counts.items():
        assert len(await violations(world, **{name: value})) == count, name
    assert len(await violations(world, severity="critical", certificate_id=second)) == 1
    of_rule = await world.get("/api/v1/policies/pol-owned/violations", certificate_id=first)
    assert [row["rule_id"] for row in of_rule["data"]] == ["pol-owned"]
    problem(await world.call("GET", "/api/v1/policies/pol-none/violations"), 404)
    problem(await world.call("GET", "/api/v1/violations?severity=loud"), 400, "severity")


CHANGES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "the rule asks for less": ({}, "policies/pol-owned", PRODUCTION),
    "the rule is switched off": ({}, "policies/pol-owned", {"enabled": False}),
    "the owner can be written to": ({"config": {"email": True}}, "owners/o-ada", {"email": "ada@example.com"}),
    "the policy renews earlier": (
        {"type": "minimum_renewal_window", "config": {"days": 20}},
        "renewal-policies/rp-default",
        {"days_before": 22},
    ),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_a_violation_closes_itself_when(world: World, what: str) -> None:
    config, path, change = CHANGES[what]
    await world.post("/api/v1/owners", {"name": "Ada", "id": "o-ada"})
    owner = "o-ada" if "owner" in what else "default"
    await world.certificate(owner_id=owner, environment="production")
    await rule(world, **config)
    assert len(await violations(world, open=True)) == 1
    if "less" in what:
        change = {"name": "Owned", **change}
    done(await world.call("PUT" if "less" in what else "PATCH", f"/api/v1/{path}", json=change))
    assert await scanned(world) == 1
    assert await violations(world, open=True) == []


async def test_an_archived_certificate_breaks_no_rule_until_it_is_taken_up_again(world: World) -> None:
    certificate_id, _ = await world.certificate(owner_id="default", environment="test")
    path = f"/api/v1/certificates/{certificate_id}"
    await rule(world)
    assert len(await violations(world, open=True)) == 1
    assert (await world.call("DELETE", path)).status_code == 204
    assert await violations(world, open=True) == []
    await rule(world, **PRODUCTION, name="Production", id="pol-prod")
    await scanned(world)
    assert await violations(world, open=True) == []
    done(await world.call("PATCH", path, json={"archived": False}))
    assert len(await violations(world, open=True)) == 2


async def test_the_loop_follows_a_new_rule_at_once(world: World) -> None:
    await world.certificate()
    async with running(world):
        await world.post("/api/v1/policies", OWNED)

        async def found() -> bool:
            return len(await violations(world)) == 1

        await until(found)


async def test_a_scan_goes_on_in_batches_where_a_crash_has_cut_it_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        await world.certificate(common_name=f"n{number}.example.com")
    monkeypatch.setattr(policies, "_BATCH", 2)
    await world.post("/api/v1/policies", OWNED)
    assert await policies.scan(world.ctx)
    assert len(await violations(world)) == 2

    def crash(_name: str) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as patched:
        patched.setattr(policies, "crash_point", crash)
        with pytest.raises(ConnectionResetError):
            await policies.scan(world.ctx)
    assert len(await violations(world)) == 2
    await asyncio.gather(*(policies.scan(world.ctx) for _ in range(4)))
    await scanned(world)
    assert len(await violations(world)) == 5
    done(await world.call("PATCH", "/api/v1/policies/pol-owned", json={"severity": "critical"}))
    await scanned(world)
    assert [row["severity"] for row in await violations(world)] == ["critical"] * 5, "in place, none twice"
