"""Profiles: each rule is kept when a certificate is wanted, and again when it is issued."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from core.certificates import read_certificate
from tests.coordinator.world import FakeAgent, World, csr_for, done, problem

pytestmark = pytest.mark.anyio
RSA = {"algorithm": "RSA"}
WEB = {"name": "Web", "id": "prof-web", "max_lifetime_s": 3600}


async def profile(world: World, **changes: Any) -> str:
    """Add a profile for server certificates of an hour; return its id."""
    return str((await world.post("/api/v1/profiles", {**WEB, **changes}))["id"])


async def change(world: World, **changes: Any) -> None:
    done(await world.call("PATCH", "/api/v1/profiles/prof-web", json=changes))


async def refusal(world: World, status: int = 422, **wish: Any) -> dict[str, str]:
    """Return what is wrong with a wish, by field."""
    body = {"common_name": "www.example.com", "profile_id": "prof-web", **wish}
    refused = problem(await world.call("POST", "/api/v1/certificates", json=body), status)
    return {error["field"]: error["problem"] for error in refused["errors"]}


def leaf_of(chain: tuple[bytes, ...]) -> x509.Certificate:
    return x509.load_der_x509_certificate(chain[0])


async def test_a_profile_is_replaced_merged_and_removed_when_nothing_uses_it(world: World) -> None:
    made = await world.post("/api/v1/profiles", {**WEB, "allowed_names": ["*.example.com"], "default_lifetime_s": 60})
    assert (made["revision"], made["default_lifetime_s"], made["key_algorithms"]) == (1, 60, ["ecdsa-p256"])
    merged = done(await world.call("PATCH", "/api/v1/profiles/prof-web", json={"must_staple": True}))
    assert {**merged, "revision": 1, "must_staple": False, "updated_at": made["updated_at"]} == made
    replaced = done(await world.call("PUT", "/api/v1/profiles/prof-web", json={"name": "Web", "max_lifetime_s": 120}))
    assert (replaced["allowed_names"], replaced["default_lifetime_s"], replaced["must_staple"]) == ([], 120, False)
    certificate_id, _ = await world.certificate(profile_id="prof-web")
    said = problem(await world.call("DELETE", "/api/v1/profiles/prof-web"), 409)
    assert certificate_id in said["detail"]
    problem(await world.call("DELETE", "/api/v1/profiles/prof-default"), 409)
    await profile(world, id="prof-unused", name="Unused")
    assert (await world.call("DELETE", "/api/v1/profiles/prof-unused")).status_code == 204
    problem(await world.call("GET", "/api/v1/profiles/prof-unused"), 404)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "pattern": ({"allowed_names": ["*.example.com", "a b"]}, "allowed_names[1]"),
    "required pattern": ({"required_names": ["10.0.0.1/8"]}, "required_names[0]"),
    "SPIFFE pattern": ({"spiffe_uri_pattern": "https://example.org/*"}, "spiffe_uri_pattern"),
    "broken SPIFFE pattern": ({"spiffe_uri_pattern": "spiffe://"}, "spiffe_uri_pattern"),
    "unknown issuer": ({"allowed_issuer_ids": ["iss-local", "iss-x"]}, "allowed_issuer_ids[1]"),
    "default that is not allowed": ({"allowed_issuer_ids": ["iss-x"]}, "default_issuer_id"),
    "time stamps and more": ({"extended_key_usages": ["timeStamping", "serverAuth"]}, "extended_key_usages"),
    "stapling without a server": ({"extended_key_usages": ["clientAuth"], "must_staple": True}, "must_staple"),
    "keys that nobody makes": ({"key_algorithms": [{**RSA, "min_size": 9000}]}, "key_algorithms[0].min_size"),
    "unknown family": ({"key_algorithms": [{"algorithm": "DSA"}]}, "key_algorithms[0].algorithm"),
    "half a minute": ({"max_lifetime_s": 30}, "max_lifetime_s"),
    "unknown usage": ({"extended_key_usages": ["ipsecTunnel"]}, "extended_key_usages[0]"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
async def test_a_profile_that_could_issue_nothing_is_refused_with_the_field(world: World, what: str) -> None:
    changes, field = WRONG[what]
    problem(await world.call("POST", "/api/v1/profiles", json={**WEB, **changes}), 400, field)
    assert await world.value("SELECT count(*) FROM profiles") == 1


async def test_every_broken_rule_is_named_at_once(world: World) -> None:
    await world.execute("INSERT INTO issuers (id, name, type) VALUES ('iss-other', 'Other', 'local')")
    await profile(
        world,
        allowed_names=["*.example.com"],
        required_names=["api.example.com", "10.0.0.0/8"],
        allowed_issuer_ids=["iss-local"],
        enabled=False,
    )
    wish: dict[str, Any] = {"key_algorithm": "rsa-2048", "lifetime_s": 7200, "issuer_id": "iss-other"}
    wrong = await refusal(world, common_name="a.b.example.com", sans=["evil.test"], **wish)
    assert set(wrong) == {"profile_id", "key_algorithm", "lifetime_s", "issuer_id", "sans[0]", "sans[1]", "sans"}
    assert "prof-web" in wrong["issuer_id"]


async def test_keys_are_allowed_by_family_and_least_size(world: World) -> None:
    made = await world.post(
        "/api/v1/profiles", {**WEB, "key_algorithms": [{"algorithm": "RSA", "min_size": 3072}, "ed25519"]}
    )
    assert made["key_algorithms"] == ["rsa-3072", "rsa-4096", "ed25519"]
    assert "rsa-3072" in (await refusal(world, key_algorithm="rsa-2048"))["key_algorithm"]
    wanted = (await world.post("/api/v1/certificates", {"common_name": "a.test", "profile_id": "prof-web"}))[
        "certificate"
    ]
    assert (wanted["key_algorithm"], wanted["lifetime_s"]) == ("rsa-3072", 3600)  # fmt: skip


SPIFFE = {
    "another trust domain": ["spiffe://evil.org/ns/a/sa/b"],
    "another form": ["spiffe://example.org/ns/a"],
    "a dot segment": ["spiffe://example.org/ns/../sa/b"],
    "no SPIFFE ID": ["https://example.org/ns/a/sa/b"],
    "two": ["spiffe://example.org/ns/a/sa/b", "spiffe://example.org/ns/a/sa/c"],
}


@pytest.mark.parametrize("what", SPIFFE)
async def test_a_uri_has_to_be_the_spiffe_id_that_the_profile_asks_for(world: World, what: str) -> None:
    await profile(world, spiffe_uri_pattern="spiffe://example.org/ns/*/sa/*", allowed_names=["*.example.com"])
    assert set(await refusal(world, sans=SPIFFE[what])) <= {"sans", "sans[1]"}
    await world.certificate(profile_id="prof-web", sans=["spiffe://example.org/ns/shop/sa/api"])


async def issued(world: World, agent: FakeAgent, **wish: Any) -> x509.Certificate:
    await world.certificate(agent_id=agent.id, profile_id="prof-web", **wish)
    return leaf_of((await agent.issue(await agent.item())).chain)


async def test_a_certificate_of_minutes_for_a_workload_is_issued(world: World) -> None:
    agent = await world.agent()
    await profile(world, spiffe_uri_pattern="spiffe://example.org/**", max_lifetime_s=120)
    leaf = await issued(world, agent, sans=["spiffe://example.org/ns/shop/sa/api"])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://example.org/ns/shop/sa/api"]
    assert (leaf.not_valid_after_utc - world.clock.now()).total_seconds() == 120


async def test_a_leaf_must_be_stapled_when_its_profile_says_so(world: World) -> None:
    agent = await world.agent()
    await profile(world, must_staple=True)
    leaf = await issued(world, agent)
    assert list(leaf.extensions.get_extension_for_class(x509.TLSFeature).value) == [x509.TLSFeatureType.status_request]


async def test_a_certificate_for_mail_holds_an_address_and_the_usages_of_mail(world: World) -> None:
    agent = await world.agent()
    await profile(world, extended_key_usages=["emailProtection"], allowed_names=["*@example.com"])
    wrong = await refusal(world, common_name="www.example.com")
    assert "no e-mail address" in wrong["sans"]
    assert "is a host" in wrong["sans[0]"] or "not among" in wrong["sans[0]"]
    assert "not among" in (await refusal(world, common_name="ada@evil.test"))["sans[0]"]
    leaf = await issued(world, agent, common_name="ada@example.com")
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.RFC822Name) == ["ada@example.com"]
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.EMAIL_PROTECTION
    ]
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.content_commitment, usage.key_agreement, usage.key_encipherment) == (True, True, False)


async def test_an_address_has_no_place_in_a_server_certificate(world: World) -> None:
    await profile(world)
    assert "e-mail" in (await refusal(world, sans=["ada@example.com"]))["sans[1]"]


LATER: dict[str, tuple[dict[str, Any], str]] = {
    "keys": ({"key_algorithms": ["ed25519"]}, "key_algorithm"),
    "lifetime": ({"max_lifetime_s": 60, "default_lifetime_s": 60}, "lifetime_s"),
    "allowed names": ({"allowed_names": ["*.example.org"]}, "sans[0]"),
    "required names": ({"required_names": ["10.0.0.0/8"]}, "sans"),
    "SPIFFE": ({"spiffe_uri_pattern": "spiffe://other.org/**"}, "sans[1]"),
    "usage": ({"extended_key_usages": ["emailProtection"]}, "sans"),
    "issuers": ({"allowed_issuer_ids": ["iss-other"], "default_issuer_id": "iss-other"}, "issuer_id"),
    "switch": ({"enabled": False}, "profile_id"),
}


@pytest.mark.parametrize("what", LATER)
async def test_the_gate_keeps_the_profile_as_it_is_by_then_and_the_certificate_says_why(
    world: World, what: str
) -> None:
    await world.execute("INSERT INTO issuers (id, name, type) VALUES ('iss-other', 'Other', 'local')")
    agent = await world.agent()
    await profile(world)
    wish = {"sans": ["spiffe://example.org/a"], "profile_id": "prof-web"}
    certificate_id, _ = await world.certificate(agent_id=agent.id, **wish)
    item = await agent.item()
    changes, field = LATER[what]
    await change(world, **changes)
    refused = problem(await agent.submit(item, csr_for(item)), 422, field)
    assert "profile prof-web" in refused["detail"]
    await agent.fail(item, refused["detail"])
    status = (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
    assert (status["life"], status["reason"]) == ("pending", refused["detail"])
    assert [job["state"] for job in (await world.get("/api/v1/jobs"))["data"]] == ["AwaitingCSR", "Failed"]
    done(await world.call("PUT", "/api/v1/profiles/prof-web", json={"name": "Web", "max_lifetime_s": 3600}))
    await world.execute("UPDATE jobs SET not_before = now()")
    answer = await agent.issue(await agent.item())
    assert read_certificate(answer.chain[0]).common_name == "www.example.com"
