"""Issuers that are made, taken over, given new keys, tried and removed; what they sign is judged by OpenSSL."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from connectors.issuers.local import make_root
from core import keys
from core.certificates import chain_to_pem, to_pem
from core.keys import KeyAlgorithm
from core.marking import IS_SET
from core.secret import Secret
from tests.coordinator.world import KEYS, World, bearer, csr_for, done, dump, open_world, problem, variables

pytestmark = pytest.mark.anyio
_PEM, _DER = serialization.Encoding.PEM, serialization.Encoding.DER
ROOT = {"name": "Top", "id": "iss-top", "config": {"path_length": 2, "organization": "Example"}}


def sub(parent: str, **config: Any) -> dict[str, Any]:
    name = f"Below {parent}, {config.get('lifetime_days', 'as long as others')}"
    return {"name": name, "config": {"parent_issuer_id": parent, **config}}


@pytest.fixture
def verified(tmp_path: Path) -> Callable[..., str]:
    """Return what ``openssl verify`` says of a leaf under a chain in PEM, its root last."""

    def verify(leaf: bytes, chain_pem: str) -> str:
        *between, root = x509.load_pem_x509_certificates(chain_pem.encode())
        files = {"leaf": to_pem(leaf), "root": root.public_bytes(_PEM), "between": b"".join(map(_pem, between))}
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        argv = ["openssl", "verify", "-x509_strict", "-CAfile", str(tmp_path / "root")]
        argv += ["-untrusted", str(tmp_path / "between")] if between else []
        said = subprocess.run([*argv, str(tmp_path / "leaf")], capture_output=True, text=True, check=False)
        return said.stdout + said.stderr

    return verify


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(_PEM)


async def leaf_of(world: World, issuer_id: str, name: str = "www.example.com") -> bytes:
    """Have an issuer sign a leaf and return it."""
    agent = await world.agent(f"agent-{name}-{issuer_id}")
    await world.certificate(agent_id=agent.id, issuer_id=issuer_id, common_name=name)
    return (await agent.issue(await agent.item())).chain[0]


async def test_a_root_is_made_and_signs(world: World, verified: Callable[..., str]) -> None:
    made = await world.post("/api/v1/issuers", ROOT)
    assert (made["id"], made["type"], made["config"], made["enabled"]) == ("iss-top", "local", ROOT["config"], True)
    key = made["key"]
    assert (key["subject"], key["key_algorithm"], key["path_length"]) == ("CN=Top,O=Example", "ecdsa-p256", 2)
    assert await world.get("/api/v1/issuers/iss-top") == made
    assert verified(await leaf_of(world, "iss-top"), key["pem"]).endswith(": OK\n")
    served = await world.pki.get(f"/.well-known/pki/ca/iss-top/{key['ski']}.cer")
    assert served.content == x509.load_pem_x509_certificates(key["pem"].encode())[0].public_bytes(_DER)
    assert (await world.pki.get("/.well-known/pki/crl/iss-top")).is_success
    (event,) = (await world.get("/api/v1/audit", action="issuer.created"))["data"]
    assert event["details"]["ski"] == key["ski"]


@pytest.mark.parametrize("algorithm", list(KeyAlgorithm))
async def test_every_kind_of_key_signs(world: World, verified: Callable[..., str], algorithm: str) -> None:
    made = await world.post("/api/v1/issuers", {"name": "Any", "config": {"key_algorithm": algorithm}})
    assert made["key"]["key_algorithm"] == algorithm
    assert verified(await leaf_of(world, made["id"]), made["key"]["pem"]).endswith(": OK\n")


async def test_a_subordinate_is_signed_by_its_parent(world: World, verified: Callable[..., str]) -> None:
    await world.post("/api/v1/issuers", ROOT)
    middle = await world.post("/api/v1/issuers", {**sub("iss-top", path_length=1), "id": "iss-middle"})
    below = await world.post("/api/v1/issuers", sub("iss-middle"))
    assert (below["parent_issuer_id"], below["key"]["path_length"]) == ("iss-middle", 0)
    assert len(x509.load_pem_x509_certificates(below["key"]["pem"].encode())) == 3
    assert verified(await leaf_of(world, below["id"]), below["key"]["pem"]).endswith(": OK\n")
    certificate = x509.load_pem_x509_certificate(below["key"]["pem"].encode())
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert points[0].full_name is not None
    assert points[0].full_name[0].value == f"http://pki.test/.well-known/pki/crl/iss-middle/{middle['key']['ski']}.crl"
    top_end = (await world.get("/api/v1/issuers/iss-top"))["key"]["not_after"]
    long = await world.post("/api/v1/issuers", sub("iss-top", lifetime_days=36000))
    assert long["key"]["not_after"] == top_end, "nothing outlives what it hangs on"


def named(**config: Any) -> dict[str, Any]:
    return {"name": "x", "config": config}


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "an unknown kind": ({"name": "x", "type": "oracle"}, 400, "type"),
    "an unknown setting": ({"name": "x", "config": {"colour": "red"}}, 400, "config.colour"),
    "an unknown algorithm": ({"name": "x", "config": {"key_algorithm": "dsa"}}, 400, "config.key_algorithm"),
    "no days": ({"name": "x", "config": {"lifetime_days": 0}}, 400, "config.lifetime_days"),
    "an unknown parent": (sub("iss-none"), 400, "config.parent_issuer_id"),
    "a parent for leaves only": (sub("iss-local"), 400, "config.parent_issuer_id"),
    "as many levels as its parent": (sub("iss-top", path_length=2), 400, "config.path_length"),
    "any number of levels": (sub("iss-top", path_length=None), 400, "config.path_length"),
    "a wildcard as a limit": (named(permitted_names=["*.a.test"]), 400, "config.permitted_names[0]"),
    "half a range": ({"name": "x", "config": {"excluded_names": ["10.0.0.1/8"]}}, 400, "config.excluded_names[0]"),
    "a limit beyond its parent's": (sub("iss-limited", permitted_names=["a.org"]), 400, "config.permitted_names[0]"),
    "a key without a certificate": ({"name": "x", "config": {"key": "k"}}, 400, "config.certificate_chain"),
    "a certificate without a key": ({"name": "x", "config": {"certificate_chain": "c"}}, 400, "config.key"),
    "a stored key that is none": (named(certificate_chain="c", key=IS_SET), 400, "config.key"),
    "no PEM": ({"name": "x", "config": {"certificate_chain": "c", "key": "k"}}, 400, "config.certificate_chain"),
    "a taken name": ({"name": "Top"}, 409, ""),
    "a taken id": ({"name": "x", "id": "iss-top"}, 409, ""),
}  # fmt: skip


async def test_a_wrong_wish_is_named_and_makes_nothing(world: World, subtests: pytest.Subtests) -> None:
    await world.post("/api/v1/issuers", ROOT)
    limits = {"path_length": 1, "permitted_names": ["example.com", "10.0.0.0/8"]}
    await world.post("/api/v1/issuers", {"name": "Limited", "id": "iss-limited", "config": limits})
    before = await dump(world.dsn)
    for what, (body, status, field) in WRONG.items():
        with subtests.test(what):
            problem(await world.call("POST", "/api/v1/issuers", json=body), status, field)
    with subtests.test("by somebody who is no admin"):
        problem(await world.call("POST", "/api/v1/issuers", "operator", json=ROOT), 403)
    assert await dump(world.dsn) == before


async def test_name_constraints_hold_at_the_gate_and_in_openssl(world: World, verified: Callable[..., str]) -> None:
    limits = {"permitted_names": ["example.com", "10.0.0.0/8", "@example.com"], "excluded_names": ["bad.example.com"]}
    made = await world.post("/api/v1/issuers", {"name": "Limited", "id": "iss-l", "config": limits})
    for name in ("example.com", "a.example.com", "10.1.2.3", "ada@example.com"):
        assert verified(await leaf_of(world, "iss-l", name), made["key"]["pem"]).endswith(": OK\n"), name
    for number, name in enumerate(("example.org", "notexample.com", "x.bad.example.com", "192.0.2.1", "a@b.test")):
        agent = await world.agent(f"refused-{number}")
        await world.certificate(agent_id=agent.id, issuer_id="iss-l", common_name=name)
        item = await agent.item()
        refused = problem(await agent.submit(item, csr_for(item)), 422, "csr")
        assert f"{name} is " in refused["detail"]


def own_authority(algorithm: KeyAlgorithm = KeyAlgorithm.ECDSA_P256) -> dict[str, str]:
    """Return a root of the operator's own, as its configuration gives it."""
    made = make_root("Ours", datetime.now(UTC).replace(microsecond=0))
    return {"certificate_chain": chain_to_pem(made.chain).decode(), "key": keys.to_pem(made.key).reveal().decode()}


async def test_an_authority_of_ones_own_is_taken_over_and_its_key_never_seen_again(
    world: World, verified: Callable[..., str]
) -> None:
    given = own_authority()
    sent = await world.call("POST", "/api/v1/issuers", json={"name": "Ours", "id": "iss-ours", "config": given})
    made = done(sent)
    assert made["config"] == {"certificate_chain": given["certificate_chain"], "key": IS_SET}
    assert verified(await leaf_of(world, "iss-ours"), given["certificate_chain"]).endswith(": OK\n")
    body = {name: made[name] for name in ("name", "type", "config", "enabled")}
    again = await world.call("PUT", "/api/v1/issuers/iss-ours", json=body)
    assert done(again)["config"] == made["config"]
    everything = f"{await dump(world.dsn)} {sent.text} {again.text}"
    private = keys.from_pem(Secret(given["key"].encode()))
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert f"{private.private_numbers().private_value:x}" not in everything
    assert all(line not in everything for line in given["key"].splitlines()[1:-1])
    for config in ({"key": given["key"]}, {"certificate_chain": "another"}, {"parent_issuer_id": "iss-local"}):
        response = await world.call("PATCH", "/api/v1/issuers/iss-ours", json={"config": config})
        assert response.status_code in {400, 422}, response.text
    assert await world.get("/api/v1/issuers/iss-ours") == done(again)


async def test_an_authority_of_ones_own_that_cannot_sign_is_refused(world: World, subtests: pytest.Subtests) -> None:
    good, other = own_authority(), own_authority()
    late = make_root("Late", datetime.now(UTC) - timedelta(days=9), timedelta(days=1))
    expired = {"certificate_chain": chain_to_pem(late.chain).decode(), "key": keys.to_pem(late.key).reveal().decode()}
    wrong = {
        "another key": ({**good, "key": other["key"]}, "config.key"),
        "no key": ({**good, "key": "nothing"}, "config.key"),
        "an unrelated issuer": (
            {**good, "certificate_chain": good["certificate_chain"] + other["certificate_chain"]},
            "config.certificate_chain",
        ),
        "expired": (expired, "config.certificate_chain"),
        "levels that it has not": ({**good, "path_length": 3}, "config.path_length"),
    }
    for what, (config, field) in wrong.items():
        with subtests.test(what):
            said = problem(
                await world.call("POST", "/api/v1/issuers", json={"name": "x", "config": config}), 400, field
            )
            assert good["key"].splitlines()[1] not in json.dumps(said)


async def test_a_new_key_signs_from_now_on_and_the_old_one_serves_its_crl(
    world: World, verified: Callable[..., str]
) -> None:
    await world.post("/api/v1/issuers", ROOT)
    old_leaf = await leaf_of(world, "iss-top", "old.example.com")
    before = (await world.get("/api/v1/issuers/iss-top"))["key"]
    done(await world.call("PATCH", "/api/v1/issuers/iss-top", json={"config": {"key_algorithm": "ecdsa-p384"}}))
    assert (await world.get("/api/v1/issuers/iss-top"))["key"] == before, "it takes effect with the next key"
    new = await world.post("/api/v1/issuers/iss-top/keys")
    assert (new["is_current"], new["key_algorithm"], new["subject"]) == (True, "ecdsa-p384", before["subject"])
    listed = await world.get("/api/v1/issuers/iss-top/keys")
    assert [(key["ski"], key["is_current"]) for key in listed["data"]] == [(new["ski"], True), (before["ski"], False)]
    assert verified(await leaf_of(world, "iss-top", "new.example.com"), new["pem"]).endswith(": OK\n")
    assert verified(old_leaf, before["pem"]).endswith(": OK\n")
    for key in (before, new):
        crl = await world.pki.get(f"/.well-known/pki/crl/iss-top/{key['ski']}.crl")
        issuer = x509.load_pem_x509_certificate(key["pem"].encode()).public_key()
        assert x509.load_der_x509_crl(crl.content).is_signature_valid(issuer)  # type: ignore[arg-type]  # a CA's key


async def test_a_key_that_was_given_is_followed_by_another_one_that_is_given(world: World) -> None:
    first, second = own_authority(), own_authority()
    await world.post("/api/v1/issuers", {"name": "Ours", "id": "iss-ours", "config": first})
    path = "/api/v1/issuers/iss-ours/keys"
    for body in ({}, {"key": second["key"]}, {"certificate_chain": second["certificate_chain"]}):
        problem(await world.call("POST", path, json=body), 400, "key")
    problem(await world.call("POST", path, json=first), 409)
    problem(await world.call("POST", path, json={**second, "key": first["key"]}), 400, "key")
    new = await world.post(path, second)
    shown = await world.get("/api/v1/issuers/iss-ours")
    assert (shown["key"]["ski"], shown["config"]["certificate_chain"]) == (new["ski"], second["certificate_chain"])
    await world.post("/api/v1/issuers", ROOT)
    problem(await world.call("POST", "/api/v1/issuers/iss-top/keys", json=second), 400, "key")
    problem(await world.call("POST", "/api/v1/issuers/iss-none/keys", json={}), 404)


async def test_the_key_of_files_is_not_changed_over_http(database_url: str, tmp_path: Path) -> None:
    given = own_authority()
    paths = {"CERT": tmp_path / "ca.pem", "KEY": tmp_path / "ca.key"}
    paths["CERT"].write_text(given["certificate_chain"])
    paths["KEY"].write_text(given["key"])
    files = {f"CERTCTL_CA_{name}_PATH": str(path) for name, path in paths.items()}
    async with open_world(variables(database_url, tmp_path / "data", **files)) as world:
        said = problem(await world.call("POST", "/api/v1/issuers/iss-local/keys", json={}), 422)
        assert "CERTCTL_CA_CERT_PATH" in said["detail"]


async def test_the_ready_made_issuer_gets_a_new_key_like_any_other(world: World) -> None:
    before = (await world.get("/api/v1/issuers/iss-local"))["key"]
    new = await world.post("/api/v1/issuers/iss-local/keys")
    assert new["ski"] != before["ski"]
    assert (await world.get("/api/v1/issuers/iss-local"))["key"]["ski"] == new["ski"]


async def test_what_hangs_on_an_issuer_keeps_it_and_is_named(world: World) -> None:
    await world.post("/api/v1/issuers", ROOT)
    child = await world.post("/api/v1/issuers", sub("iss-top"))
    said = problem(await world.call("DELETE", "/api/v1/issuers/iss-top"), 409)
    assert f"1 issuers below it ({child['id']})" in said["detail"]
    profile = await world.post(
        "/api/v1/profiles", {"name": "Below", "max_lifetime_s": 3600, "default_issuer_id": child["id"]}
    )
    path = f"/api/v1/issuers/{child['id']}"
    assert f"1 profiles ({profile['id']})" in problem(await world.call("DELETE", path), 409)["detail"]
    await world.execute("DELETE FROM profiles WHERE id = $1", profile["id"])
    assert (await world.pki.get(f"/.well-known/pki/crl/{child['id']}")).is_success
    assert (await world.call("DELETE", path)).status_code == 204
    problem(await world.call("GET", path), 404)
    problem(await world.call("DELETE", path), 404)
    await leaf_of(world, "iss-top")
    assert "1 certificates (" in problem(await world.call("DELETE", "/api/v1/issuers/iss-top"), 409)["detail"]
    assert "ready-made" in problem(await world.call("DELETE", "/api/v1/issuers/iss-local"), 409)["detail"]


async def test_an_issuer_that_is_switched_off_signs_nothing(world: World) -> None:
    made = await world.post("/api/v1/issuers", ROOT)
    off = done(await world.call("PATCH", "/api/v1/issuers/iss-top", json={"enabled": False}))
    assert off["enabled"] is False
    agent = await world.agent()
    await world.certificate(agent_id=agent.id, issuer_id="iss-top")
    item = await agent.item()
    assert "switched off" in problem(await agent.submit(item, csr_for(item)), 422)["detail"]
    assert "switched off" in problem(await world.call("POST", "/api/v1/issuers", json=sub("iss-top")), 422)["detail"]
    assert (await world.pki.get(f"/.well-known/pki/crl/iss-top/{made['key']['ski']}.crl")).is_success
    headers = {**bearer(KEYS["admin"]), "If-Match": '"1"'}
    problem(await world.http.patch("/api/v1/issuers/iss-top", json={"enabled": True}, headers=headers), 412)
    problem(await world.call("PATCH", "/api/v1/issuers/iss-top", json={"type": "oracle"}), 400, "type")


async def test_trying_an_issuer_tells_the_cause(world: World, subtests: pytest.Subtests) -> None:
    await world.post("/api/v1/issuers", ROOT)
    path = "/api/v1/issuers/iss-top/test"
    before = await dump(world.dsn)
    good = await world.post(path)
    assert (good["ok"], good["detail"]) == (True, "")
    assert [check["what"] for check in good["checks"]] == [
        "enabled", "stored key", "authority", "usage", "validity", "key", "chain", "signature",
    ]  # fmt: skip
    assert await dump(world.dsn) == before
    with subtests.test("switched off"):
        done(await world.call("PATCH", "/api/v1/issuers/iss-top", json={"enabled": False}))
        assert "switched off" in (await world.post(path))["detail"]
        done(await world.call("PATCH", "/api/v1/issuers/iss-top", json={"enabled": True}))
    with subtests.test("expired"):
        world.clock.advance(timedelta(days=3651))
        assert (await world.post(path))["detail"].startswith("validity: ")
        world.clock.advance(timedelta(days=-3651))
    with subtests.test("a key of another one"):
        other = keys.to_pem(keys.generate(KeyAlgorithm.ECDSA_P256))
        ski = (await world.get("/api/v1/issuers/iss-top"))["key"]["ski"]
        sealed = world.ctx.sealer.seal(Secret(other.reveal()), f"issuer_keys/iss-top/{ski}")
        await world.execute("UPDATE issuer_keys SET sealed_key = $1 WHERE ski = $2", sealed, ski)
        world.ctx.signers.clear()
        tried = await world.post(path)
        wrong = [check["what"] for check in tried["checks"] if check["problem"]]
        assert (tried["ok"], wrong) == (False, ["key", "signature"])
    with subtests.test("a key that does not open"):
        await world.execute("UPDATE issuer_keys SET sealed_key = sealed_key || 'x'::bytea WHERE issuer_id = 'iss-top'")
        world.ctx.signers.clear()
        tried = await world.post(path)
        assert "restore it from a backup" in tried["detail"]
    problem(await world.call("POST", "/api/v1/issuers/iss-none/test", json={}), 404)


async def test_issuers_are_found_and_describe_their_kind(world: World) -> None:
    await world.post("/api/v1/issuers", ROOT)
    child = await world.post("/api/v1/issuers", {**sub("iss-top"), "enabled": False, "type": "GenericCA"})
    found: list[tuple[dict[str, str], list[str]]] = [
        ({}, [child["id"], "iss-local", "iss-top"]),
        ({"type": "LOCAL"}, [child["id"], "iss-local", "iss-top"]),
        ({"name": "Top"}, ["iss-top"]),
        ({"enabled": "false"}, [child["id"]]),
        ({"parent_issuer_id": "iss-top"}, [child["id"]]),
        ({"q": "BELOW"}, [child["id"]]),
    ]
    for query, ids in found:
        assert [row["id"] for row in (await world.get("/api/v1/issuers", sort="name", **query))["data"]] == ids
    acme, kind = (await world.get("/api/v1/issuer-types", "viewer"))["data"]
    assert (acme["type"], acme["secret_fields"][0]) == ("acme", "eab_hmac")
    assert (kind["type"], kind["secret_fields"]) == ("local", ["key"])
    fields = kind["schema"]["$defs"]["LocalConfig"]["properties"]
    assert all(field["description"] for field in fields.values())
    assert (fields["lifetime_days"]["default"], fields["key"]["secret"]) == (3650, True)
