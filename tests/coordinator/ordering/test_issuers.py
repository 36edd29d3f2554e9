"""Issuers of type acme: their configuration, their secrets, and the kinds of certificates that they name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from coordinator.issuers import secrets
from tests.connectors.issuers.acme.pebble import EAB_KEY, EAB_KID, NEWER, Pebble
from tests.coordinator.ordering.case import ISSUER, Case
from tests.coordinator.world import done, open_world, problem, variables

pytestmark = pytest.mark.anyio
SECRET = EAB_KEY
LIVES = {"classic": 90 * 86400, "shortlived": 6 * 86400, "tlsserver": 45 * 86400}
"""What an authority with profiles offers: the seconds that its certificates live, by profile."""


async def test_secrets_are_kept_sealed_and_stay_when_they_are_not_sent(case: Case) -> None:
    body = case.issuer(eab_kid="kid-1", eab_hmac=SECRET)
    await case.add(body)
    shown = await case.world.get(f"/api/v1/issuers/{ISSUER}")
    assert shown["config"]["eab_hmac"] == {"set": True}
    done(await case.world.call("PATCH", f"/api/v1/issuers/{ISSUER}", json={"name": "renamed"}))
    async with case.world.ctx.db.connection() as conn:
        config, _ = await secrets.acme(case.world.ctx, conn, ISSUER)
    assert config.eab_hmac is not None
    assert config.eab_hmac.reveal() == SECRET
    everything = str(await case.world.rows("SELECT * FROM issuers")) + str(
        await case.world.rows("SELECT * FROM audit_events")
    )
    assert SECRET not in everything


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an address that is no https": ({"directory_url": "http://ca.test/dir"}, "config.directory_url"),
    "a key without its id": ({"eab_hmac": SECRET}, "config.eab_kid"),
    "a DNS challenge without a provider": ({"challenge_type": "dns-01"}, "config.dns"),
    "two providers": (
        {"dns": {"script": {"present": ["/x"]}, "cloudflare": {"api_token": "t"}}},
        "config.dns",
    ),
    "a zone without its resource group": (
        {
            "dns": {
                "azure_dns": {
                    "tenant_id": "t",
                    "client_id": "c",
                    "client_secret": "s",
                    "subscription_id": "s",
                    "zone": "example.com",
                }
            }
        },
        "config.dns.azure_dns",
    ),
    "a program outside the folder": ({"dns": {"script": {"present": ["/bin/sh"]}}}, "config.dns.script.present[0]"),
    "a way out of the folder": (
        {"dns": {"script": {"present": ["/etc/certctl/acme-dns/../../../bin/sh"]}}},
        "config.dns.script.present[0]",
    ),
    "a fallback that is not there": ({"fallback_issuer_ids": ["iss-none"]}, "config.fallback_issuer_ids[0]"),
    "a fallback of another type": ({"fallback_issuer_ids": ["iss-local"]}, "config.fallback_issuer_ids[0]"),
    "a secret that is not stored": ({"eab_kid": "k", "eab_hmac": {"set": True}}, "config.eab_hmac"),
    "a field of another type": ({"path_length": 0}, "config.path_length"),
}


@pytest.mark.parametrize("what", WRONG)
async def test_a_wrong_configuration_is_refused_by_its_field(case: Case, what: str) -> None:
    config, field = WRONG[what]
    problem(await case.world.call("POST", "/api/v1/issuers", json=case.issuer(**config)), 400, field)
    assert await case.world.value("SELECT count(*) FROM issuers WHERE id = $1", ISSUER) == 0


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Pebble]:
    """An authority that registers only customers of its own."""
    keys: dict[str, Any] = {"externalAccountBindingRequired": True, "externalAccountMACKeys": {EAB_KID: EAB_KEY}}
    authority = Pebble(tmp_path / "strict", **keys).start()
    try:
        yield authority
    finally:
        authority.stop()


async def test_the_environment_makes_an_issuer_once(database_url: str, tmp_path: Path, strict: Pebble) -> None:
    bundle = tmp_path / "root.pem"
    bundle.write_text(strict.root)
    named = {
        "CERTCTL_ACME_DIRECTORY_URL": strict.directory_url,
        "CERTCTL_ACME_EMAIL": "admin@example.test",
        "CERTCTL_ACME_EAB_KID": EAB_KID,
        "CERTCTL_ACME_EAB_HMAC": EAB_KEY,
        "CERTCTL_ACME_CA_BUNDLE": str(bundle),
    }
    urls = []
    for name in ("ours", "still ours"):
        async with open_world(variables(database_url, tmp_path / "data", **named)) as world:
            assert (await world.post("/api/v1/issuers/iss-acme/test"))["ok"] is True
            made = await world.get("/api/v1/issuers/iss-acme")
            assert made["name"] in {"ACME, of the environment", "ours"}
            assert (made["config"]["email"], made["config"]["eab_hmac"]) == ("admin@example.test", {"set": True})
            done(await world.call("PATCH", "/api/v1/issuers/iss-acme", json={"name": name}))
            urls.append((await world.get("/api/v1/issuers/iss-acme/accounts"))["data"][0]["url"])
            await world.ctx.ordering.stop()
    assert urls[0] == urls[1] != ""
    assert await asyncio.to_thread(strict.asked, "There are now") == 1


@pytest.fixture
def offering(case: Case, tmp_path: Path) -> Iterator[None]:
    """Let the case be at an authority with certificates of several kinds."""
    kinds = {name: {"description": name, "validityPeriod": seconds} for name, seconds in LIVES.items()}
    case.pebble = Pebble(tmp_path / "offering", program=NEWER, profiles=kinds).start()
    try:
        yield
    finally:
        case.pebble.stop()


@pytest.mark.skipif(not NEWER.exists(), reason="a Pebble with profiles is built by make peers-acme where Go is")
@pytest.mark.usefixtures("offering")
@pytest.mark.parametrize("profile", LIVES)
async def test_a_certificate_is_of_the_profile_that_the_issuer_names(case: Case, profile: str) -> None:
    await case.add(case.issuer(profile=profile))
    (version,) = await case.versions(await case.obtain())
    leaf = x509.load_der_x509_certificate(version["der"])
    seconds = (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds()
    assert seconds + 1 == LIVES[profile]  # the last second counts (RFC 5280 section 4.1.2.5)
    renew_at = await case.world.value("SELECT renew_at FROM holders")
    assert leaf.not_valid_before_utc < renew_at < leaf.not_valid_after_utc


@pytest.mark.skipif(not NEWER.exists(), reason="a Pebble with profiles is built by make peers-acme where Go is")
@pytest.mark.usefixtures("offering")
async def test_a_profile_that_the_authority_has_not_is_named_with_those_it_has(case: Case) -> None:
    await case.add(case.issuer(profile="forever"))
    certificate_id = await case.ask()
    await case.work()
    (order,) = await case.orders(certificate_id)
    offered = "classic, shortlived, tlsserver"
    cause = f"the authority has no profile 'forever'; set config.profile to one that it has: {offered}"
    assert (order["status"], order["problem"], order["authority_status"]) == ("failed", cause, "")
    assert cause in (await case.world.get(f"/api/v1/certificates/{certificate_id}"))["status"]["reason"]
    assert case.pebble.asked("/order-plz") == 0
    mended = {"config": case.issuer(profile="classic")["config"]}
    done(await case.world.call("PATCH", f"/api/v1/issuers/{ISSUER}", json=mended))
    await case.world.post(f"/api/v1/certificates/{certificate_id}/renew")
    await case.hand_in()
    await case.work()
    assert len(await case.versions(certificate_id)) == 1
