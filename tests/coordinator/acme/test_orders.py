"""Orders in trust mode, through the gate and into the inventory; revocation and renewal information."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc.jwk import ECKey

from coordinator.enrollment.acme import validating
from core import acme
from core.csr import build_csr
from core.keys import KeyAlgorithm
from core.names import parse_name
from tests.coordinator.acme.client import ON, Client, csr_for, refused
from tests.coordinator.world import KEYS, World, bearer, open_world, variables

pytestmark = pytest.mark.anyio


def leaf(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificates(pem)[0]


def names_of(certificate: x509.Certificate) -> set[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(each.value) for each in found}


async def test_a_certificate_in_trust_mode(client: Client) -> None:
    made = await client.order("b.example", "a.example", "*.a.example")
    order = made.json()
    assert (made.status_code, order["status"], order["profile"]) == (201, "ready", "prof-default")
    assert [each["value"] for each in order["identifiers"]] == ["b.example", "a.example", "*.a.example"]
    authorization = (await client.post(order["authorizations"][2])).json()
    assert (authorization["status"], authorization["wildcard"]) == ("valid", True)
    assert authorization["identifier"] == {"type": "dns", "value": "a.example"}
    finished = await client.finalize(order)
    assert (finished.status_code, finished.json()["status"]) == (200, "valid")
    assert finished.headers["location"] == made.headers["location"]
    response = await client.post(finished.json()["certificate"])
    chain = x509.load_pem_x509_certificates(response.content)
    assert response.headers["content-type"] == "application/pem-certificate-chain"
    assert names_of(chain[0]) == {"a.example", "b.example", "*.a.example"}
    assert len(chain) == 2, "clients take a chain of one for a mistake"
    alternate = next(link for link in response.headers.get_list("link") if "alternate" in link)
    other = await client.post(alternate.split("<")[1].split(">")[0])
    assert x509.load_pem_x509_certificates(other.content) == chain[:1]


async def test_the_inventory_has_one_certificate_for_the_same_names(client: Client) -> None:
    first = leaf(await client.certificate("a.example", "b.example"))
    second = leaf(await client.certificate("b.example", "a.example"))
    (row,) = (await client.world.get("/api/v1/certificates"))["data"]
    assert (row["source"], row["status"]["life"], row["status"]["holders"]) == ("acme", "valid", [])
    versions = (await client.world.get(f"/api/v1/certificates/{row['id']}/versions"))["data"]
    assert [version["holder"] for version in versions] == ["client", "client"]
    assert {first.serial_number, second.serial_number} == {int(version["serial"], 16) for version in versions}
    events = await client.world.get("/api/v1/audit", resource_id=row["id"])
    issued = [event for event in events["data"] if event["action"] == "certificate.issued"]
    assert {event["actor"] for event in issued} == {f"acme:{client.kid.rpartition('/')[2]}"}


async def test_addresses_are_never_common_names(client: Client) -> None:
    certificate = leaf(await client.certificate("192.0.2.7", "2001:db8::1"))
    assert certificate.subject.rdns == []
    assert names_of(certificate) == {"192.0.2.7", "2001:db8::1"}
    mixed = leaf(await client.certificate("192.0.2.7", "a.example"))
    assert mixed.subject.rfc4514_string() == "CN=a.example"


async def test_the_common_name_is_the_clients_choice(client: Client) -> None:
    """The client lego looks for its certificate by the name that it had put there."""
    order = (await client.order("a.example", "*.a.example")).json()
    done = (await client.finalize(order, csr_for("a.example", "*.a.example", common_name="a.example"))).json()
    chosen = leaf((await client.post(done["certificate"])).content)
    again = (await client.order("*.a.example", "a.example")).json()
    done = (await client.finalize(again, csr_for("a.example", "*.a.example", common_name="*.a.example"))).json()
    other = leaf((await client.post(done["certificate"])).content)
    assert [each.subject.rfc4514_string() for each in (chosen, other)] == ["CN=a.example", "CN=*.a.example"]
    assert len((await client.world.get("/api/v1/certificates"))["data"]) == 1


@pytest.mark.parametrize(
    "identifiers, kind",
    [
        ([], "malformed"),
        ([{"type": "dns", "value": ""}], "rejectedIdentifier"),
        ([{"type": "email", "value": "a@b"}], "unsupportedIdentifier"),
        ([{"type": "dns", "value": "192.0.2.1"}], "rejectedIdentifier"),
        ([{"type": "ip", "value": "a.example"}], "rejectedIdentifier"),
        ([{"type": "ip", "value": "2001:0db8::1"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "a..example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "*.*.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "a.*.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "a\u0000.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": f"n{n}.example"} for n in range(101)], "malformed"),
        ("x", "malformed"),
        ([{"type": "dns"}], "malformed"),
    ],
)
async def test_wrong_identifiers_are_refused(client: Client, identifiers: Any, kind: str) -> None:
    refused(await client.post("new-order", {"identifiers": identifiers}), kind)
    assert await client.world.value("SELECT count(*) FROM acme_orders") == 0


async def test_each_refused_name_has_its_subproblem(client: Client) -> None:
    await client.world.post(
        "/api/v1/profiles",
        {
            "id": "prof-shop",
            "name": "shop",
            "max_lifetime_s": 86400,
            "allowed_names": ["*.shop.example"],
            "acme_open_accounts": True,
        },
    )
    shop = Client(client.world, "/acme/profile/prof-shop")
    await shop.register()
    found = refused(
        await shop.post(
            "new-order", {"identifiers": [{"type": "dns", "value": "x_!.a"}, {"type": "mail", "value": "b"}]}
        ),
        "rejectedIdentifier",
    )
    assert [each["type"] for each in found["subproblems"]] == [
        acme.URN + "rejectedIdentifier",
        acme.URN + "unsupportedIdentifier",
    ]
    refused(await shop.order("evil.example"), "rejectedIdentifier", 403)
    assert (await shop.order("a.shop.example")).status_code == 201


async def test_profiles_are_this_directorys(client: Client) -> None:
    assert (await client.order("a.example", profile="prof-default")).status_code == 201
    refused(await client.order("a.example", profile="prof-other"), "invalidProfile", 400)


async def test_dates_are_honoured_within_the_profile(client: Client) -> None:
    now = client.world.clock.now().replace(microsecond=0)
    wish = {"notBefore": now.isoformat(), "notAfter": (now + timedelta(hours=8)).isoformat()}
    certificate = leaf(await client.certificate("a.example", **wish))
    assert (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == (now, now + timedelta(hours=8))
    only_end = leaf(await client.certificate("b.example", notAfter=(now + timedelta(days=2)).isoformat()))
    assert only_end.not_valid_after_utc == now + timedelta(days=2)
    assert only_end.not_valid_before_utc < now
    for bad in (
        {"notAfter": (now + timedelta(days=4000)).isoformat()},
        {"notAfter": (now - timedelta(days=1)).isoformat()},
        {"notBefore": (now - timedelta(days=2)).isoformat()},
        {"notBefore": (now + timedelta(days=2)).isoformat(), "notAfter": (now + timedelta(days=1)).isoformat()},
        {"notAfter": "2030-01-01T00:00:00"},
        {"notAfter": "tomorrow"},
    ):
        assert (await client.order("a.example", **bad)).status_code in {400, 403}, bad


@pytest.mark.parametrize(
    "csr, what",
    [
        (csr_for("a.example", "evil.example"), "evil.example"),
        (csr_for("evil.example"), "evil.example"),
        (csr_for("a.example", common_name="evil.example"), "common name"),
        (csr_for("a.example", algorithm=KeyAlgorithm.RSA_2048), ""),
        (b"\x30\x03\x02\x01\x00", "csr"),
    ],
    ids=["one name more", "another name", "another common name", "an algorithm that the profile has", "no CSR"],
)
async def test_the_csr_is_what_was_ordered(client: Client, csr: bytes, what: str) -> None:
    order = (await client.order("a.example")).json()
    response = await client.finalize(order, csr)
    if not what:
        assert response.json()["status"] == "valid"
        return
    assert what in refused(response, "badCSR", 400)["detail"]
    assert (await client.finalize(order)).json()["status"] == "valid", "a wrong CSR does not spoil the order"


async def test_addresses_in_a_csr_are_looked_at(client: Client) -> None:
    order = (await client.order("a.example")).json()
    refused(await client.finalize(order, csr_for("a.example", "192.0.2.1")), "badCSR")


async def test_keys_that_the_profile_forbids(client: Client) -> None:
    await client.world.post(
        "/api/v1/profiles",
        {
            "id": "prof-ec",
            "name": "ec",
            "max_lifetime_s": 86400,
            "key_algorithms": ["ecdsa-p384"],
            "acme_open_accounts": True,
        },
    )
    other = Client(client.world, "/acme/profile/prof-ec")
    await other.register()
    order = (await other.order("a.example")).json()
    refused(await other.finalize(order), "badCSR")
    assert (await other.finalize(order, csr_for("a.example", algorithm=KeyAlgorithm.ECDSA_P384))).json()[
        "status"
    ] == "valid"


async def test_an_order_is_finalized_once(client: Client) -> None:
    order = (await client.order("a.example")).json()
    first, second = await asyncio.gather(client.finalize(order), Client(client.world, key=client.key).post("new-nonce"))
    del second
    assert first.json()["status"] == "valid"
    refused(await client.finalize(order), "orderNotReady", 403)
    assert await client.world.value("SELECT count(*) FROM certificate_versions") == 1


async def test_orders_and_authorizations_run_out(client: Client) -> None:
    made = await client.order("a.example")
    await client.world.execute("UPDATE acme_orders SET expires_at = now() - interval '1 second'")
    shown = (await client.post(made.headers["location"])).json()
    assert (shown["status"], shown["error"]["type"]) == ("invalid", acme.URN + "malformed")
    refused(await client.finalize(made.json()), "orderNotReady")


async def test_a_deactivated_authorization_ends_its_order(client: Client) -> None:
    made = await client.order("a.example")
    url = made.json()["authorizations"][0]
    assert (await client.post(url, {"status": "deactivated"})).json()["status"] == "deactivated"
    assert (await client.post(made.headers["location"])).json()["status"] == "invalid"
    again = (await client.order("a.example")).json()
    assert again["authorizations"] != [url]


async def test_authorizations_are_used_again(client: Client) -> None:
    first, second = (await client.order("a.example")).json(), (await client.order("a.example", "b.example")).json()
    assert first["authorizations"][0] in second["authorizations"]
    made = await client.post("new-authz", {"identifier": {"type": "dns", "value": "c.example"}})
    assert (made.status_code, made.json()["status"]) == (201, "valid")
    third = (await client.order("c.example")).json()
    assert third["authorizations"] == [made.headers["location"]]
    refused(await client.post("new-authz", {"identifier": {"type": "dns", "value": "*.c.example"}}), "malformed")


@contextlib.asynccontextmanager
async def at_two_replicas(database_url: str, folder: Path, **settings: str) -> AsyncIterator[tuple[Client, Client]]:
    """One account as a client has it at each of two coordinators with these settings."""
    async with (
        open_world(variables(database_url, folder / "one", **ON, **settings)) as one,
        open_world(variables(database_url, folder / "two", **ON, **settings)) as two,
    ):
        here = Client(one)
        await here.register()
        there = Client(two, key=here.key)
        there.kid = here.kid
        yield here, there


async def test_limits_are_shared_by_replicas(database_url: str, tmp_path: Path) -> None:
    few = {
        "CERTCTL_ACME_SERVER_RATE_LIMIT_ORDERS_PER_HOUR": "3",
        "CERTCTL_ACME_SERVER_RATE_LIMIT_CONCURRENT_ORDERS": "2",
    }
    async with at_two_replicas(database_url, tmp_path, **few) as (here, there):
        first = (await here.order("a.example")).json()
        assert (await there.order("b.example")).status_code == 201
        found = await here.order("c.example")
        refused(found, "rateLimited", 429)
        assert int(found.headers["retry-after"]) >= 1
        await here.finalize(first)
        assert (await there.order("c.example")).status_code == 201
        await there.post((await here.post(here.kid + "/orders")).json()["orders"][0])
        found = await here.order("d.example")
        refused(found, "rateLimited", 429)


async def test_the_same_names_again_and_again(database_url: str, tmp_path: Path) -> None:
    few = {"CERTCTL_ACME_SERVER_RATE_LIMIT_SAME_NAMES_PER_HOUR": "2"}
    async with at_two_replicas(database_url, tmp_path, **few) as (here, there):
        certificate = leaf(await here.certificate("a.example", "b.example"))
        assert (await there.order("b.example", "a.example")).status_code == 201
        found = await here.order("a.example", "b.example")
        refused(found, "rateLimited", 429)
        assert 1700 <= int(found.headers["retry-after"]) <= 1800
        assert (await here.order("a.example")).status_code == 201, "other names"
        replaced = await here.order("a.example", "b.example", replaces=acme.certificate_id_of(certificate))
        assert replaced.status_code == 201, "what replaces is no loop"
        other = Client(here.world)
        await other.register()
        assert (await other.order("a.example", "b.example")).status_code == 201, "another account"


async def approve(world: World, role: str) -> httpx.Response:
    (approval,) = (await world.get("/api/v1/approvals", state="pending"))["data"]
    return await world.http.post(f"/api/v1/approvals/{approval['id']}/approve", headers=bearer(KEYS[role]), json={})


async def test_an_approval_keeps_the_order_processing(client: Client) -> None:
    wish = {
        "id": "prof-two",
        "name": "two",
        "max_lifetime_s": 86400,
        "requires_approval": True,
        "acme_open_accounts": True,
    }
    await client.world.post("/api/v1/profiles", wish)
    other = Client(client.world, "/acme/profile/prof-two")
    await other.register()
    made = await other.order("a.example")
    response = await other.finalize(made.json())
    assert (response.json()["status"], int(response.headers["retry-after"]) >= 1) == ("processing", True)
    assert (await approve(client.world, "approver")).status_code == 200
    shown = (await other.post(made.headers["location"])).json()
    assert shown["status"] == "valid"
    again = await other.order("b.example")
    await other.finalize(again.json())
    (approval,) = (await client.world.get("/api/v1/approvals", state="pending"))["data"]
    await client.world.http.post(
        f"/api/v1/approvals/{approval['id']}/reject", headers=bearer(KEYS["approver"]), json={"note": "no"}
    )
    shown = (await other.post(again.headers["location"])).json()
    assert shown["status"] == "invalid"


async def revoke(client: Client, certificate: x509.Certificate, **more: Any) -> httpx.Response:
    payload = {"certificate": acme.encode(certificate.public_bytes(Encoding.DER)), **more.pop("payload", {})}
    return await client.post("revoke-cert", payload, **more)


async def test_revocation_by_account(client: Client) -> None:
    certificate = leaf(await client.certificate("a.example"))
    stranger = Client(client.world)
    await stranger.register()
    refused(await revoke(stranger, certificate), "unauthorized", 403)
    refused(await revoke(client, certificate, payload={"reason": 2}), "badRevocationReason", 400)
    assert (await revoke(client, certificate, payload={"reason": 4})).status_code == 200
    refused(await revoke(client, certificate), "alreadyRevoked", 400)
    (row,) = (await client.world.get("/api/v1/certificates"))["data"]
    assert row["status"]["life"] == "revoked"
    await client.certificate("a.example")
    (row,) = (await client.world.get("/api/v1/certificates"))["data"]
    assert row["status"]["life"] == "valid"


async def test_revocation_by_the_certificates_key(client: Client) -> None:

    key = ec.generate_private_key(ec.SECP256R1())
    order = (await client.order("a.example")).json()
    done = await client.finalize(order, build_csr(key, "", (parse_name("a.example"),)))
    certificate = leaf((await client.post(done.json()["certificate"])).content)
    stranger = Client(client.world)
    refused(await revoke(stranger, certificate), "unauthorized")
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    holder = Client(client.world, key=ECKey.import_key(pem))
    assert (await revoke(holder, certificate, payload={"reason": 1})).status_code == 200
    again = (await client.order("a.example")).json()
    refused(await client.finalize(again, build_csr(key, "", (parse_name("a.example"),))), "badCSR")


async def test_revocation_by_who_is_authorized_for_the_names(client: Client) -> None:
    certificate = leaf(await client.certificate("a.example", "b.example"))
    other = Client(client.world)
    await other.register()
    await other.order("a.example")
    refused(await revoke(other, certificate), "unauthorized")
    await other.order("b.example")
    assert (await revoke(other, certificate)).status_code == 200


async def test_foreign_certificates_are_not_revoked(client: Client) -> None:
    agent = await client.world.agent()
    del agent
    refused(await client.post("revoke-cert", {"certificate": "AAAA"}), "malformed")
    root = x509.load_pem_x509_certificates(await client.certificate("a.example"))[1]
    refused(await revoke(client, root), "malformed", 404)


async def info(client: Client, certificate: x509.Certificate) -> httpx.Response:
    return await client.world.http.get(f"/acme/renewal-info/{acme.certificate_id_of(certificate)}")


def window(response: httpx.Response) -> Mapping[str, str]:
    found: Mapping[str, str] = response.json()["suggestedWindow"]
    return found


async def test_renewal_information(client: Client) -> None:
    certificate = leaf(await client.certificate("a.example"))
    response = await info(client, certificate)
    assert (response.status_code, response.headers["retry-after"]) == (200, "21600")
    now = client.world.clock.now()
    assert (
        now.isoformat()
        < window(response)["start"]
        < window(response)["end"]
        < certificate.not_valid_after_utc.isoformat()
    )
    assert (await client.world.http.get("/acme/renewal-info/AAAA.AAAA")).status_code == 404
    assert (await client.world.http.get("/acme/renewal-info/nonsense")).status_code == 400
    (row,) = (await client.world.get("/api/v1/certificates"))["data"]
    await client.world.call("POST", f"/api/v1/certificates/{row['id']}/renew")
    assert window(await info(client, certificate))["start"] <= now.isoformat()
    replaced = await client.order("a.example", replaces=acme.certificate_id_of(certificate))
    assert (replaced.status_code, replaced.json()["replaces"]) == (201, acme.certificate_id_of(certificate))
    refused(await client.order("a.example", replaces=acme.certificate_id_of(certificate)), "alreadyReplaced", 409)
    stranger = Client(client.world)
    await stranger.register()
    refused(await stranger.order("a.example", replaces=acme.certificate_id_of(certificate)), "malformed")


async def test_a_revoked_one_is_to_be_replaced_now(client: Client) -> None:
    certificate = leaf(await client.certificate("a.example"))
    await revoke(client, certificate)
    assert window(await info(client, certificate))["start"] <= client.world.clock.now().isoformat()
    refused(await client.order("b.example", replaces=acme.certificate_id_of(certificate)), "malformed")


async def test_two_replicas_are_one_server(replicas: tuple[World, World]) -> None:
    """Every request of a flow goes to the other coordinator than the one before."""
    here, there = Client(replicas[0]), Client(replicas[1])
    there.key = here.key
    await here.register()
    there.kid = here.kid
    there.nonce = here.nonce
    order = (await there.order("a.example")).json()
    here.nonce = there.nonce
    assert (await here.finalize(order)).json()["status"] == "valid"


async def test_what_has_run_out_is_forgotten(client: Client) -> None:

    await client.order("a.example")
    await client.certificate("b.example")
    await client.world.execute("UPDATE acme_nonces SET expires_at = now() - interval '1 second'")
    await client.world.execute("UPDATE acme_orders SET expires_at = now() - interval '2 days'")
    await client.world.execute("UPDATE acme_authorizations SET expires_at = now() - interval '2 days'")
    await validating.collect(client.world.ctx)
    for table, expected in (("acme_nonces", 0), ("acme_orders", 1), ("acme_authorizations", 0)):
        assert await client.world.value(f"SELECT count(*) FROM {table}") == expected, table
