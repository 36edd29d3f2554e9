"""Signed requests: every rejection of RFC 8555 section 6, and that a refusal changes nothing but its nonce."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA65PrivateKey, MLDSA87PrivateKey
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from coordinator.enrollment.acme.mldsa import MLDSAKey
from core import acme
from tests.coordinator.acme.client import JOSE, ON, Client, MLDSAKeyPair, new_key, refused, signed
from tests.coordinator.world import World, open_world, variables

pytestmark = pytest.mark.anyio
_WEAK = acme.encode(b"\xc5" * 128)
_ML_DSA = MLDSAKeyPair("ML-DSA-44", MLDSA44PrivateKey.from_seed_bytes(bytes(32)))
_SNAPSHOT = """SELECT (SELECT count(*) FROM acme_accounts) || ' ' || (SELECT count(*) FROM acme_orders) || ' '
  || (SELECT count(*) FROM audit_events)"""


async def test_a_directory_tells_where_everything_is(world: World) -> None:
    response = await world.http.get("/acme/profile/prof-default/directory")
    found = response.json()
    assert set(found) == {
        *("newNonce", "newAccount", "newOrder", "newAuthz", "revokeCert", "keyChange", "renewalInfo", "meta"),
    }
    assert found["meta"]["externalAccountRequired"] is False
    assert set(found["meta"]["profiles"]) == {"prof-default"}
    base = f"{world.ctx.settings.url}/acme/profile/prof-default"
    assert all(url.startswith(base) for name, url in found.items() if name != "meta")
    short = (await world.http.get("/acme/directory")).json()
    assert short["newOrder"] == f"{world.ctx.settings.url}/acme/new-order"
    refused(await Client(world).post(f"{base}/nothing", by_key=True), "malformed", 404)


async def test_unknown_profiles_have_no_directory(world: World) -> None:
    response = await world.http.get("/acme/profile/prof-nobody/directory")
    assert (response.status_code, response.json()["type"]) == (404, acme.URN + "userActionRequired")


async def test_nothing_is_there_until_it_is_switched_on(database_url: str, tmp_path: Any) -> None:
    async with open_world(variables(database_url, tmp_path)) as world:
        assert (await world.http.get("/acme/directory")).status_code == 404


async def test_nonces_come_by_head_and_get_and_with_every_answer(world: World) -> None:
    head = await world.http.head("/acme/new-nonce")
    get = await world.http.get("/acme/new-nonce")
    assert (head.status_code, get.status_code) == (200, 204)
    assert head.headers["cache-control"] == "no-store"
    assert len({head.headers["replay-nonce"], get.headers["replay-nonce"]}) == 2
    assert 'rel="index"' in head.headers["link"]


@pytest.mark.parametrize("nonce", ["", "AAAA", "not base64!", "A" * 40])
async def test_invented_nonces_are_bad(client: Client, nonce: str) -> None:
    refused(await client.post("new-order", {}, nonce=nonce), "badNonce", 400)


async def test_a_nonce_of_this_second_that_nobody_gave_out_is_bad(client: Client) -> None:
    genuine = acme.decode(await client.fresh_nonce())
    forged = acme.encode(genuine[:-16] + bytes(16))
    refused(await client.post("new-order", {}, nonce=forged), "badNonce", 400)


async def test_a_nonce_is_good_once_whatever_came_of_it(client: Client) -> None:
    nonce = await client.fresh_nonce()
    refused(await client.post("new-order", {"identifiers": []}, nonce=nonce), "malformed")
    refused(await client.post("new-order", {"identifiers": []}, nonce=nonce), "badNonce")
    nonce = await client.fresh_nonce()
    refused(await client.post(client.kid, nonce=nonce, url="https://elsewhere.test/"), "unauthorized")
    refused(await client.post(client.kid, nonce=nonce), "badNonce")
    refused(
        await client.post("new-order", {"identifiers": []}, nonce=nonce, url="https://elsewhere.test/"), "unauthorized"
    )


async def test_a_nonce_is_good_once_across_replicas_and_restarts(replicas: tuple[World, World]) -> None:
    one, two = replicas
    here, there = Client(one), Client(two)
    await here.register()
    there.key, there.kid = here.key, here.kid
    nonce = await here.fresh_nonce()
    assert (await there.post(there.kid, nonce=nonce)).status_code == 200
    refused(await here.post(here.kid, nonce=nonce), "badNonce")


async def test_a_replayed_request_is_refused(client: Client) -> None:
    url = f"{client.url}/new-order"
    header = {"alg": "ES256", "nonce": await client.fresh_nonce(), "url": url, "kid": client.kid}
    body = signed(header, json.dumps({"identifiers": [{"type": "dns", "value": "a.example"}]}).encode(), client.key)
    assert (await client.send(url, body)).status_code == 201
    refused(await client.send(url, body), "badNonce")


async def test_nonces_run_out(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    nonce = await client.fresh_nonce()
    later = __import__("time").time() + 301
    monkeypatch.setattr("coordinator.enrollment.acme.nonces.time.time", lambda: later)
    refused(await client.post("new-order", {}, nonce=nonce), "badNonce")


CHANGED: list[tuple[str, dict[str, Any], str]] = [
    ("another URL", {"url": "https://certctl.test/acme/other"}, "unauthorized"),
    ("no URL", {"url": None}, "malformed"),
    ("kid and jwk", {"jwk": new_key().as_dict(private=False)}, "malformed"),
    ("neither kid nor jwk", {"kid": None}, "malformed"),
    ("a jwk where an account is asked for", {"kid": None, "jwk": new_key().as_dict(private=False)}, "malformed"),
    ("an account that is not there", {"kid": "https://certctl.test/acme/account/aca-nobody"}, "accountDoesNotExist"),
    ("an account of another server", {"kid": "https://evil.test/acme/account/x"}, "accountDoesNotExist"),
    ("a critical header", {"crit": ["exp"], "exp": 1}, "malformed"),
    ("an unencoded payload", {"b64": False}, "malformed"),
    ("an unknown header", {"x5u": "https://evil.test/"}, "malformed"),
]


@pytest.mark.parametrize("what, header, kind", CHANGED, ids=[each[0] for each in CHANGED])
async def test_a_bent_header_is_refused(client: Client, what: str, header: dict[str, Any], kind: str) -> None:
    before = await client.world.value(_SNAPSHOT)
    url = f"{client.url}/new-order"
    fields = {"alg": "ES256", "nonce": await client.fresh_nonce(), "url": url, "kid": client.kid}
    fields = {name: value for name, value in (fields | header).items() if value is not None}
    body = signed({name: value for name, value in fields.items() if name not in {"crit", "b64"}}, b"{}", client.key)
    if {"crit", "b64"} & set(fields):
        body["protected"] = acme.encode(json.dumps(fields).encode())
    refused(await client.send(url, body), kind)
    assert await client.world.value(_SNAPSHOT) == before


@pytest.mark.parametrize("alg", ["none", "HS256", "PS256", "ES512"])
async def test_other_algorithms_are_refused_by_name(world: World, alg: str) -> None:
    """RFC 8555 section 6.2: neither none nor a MAC, however the key could be read."""
    client = Client(world)
    url = f"{client.url}/new-account"
    header = {"alg": alg, "nonce": await client.fresh_nonce(), "url": url, "jwk": client.key.as_dict(private=False)}
    body = {"protected": acme.encode(json.dumps(header).encode()), "payload": acme.encode(b"{}"), "signature": "AA"}
    found = refused(await client.send(url, body), "badSignatureAlgorithm", 400)
    assert found["algorithms"] == ["ES256", "ES384", "RS256", "EdDSA", "ML-DSA-44", "ML-DSA-65", "ML-DSA-87"]


async def test_a_public_key_is_no_mac_key(client: Client) -> None:
    """Algorithm confusion: what is public of the account's key taken for a shared secret."""
    url = f"{client.url}/new-order"
    header = {"alg": "HS256", "nonce": await client.fresh_nonce(), "url": url, "kid": client.kid}
    mac_key = OctKey.import_key(client.key.as_dict(private=False)["x"] * 2)
    refused(await client.send(url, signed(header, b"{}", mac_key)), "badSignatureAlgorithm")


async def test_a_signature_of_another_key_is_refused(client: Client) -> None:
    other = Client(client.world)
    other.kid = client.kid
    refused(await other.post("new-order", {}), "unauthorized", 403)


async def test_a_changed_payload_is_refused(client: Client) -> None:
    url = f"{client.url}/new-order"
    header = {"alg": "ES256", "nonce": await client.fresh_nonce(), "url": url, "kid": client.kid}
    body = signed(header, b'{"identifiers":[]}', client.key)
    body["payload"] = acme.encode(b'{"identifiers":[{"type":"dns","value":"evil.example"}]}')
    refused(await client.send(url, body), "unauthorized")


@pytest.mark.parametrize(
    "key, alg, kind",
    [
        ({"kty": "RSA", "n": _WEAK, "e": "AQAB"}, "RS256", "badPublicKey"),
        (ECKey.generate_key("P-521"), "ES256", "badPublicKey"),
        (ECKey.generate_key("secp256k1"), "ES256", "badPublicKey"),
        (OKPKey.generate_key("X25519"), "EdDSA", "badPublicKey"),
        (ECKey.generate_key("P-384"), "ES256", "badSignatureAlgorithm"),
        (RSAKey.generate_key(2048), "ES256", "badSignatureAlgorithm"),
        (_ML_DSA.as_dict(private=False), "ML-DSA-65", "badSignatureAlgorithm"),
        (_ML_DSA.as_dict(private=True), "ML-DSA-44", "badPublicKey"),
        ({**_ML_DSA.as_dict(private=False), "alg": "ML-DSA-65"}, "ML-DSA-65", "badPublicKey"),
        ({"kty": "AKP", "alg": "SLH-DSA-SHA2-128s", "pub": "AA"}, "ML-DSA-44", "badPublicKey"),
        ({"kty": "AKP", "alg": ["ML-DSA-44"], "pub": 5}, "ML-DSA-44", "badPublicKey"),
    ],
    ids=[
        *("RSA 1024", "P-521", "secp256k1", "X25519", "P-384 with ES256", "RSA with ES256"),
        *("ML-DSA-44 with ML-DSA-65", "a private ML-DSA", "ML-DSA too short", "another AKP", "no AKP"),
    ],
)
async def test_weak_and_strange_keys_are_refused(world: World, key: Any, alg: str, kind: str) -> None:
    client = Client(world)
    url = f"{client.url}/new-account"
    header = {
        "alg": alg,
        "nonce": await client.fresh_nonce(),
        "url": url,
        "jwk": key if isinstance(key, dict) else key.as_dict(private=False),
    }
    body = {"protected": acme.encode(json.dumps(header).encode()), "payload": acme.encode(b"{}"), "signature": "AA"}
    refused(await client.send(url, body), kind, 400)


async def test_a_private_key_in_a_jwk_is_refused(world: World) -> None:
    client = Client(world)
    response = await client.post("new-account", {}, jwk=client.key.as_dict(private=True))
    refused(response, "badPublicKey")
    assert client.key.as_dict(private=True)["d"] not in response.text


@pytest.mark.parametrize(
    "key, alg",
    [
        (ECKey.generate_key("P-384"), "ES384"),
        (RSAKey.generate_key(2048), "RS256"),
        (OKPKey.generate_key("Ed25519"), "EdDSA"),
        (_ML_DSA, "ML-DSA-44"),
        (MLDSAKeyPair("ML-DSA-65", MLDSA65PrivateKey.generate()), "ML-DSA-65"),
        (MLDSAKeyPair("ML-DSA-87", MLDSA87PrivateKey.generate()), "ML-DSA-87"),
    ],
    ids=["ES384", "RS256", "EdDSA", "ML-DSA-44", "ML-DSA-65", "ML-DSA-87"],
)
async def test_every_algorithm_that_is_offered_works(world: World, key: Any, alg: str) -> None:
    client = Client(world, key=key)
    client.alg = alg
    assert (await client.register()).status_code == 201
    assert (await client.certificate("a.example")).startswith(b"-----BEGIN CERTIFICATE")


async def test_a_signature_by_ml_dsa_has_to_fit(world: World) -> None:
    client, other = Client(world, key=_ML_DSA), MLDSAKeyPair("ML-DSA-44", MLDSA44PrivateKey.generate())
    client.alg = "ML-DSA-44"
    assert (await client.register()).status_code == 201
    client.key = other
    refused(await client.post("new-order", {}), "unauthorized", 403)


def test_the_thumbprint_of_an_ml_dsa_key() -> None:
    """The example of RFC 9964: a seed of zeros, and the kid that is its thumbprint."""
    key = MLDSAKey.import_key(_ML_DSA.as_dict(private=False))
    assert key.thumbprint() == "T4xl70S7MT6Zeq6r9V9fPJGVn76wfnXJ21-gyo0Gu6o"  # pragma: allowlist secret


async def test_another_content_type_is_refused(client: Client) -> None:
    response = await client.world.http.post(
        "/acme/new-order", content=b"{}", headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 415
    assert response.json()["type"] == acme.URN + "malformed"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"protected":"","payload":"","signature":""}',
        b'{"payload":"e30","signature":"AA"}',
        b'{"protected":"e30","payload":"e30","signature":"AA","header":{"alg":"none"}}',
        b'{"protected":"e30=","payload":"e30","signature":"AA"}',
        b'{"protected":"e30","payload":"e30","signatures":[]}',
        b"\xff\xfe",
        b'{"protected":{},"payload":"","signature":""}',
        b"[" * 100_000,
    ],
)
async def test_what_is_no_jws_is_malformed(world: World, body: bytes) -> None:
    response = await world.http.post("/acme/new-account", content=body, headers=JOSE)
    refused(response, "malformed", 400)


async def test_a_body_without_end_is_cut_off(world: World) -> None:
    response = await world.http.post("/acme/new-account", content=b"x" * (1024 * 1024 + 1), headers=JOSE)
    refused(response, "malformed")


async def test_methods(world: World) -> None:
    assert (await world.http.get("/acme/new-account")).headers["allow"] == "POST"
    assert (await world.http.post("/acme/directory")).status_code == 405


async def test_each_address_may_fail_so_often(database_url: str, tmp_path: Any) -> None:
    limits = {"CERTCTL_RATE_LIMIT_RPS": "1", "CERTCTL_RATE_LIMIT_BURST": "2"}
    async with open_world(variables(database_url, tmp_path, **ON) | limits) as world:
        answers = [await world.http.post("/acme/new-account", content=b"{}", headers=JOSE) for _ in range(60)]
        assert {each.status_code for each in answers} == {400, 429}
        assert answers[-1].json()["type"] == acme.URN + "rateLimited"
        assert int(answers[-1].headers["retry-after"]) >= 1
