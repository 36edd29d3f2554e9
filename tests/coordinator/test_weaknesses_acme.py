"""What a reference product does wrong in ACME (A 4, 5, 18 and 20), as in ``test_weaknesses``: by number and name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from connectors.issuers.acme.client import session
from connectors.issuers.acme.renewal_info import renewal_info
from coordinator.issuance import service as issuance
from coordinator.ordering import accounts
from core import acme
from tests.connectors.issuers.acme.pebble import Pebble
from tests.connectors.issuers.acme.service import Asked, Reply, serving
from tests.coordinator.acme.client import JOSE, ON, URN, Client
from tests.coordinator.world import World, done, open_world, variables

pytestmark = pytest.mark.anyio
CERTIFICATES = "/api/v1/certificates"
DAY = 86400


@pytest.fixture
async def server(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A coordinator whose ACME server is switched on."""
    async with open_world(variables(database_url, tmp_path, **ON)) as opened:
        yield opened


async def test_a4_what_is_below_acme_is_answered_by_the_acme_server(server: World) -> None:
    """Nobody is asked for an API key, and nobody gets a page, whatever the path."""
    directory = (await server.http.get("/acme/directory")).json()
    urls = {name: url.removeprefix(server.ctx.settings.url) for name, url in directory.items() if name != "meta"}
    nonce = await server.http.head(urls.pop("newNonce"))
    assert (nonce.status_code, bool(nonce.headers["replay-nonce"])) == (200, True)
    told = await server.http.get(f"{urls.pop('renewalInfo')}/AAAA.AAAA")
    below = ("account/x", "order/x", "order/x/finalize", "authz/x", "challenge/x/http-01", "cert/x", "nothing")
    answers = [told, *[await server.http.post(f"/acme/{path}", content=b"{}", headers=JOSE) for path in below]]
    answers += [await server.http.post(path, content=b"{}", headers=JOSE) for path in urls.values()]
    for answer in answers:
        assert answer.status_code in {400, 404}, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == f"{URN}malformed"
    assert len(answers) == 13
    client = Client(server)
    assert (await client.register()).status_code == 201, "and it does its work"


async def test_a5_what_is_finalized_has_its_owner_and_is_signed_by_its_profiles_issuer(server: World) -> None:
    team = await server.post("/api/v1/teams", {"name": "shop"})
    owner = await server.post("/api/v1/owners", {"name": "Ada", "email": "ada@example.com", "team_id": team["id"]})
    for name in ("other", "another"):
        await server.post("/api/v1/issuers", {"id": f"iss-{name}", "name": name, "config": {}})
    profile = {"id": "prof-shop", "name": "shop", "default_issuer_id": "iss-other", "max_lifetime_s": 30 * DAY}
    await server.post("/api/v1/profiles", profile)
    wish = {"name": "web", "owner_id": owner["id"], "team_id": team["id"], "environment": "prod"}
    key = await server.post("/api/v1/acme-eab-keys", wish)
    client = Client(server, "/acme/profile/prof-shop")
    assert (await client.register(externalAccountBinding=client.bound(key["id"], key["hmac_key"]))).status_code == 201
    for name in ("a.example", "b.example"):
        leaf, *_ = x509.load_pem_x509_certificates(await client.certificate(name, f"*.{name}"))
        root = (await server.pki.get("/.well-known/pki/ca/iss-other")).content
        leaf.verify_directly_issued_by(x509.load_der_x509_certificate(root))
    rows = (await server.get(CERTIFICATES))["data"]
    assert len(rows) == 2, "a second one is as good as the first"
    for row in rows:
        found = {name: row[name] for name in ("owner_id", "team_id", "environment", "profile_id", "issuer_id")}
        assert found == {
            **{name: wish[name] for name in list(wish)[1:]},
            "profile_id": "prof-shop",
            "issuer_id": "iss-other",
        }
        assert row["renewal_policy_id"] == "rp-default"
        assert (row["status"]["life"], row["source"]) == ("valid", "acme")


async def test_a5_names_are_proved_in_every_way_and_wildcards_by_dns(server: World) -> None:
    proved = {"id": "prof-proved", "name": "proved", "acme_auth_mode": "challenge", "max_lifetime_s": 30 * DAY}
    await server.post("/api/v1/profiles", proved)
    client = Client(server, "/acme/profile/prof-proved")
    await client.register()
    order = (await client.order("a.example", "*.a.example")).json()
    offered = [(await client.post(url)).json()["challenges"] for url in order["authorizations"]]
    plain, wildcard = ({each["type"] for each in challenges} for challenges in offered)
    assert plain >= {"http-01", "dns-01", "tls-alpn-01"}
    assert "dns-01" in wildcard
    assert not wildcard & {"http-01", "tls-alpn-01"}, "RFC 8555 section 8.4"


@pytest.mark.parametrize(
    "serial",
    [0x0A << 144 | 1, 0x7F << 152 | 2, 0x80 << 144 | 3, 0x0B << 136 | 4, 5],
    ids=["a leading zero nibble", "20 bytes", "a zero byte in DER", "a leading zero nibble, 18 bytes", "one digit"],
)
async def test_a18_a_certificate_is_found_by_its_serial_number_whatever_that_begins_with(
    server: World, monkeypatch: pytest.MonkeyPatch, serial: int
) -> None:
    monkeypatch.setattr(issuance, "new_serial", lambda: serial)
    client = Client(server)
    await client.register()
    leaf, *_ = x509.load_pem_x509_certificates(await client.certificate("a.example"))
    assert leaf.serial_number == serial
    key_id = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert key_id is not None
    der = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    path = f"/acme/renewal-info/{acme.encode(key_id)}.{acme.encode(der)}"
    before = done(await server.http.get(path))["suggestedWindow"]
    revoked = {"certificate": acme.encode(leaf.public_bytes(Encoding.DER)), "reason": 4}
    assert (await client.post("revoke-cert", revoked)).status_code == 200
    assert await server.value("SELECT revoked_at FROM certificate_versions WHERE serial = $1", f"{serial:x}")
    assert done(await server.http.get(path))["suggestedWindow"]["end"] < before["start"], "it is to be replaced now"


async def test_a20_an_account_at_an_authority_outlives_its_coordinator(database_url: str, tmp_path: Path) -> None:
    """Its key too, also one that it was given later."""
    pebble, urls = Pebble(tmp_path / "pebble").start(), []
    config = {"directory_url": pebble.directory_url, "terms_agreed": True, "connection": {"ca_bundle": pebble.root}}
    try:
        for start in range(3):
            async with open_world(variables(database_url, tmp_path)) as world:
                if not start:
                    body = {"id": "iss-public", "name": "public", "type": "acme", "config": config}
                    await world.post("/api/v1/issuers", body)
                account = (await accounts.authority(world.ctx, "iss-public")).account
                await account.contacts()  # an authority that does not know the key refuses to tell
                urls.append(account.url)
                if start == 1:
                    await world.post("/api/v1/issuers/iss-public/accounts/roll-over")
                    await accounts.roll_over(world.ctx)
                await world.ctx.ordering.stop()
    finally:
        pebble.stop()
    assert len(set(urls)) == 1
    assert pebble.asked("There are now 1 accounts in memory") == 1


RFC_9773 = b"""-----BEGIN CERTIFICATE-----
MIIBQzCB66ADAgECAgUAh2VDITAKBggqhkjOPQQDAjAVMRMwEQYDVQQDEwpFeGFt
cGxlIENBMCIYDzAwMDEwMTAxMDAwMDAwWhgPMDAwMTAxMDEwMDAwMDBaMBYxFDAS
BgNVBAMTC2V4YW1wbGUuY29tMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEeBZu
7cbpAYNXZLbbh8rNIzuOoqOOtmxA1v7cRm//AwyMwWxyHz4zfwmBhcSrf47NUAFf
qzLQ2PPQxdTXREYEnKMjMCEwHwYDVR0jBBgwFoAUaYhba4dGQEHhs3uEe6CuLN4B
yNQwCgYIKoZIzj0EAwIDRwAwRAIge09+S5TZAlw5tgtiVvuERV6cT4mfutXIlwTb
+FYN/8oCIClDsqBklhB9KAelFiYt9+6FDj3z4KGVelYM5MdsO3pK
-----END CERTIFICATE-----
"""
"""The example of its appendix A, whose identifier section 4.1 has."""


async def test_a20_an_authority_is_asked_when_to_renew_by_the_identifier_of_rfc_9773() -> None:
    certificate = x509.load_pem_x509_certificate(RFC_9773)
    window = {"suggestedWindow": {"start": "2026-01-02T00:00:00Z", "end": "2026-01-03T00:00:00Z"}}

    def answer(asked: Asked) -> Reply:
        if asked.path == "/dir":
            names = ("newNonce", "newAccount", "newOrder", "renewalInfo")
            return Reply(body={name: f"https://{asked.headers['host']}/{name}" for name in names})
        return Reply(body=window)

    with serving(answer) as service:
        async with session(f"{service.url}/dir", service.connection) as opened:
            found = await renewal_info(opened, certificate)
    assert found is not None
    assert service.asked[-1].path == "/renewalInfo/aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"
