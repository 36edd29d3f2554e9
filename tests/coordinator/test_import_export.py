"""Certificates from elsewhere in the inventory, and certificates as files."""

from __future__ import annotations

import asyncio
import base64
from datetime import datetime, timedelta
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from tests.coordinator.world import World, bearer, done, open_world, problem, variables
from tests.core.test_bundles import KEYSTORE

pytestmark = pytest.mark.anyio
IMPORT, EXPORT = "/api/v1/certificates/import", "/api/v1/certificates/export"


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def site(ca: trustme.CA, *names: str, **more: Any) -> tuple[str, str]:
    made = ca.issue_cert(*names, **more)
    return made.cert_chain_pems[0].bytes().decode(), made.private_key_pem.bytes().decode()


def outcomes(answer: dict[str, Any]) -> list[str]:
    return [entry["outcome"] for entry in answer["entries"]]


async def test_what_is_imported_is_watched_and_nobody_holds_it(world: World, ca: trustme.CA) -> None:
    below = ca.create_child_ca()
    ends = world.clock.now().replace(microsecond=0) + timedelta(days=5)
    leaf, key = site(below, "a.test", "10.0.0.1", not_after=ends)
    text = leaf + below.cert_pem.bytes().decode() + ca.cert_pem.bytes().decode() + key
    answer = await world.post(IMPORT, {"pem": text, "environment": "old", "tags": {"from": "haproxy"}}, key="operator")
    assert outcomes(answer) == ["imported", "authority", "authority", "dropped"]
    assert (answer["total"], answer["imported"], answer["authorities"], answer["dropped"]) == (4, 1, 2, 1)
    certificate_id = answer["entries"][0]["certificate_id"]
    found = await world.get(f"/api/v1/certificates/{certificate_id}")
    assert (found["source"], found["environment"], sorted(found["sans"])) == ("imported", "old", ["10.0.0.1", "a.test"])
    status = found["status"]
    assert (status["life"], status["service"], status["holders"]) == ("valid", "unknown", [])
    assert datetime.fromisoformat(status["expires_at"]) == ends
    assert status["alert"]["threshold_days"] == 7
    assert "issued elsewhere" in status["reason"]
    soon = await world.get("/api/v1/certificates", life="valid", expires_before=(ends + timedelta(days=1)).isoformat())
    assert [row["id"] for row in soon["data"]] == [certificate_id]
    (version,) = (await world.get(f"/api/v1/certificates/{certificate_id}/versions"))["data"]
    assert (version["holder"], version["issuer_id"]) == ("imported", None)
    assert version["pem"].count("BEGIN CERTIFICATE") == 2
    assert (await world.get("/api/v1/audit", action="certificate.imported"))["total"] == 1
    # Not a byte of the key is anywhere.
    secret = "".join(key.splitlines()[1:3])
    assert (
        await world.value(
            "SELECT count(*) FROM certificate_versions WHERE position($1 IN encode(der, 'base64')) > 0", secret
        )
        == 0
    )
    world.clock.advance(timedelta(days=6))
    assert (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]["life"] == "expired"
    expired = await world.get("/api/v1/certificates", life="expired")
    assert [row["id"] for row in expired["data"]] == [certificate_id]


async def test_duplicates_are_recognised_by_fingerprint(world: World, ca: trustme.CA) -> None:
    leaf, _ = site(ca, "a.test")
    first = await world.post(IMPORT, {"pem": leaf + leaf})
    assert outcomes(first) == ["imported", "duplicate"]
    again = await world.post(IMPORT, {"pem": leaf})
    assert outcomes(again) == ["duplicate"]
    assert again["entries"][0]["certificate_id"] == first["entries"][0]["certificate_id"]
    agent = await world.agent()
    own, _ = await world.certificate(agent_id=agent.id)
    await agent.work()
    (version,) = (await world.get(f"/api/v1/certificates/{own}/versions"))["data"]
    known = await world.post(IMPORT, {"pem": version["pem"]})
    assert (outcomes(known), known["entries"][0]["certificate_id"]) == (["duplicate"], own)
    assert await world.value("SELECT count(*) FROM certificates") == 2


async def test_what_is_bound_later_gets_a_key_and_certificate_of_its_own(world: World, ca: trustme.CA) -> None:
    leaf, _ = site(ca, "a.test")
    certificate_id = (await world.post(IMPORT, {"pem": leaf}))["entries"][0]["certificate_id"]
    agent = await world.agent()
    body = {"target_ids": [await world.target(agent)]}
    assert done(await world.call("PATCH", f"/api/v1/certificates/{certificate_id}", json=body))["job_ids"]
    await agent.work()
    status = (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
    assert (status["life"], status["service"], status["reason"]) == ("valid", "served", "")
    assert (await world.get(f"/api/v1/certificates/{certificate_id}/versions"))["total"] == 2


async def test_revoking_what_was_imported_shows(world: World, ca: trustme.CA) -> None:
    leaf, _ = site(ca, "a.test")
    certificate_id = (await world.post(IMPORT, {"pem": leaf}))["entries"][0]["certificate_id"]
    answer = await world.post(f"/api/v1/certificates/{certificate_id}/revoke", {"reason": "superseded"})
    assert answer["job_ids"] == []
    assert (await world.get(f"/api/v1/certificates/{certificate_id}"))["status"]["life"] == "revoked"
    assert (await world.get("/api/v1/certificates", life="revoked"))["total"] == 1


async def test_weak_and_odd_ones_are_taken_as_they_are(world: World) -> None:
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - weak on purpose
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Printer\n3rd floor")])
    now = world.clock.now()
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(7).not_valid_before(now).not_valid_after(now + timedelta(days=9)).sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = made.public_bytes(serialization.Encoding.PEM).decode()
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    answer = await world.post(IMPORT, {"pem": pem + broken})
    assert outcomes(answer) == ["imported", "failed"]
    found = await world.get(f"/api/v1/certificates/{answer['entries'][0]['certificate_id']}")
    assert (found["common_name"], found["sans"]) == ("Printer?3rd floor", [])
    (version,) = (await world.get(f"/api/v1/certificates/{found['id']}/versions"))["data"]
    assert version["key_algorithm"] == "rsa-1024"


async def test_key_stores_are_read_with_their_password_which_nobody_hears(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {"jks": base64.b64encode(KEYSTORE).decode(), "password": "changeit"}
    assert sorted(outcomes(await world.post(IMPORT, body))) == ["authority", "dropped", "imported"]
    wrong = await world.call("POST", IMPORT, json={**body, "password": "wrong-horse"})
    assert "wrong-horse" not in problem(wrong, 400, "password")["detail"]
    told = capsys.readouterr()
    assert "changeit" not in told.out + told.err
    assert "wrong-horse" not in told.out + told.err
    assert await world.value("SELECT count(*) FROM audit_events WHERE details::text LIKE '%changeit%'") == 0


def pkcs12_of(ca: trustme.CA, password: str) -> bytes:
    made = ca.issue_cert("a.test")
    leaf = x509.load_pem_x509_certificate(made.cert_chain_pems[0].bytes())
    key = serialization.load_pem_private_key(made.private_key_pem.bytes(), None)
    root = x509.load_pem_x509_certificate(ca.cert_pem.bytes())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    encryption = serialization.BestAvailableEncryption(password.encode())
    return pkcs12.serialize_key_and_certificates(b"site", key, leaf, [root], encryption)


async def test_pkcs12_is_opened_and_its_key_dropped(world: World, ca: trustme.CA) -> None:
    body = {"pkcs12": base64.b64encode(pkcs12_of(ca, "horse")).decode(), "password": "horse"}
    assert outcomes(await world.post(IMPORT, body)) == ["dropped", "imported", "authority"]
    problem(await world.call("POST", IMPORT, json={**body, "password": "donkey"}), 400, "pkcs12")


async def test_a_file_that_asks_for_endless_work_is_given_up(world: World, ca: trustme.CA) -> None:
    data = pkcs12_of(ca, "horse")
    # The rounds of the MAC, which stand at the very end (RFC 7292 section 4), become two thousand million.
    rounds = data[-4:]
    assert rounds[:2] == b"\x02\x02"
    # A sequence that begins with one and goes on to the end; what is encrypted before it can look like half of that.
    ends = (at for at in range(4, len(data)) if data[at] == data[at + 2] == 0x30 and at + 2 + data[at + 1] == len(data))
    mac = next(ends)
    inner = data[mac + 2 : -4] + b"\x02\x04\x7f\xff\xff\xff"
    content = data[4:mac] + bytes([0x30, len(inner)]) + inner
    endless = b"\x30\x82" + len(content).to_bytes(2) + content
    body = {"pkcs12": base64.b64encode(endless).decode(), "password": "horse"}
    refused = await world.call("POST", IMPORT, json=body)
    assert "fewer rounds" in problem(refused, 400, "pkcs12")["detail"]


@pytest.mark.parametrize(
    "body,field",
    [
        ({}, "pem"),
        ({"pem": "x", "jks": "AAAA"}, "pem"),
        ({"pem": "no pem"}, "pem"),
        ({"pkcs12": "AAAA"}, "pkcs12"),
        ({"jks": "AAAA"}, "jks"),
        ({"pem": "x", "profile_id": "prof-none"}, "profile_id"),
    ],
)
async def test_what_cannot_be_read_is_refused(world: World, body: dict[str, str], field: str) -> None:
    problem(await world.call("POST", IMPORT, json=body), 400, field)


async def test_references_and_scope_hold_for_what_is_imported(world: World, ca: trustme.CA) -> None:
    leaf, _ = site(ca, "a.test")
    problem(await world.call("POST", IMPORT, json={"pem": leaf, "owner_id": "o-none"}), 400, "owner_id")
    await world.post("/api/v1/teams", {"id": "team-own", "name": "Own"})
    made = await world.post("/api/v1/api-keys", {"name": "own", "role": "operator", "teams": ["team-own"]})
    headers = bearer(made["key"])
    problem(await world.http.post(IMPORT, headers=headers, json={"pem": leaf}), 403, "team_id")
    foreign = (await world.post(IMPORT, {"pem": leaf}))["entries"][0]["certificate_id"]
    answer = done(await world.http.post(IMPORT, headers=headers, json={"pem": leaf, "team_id": "team-own"}))
    assert (outcomes(answer), answer["entries"][0]["certificate_id"]) == (["duplicate"], None)
    problem(await world.http.get(f"/api/v1/certificates/{foreign}/export", headers=headers), 404)
    many = await world.http.get(EXPORT, headers=headers)
    assert many.content == b""


async def test_two_who_import_the_same_at_once_make_one(replicas: tuple[World, World], ca: trustme.CA) -> None:
    leaves = "".join(site(ca, f"n{number}.test")[0] for number in range(20))
    answers = await asyncio.gather(*(world.call("POST", IMPORT, json={"pem": leaves}) for world in replicas))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert await replicas[0].value("SELECT count(*) FROM certificates") == 20


async def test_a_certificate_is_exported_in_three_forms(world: World, ca: trustme.CA) -> None:
    below = ca.create_child_ca()
    leaf, _ = site(below, "a.test")
    answer = await world.post(IMPORT, {"pem": leaf + below.cert_pem.bytes().decode()})
    path = f"/api/v1/certificates/{answer['entries'][0]['certificate_id']}/export"
    whole = await world.call("GET", path, "viewer")
    assert whole.headers["content-type"] == "application/pem-certificate-chain"
    assert whole.headers["content-disposition"].endswith('.pem"')
    assert whole.text == leaf + below.cert_pem.bytes().decode()
    assert (await world.call("GET", path, params={"include": "leaf"})).text == leaf
    assert (await world.call("GET", path, params={"include": "chain"})).text == below.cert_pem.bytes().decode()
    der = await world.call("GET", path, params={"format": "der"})
    expected = x509.load_pem_x509_certificate(leaf.encode())
    assert x509.load_der_x509_certificate(der.content) == expected
    held = pkcs12.load_pkcs12((await world.call("GET", path, params={"format": "pkcs12"})).content, None)
    assert (held.key, next(each.certificate for each in held.additional_certs)) == (None, expected)
    problem(await world.call("GET", path, params={"format": "der", "include": "chain"}), 400, "include")
    problem(await world.call("GET", path, params={"version_id": "cv-none"}), 404)
    events = (await world.get("/api/v1/audit", action="certificate.exported"))["data"]
    assert len(events) == 5
    unissued, _ = await world.certificate()
    problem(await world.call("GET", f"/api/v1/certificates/{unissued}/export"), 404)


async def test_many_are_exported_as_they_are_listed(world: World, ca: trustme.CA) -> None:
    leaves = "".join(site(ca, f"n{number}.test")[0] for number in range(600))
    assert (await world.post(IMPORT, {"pem": leaves, "environment": "old"}))["imported"] == 600
    await world.certificate(environment="old", common_name="unissued.test")
    await world.post(IMPORT, {"pem": site(ca, "other.test")[0]})
    answer = await world.call("GET", EXPORT, params={"environment": "old", "include": "leaf"})
    found = x509.load_pem_x509_certificates(answer.content)
    assert len(set(found)) == 600
    assert answer.text.count("# mc-") == 600
    problem(await world.call("GET", EXPORT, params={"colour": "red"}), 400, "colour")


async def test_exports_are_limited_for_each_caller_by_all_coordinators(
    database_url: str, tmp_path: Any, ca: trustme.CA
) -> None:
    limit = {"CERTCTL_CERT_EXPORT_RATE_LIMIT_PER_ACTOR_HR": "2"}
    async with (
        open_world(variables(database_url, tmp_path / "one", **limit)) as one,
        open_world(variables(database_url, tmp_path / "two", **limit)) as two,
    ):
        answer = await one.post(IMPORT, {"pem": site(ca, "a.test")[0]})
        path = f"/api/v1/certificates/{answer['entries'][0]['certificate_id']}/export"
        assert (await one.call("GET", path)).is_success
        assert (await two.call("GET", EXPORT)).is_success
        refused = await two.call("GET", path)
        assert "certificate exports" in problem(refused, 429)["detail"]
        assert int(refused.headers["retry-after"]) > 60
        problem(await one.call("GET", EXPORT), 429)
        assert (await one.call("GET", path, "viewer")).is_success
        assert (await one.get("/api/v1/audit", action="certificate.exported"))["total"] == 3
