"""The local issuer inside the coordinator: its key outlives restarts, its files are read, relying parties answered."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from connectors.issuers.local import LocalIssuer, make_root
from coordinator.issuers import service as issuers
from core import keys, wire
from core.certificates import chain_to_pem
from core.errors import Misconfigured
from tests.connectors.issuers.test_local import NOW, ROOT, deep_root, sub_authority, verified
from tests.coordinator.world import FakeAgent, World, csr_for, open_world, problem, variables

pytestmark = pytest.mark.anyio


async def issued(world: World, agent: FakeAgent, common_name: str = "www.example.com") -> wire.CSRAnswer:
    await world.certificate(agent_id=agent.id, common_name=common_name)
    return await agent.issue(await agent.item())


def paths_in(leaf: x509.Certificate) -> tuple[str, str]:
    """Return the paths of the issuing certificate and of the CRL that a leaf names; both are of the public URL."""
    (access,) = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    (point,) = leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert access.access_method == AuthorityInformationAccessOID.CA_ISSUERS
    urls = [urlsplit(url) for url in (access.access_location.value, (point.full_name or [])[0].value)]
    assert {f"{url.scheme}://{url.netloc}" for url in urls} == {"http://pki.test"}
    return urls[0].path, urls[1].path


async def test_a_relying_party_gets_from_the_leaf_to_issuer_and_crl_over_plain_http(
    world: World, tmp_path: Path
) -> None:
    answer = await issued(world, await world.agent())
    leaf = x509.load_der_x509_certificate(answer.chain[0])
    ca_path, crl_path = paths_in(leaf)
    ca, crl = await world.pki.get(ca_path), await world.pki.get(crl_path)
    assert (ca.headers["content-type"], crl.headers["content-type"]) == (
        "application/pkix-cert",
        "application/pkix-crl",
    )
    for response in (ca, crl):
        assert response.headers["cache-control"].startswith("public, max-age=")
        assert response.headers["etag"]
        assert "strict-transport-security" not in response.headers
    leaf.verify_directly_issued_by(x509.load_der_x509_certificate(ca.content))
    assert verified(tmp_path, answer.chain[0], ca.content).endswith(": OK\n")
    read = x509.load_der_x509_crl(crl.content)
    assert read.is_signature_valid(x509.load_der_x509_certificate(ca.content).public_key())  # type: ignore[arg-type]  # an EC key
    for path, same in (("ca", ca), ("crl", crl)):
        current = await world.pki.get(f"/.well-known/pki/{path}/iss-local")
        assert current.content == same.content
        assert (await world.http.get(f"/.well-known/pki/{path}/iss-local")).content == same.content


async def test_the_plain_listener_serves_nothing_else(world: World) -> None:
    for path in ("/health", "/api/v1/certificates", "/api/v1/openapi.json", "/.well-known/pki/ca/none"):
        problem(await world.pki.get(path), 404)
    problem(await world.pki.post("/.well-known/pki/crl/iss-local"), 405)


async def test_a_crl_is_kept_until_half_of_its_time_and_then_has_the_next_number(world: World) -> None:
    async def number() -> int:
        crl = x509.load_der_x509_crl((await world.pki.get("/.well-known/pki/crl/iss-local")).content)
        assert crl.last_update_utc <= world.clock.now() < (crl.next_update_utc or world.clock.now())
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number

    assert [await number(), await number()] == [1, 1]
    world.clock.advance(timedelta(hours=12) - timedelta(seconds=1))
    assert await number() == 1
    world.clock.advance(timedelta(seconds=1))
    assert [await number(), await number()] == [2, 2]
    await world.execute("UPDATE issuers SET enabled = false")
    world.clock.advance(timedelta(days=30))
    assert await number() == 3, "also of an issuer that was switched off"


async def test_what_was_revoked_stands_in_the_crl_until_it_expires(world: World) -> None:
    answer = await issued(world, await world.agent())
    await world.execute(
        "UPDATE certificate_versions SET revoked_at = $1, revocation_reason = 'superseded'", world.clock.now()
    )
    serial = x509.load_der_x509_certificate(answer.chain[0]).serial_number
    for wanted in (True, False):
        crl = x509.load_der_x509_crl((await world.pki.get("/.well-known/pki/crl/iss-local")).content)
        assert (crl.get_revoked_certificate_by_serial_number(serial) is not None) is wanted
        world.clock.advance(timedelta(days=60))


async def test_the_key_is_the_same_after_a_restart_and_on_a_second_replica(database_url: str, tmp_path: Path) -> None:
    async with open_world(variables(database_url, tmp_path / "one")) as first:
        one = (await first.pki.get("/.well-known/pki/ca/iss-local")).content
        async with open_world(variables(database_url, tmp_path / "two")) as second:
            assert (await second.pki.get("/.well-known/pki/ca/iss-local")).content == one
            crls = [(await each.pki.get("/.well-known/pki/crl/iss-local")).content for each in (first, second)]
            assert crls[0] == crls[1]
    async with open_world(variables(database_url, tmp_path / "one")) as again:
        assert (await again.pki.get("/.well-known/pki/ca/iss-local")).content == one
        assert await again.value("SELECT count(*) FROM issuer_keys") == 1


async def test_another_encryption_key_stops_the_start_by_the_variables_name(database_url: str, tmp_path: Path) -> None:
    right = variables(database_url, tmp_path)
    async with open_world(right):
        pass
    wrong = {**right, "CERTCTL_CONFIG_ENCRYPTION_KEY": "another-key-another-key-another-key"}
    with pytest.raises(Misconfigured, match="CERTCTL_CONFIG_ENCRYPTION_KEY"):
        async with open_world(wrong):
            pass
    previous = {**wrong, "CERTCTL_CONFIG_ENCRYPTION_KEY_PREVIOUS": right["CERTCTL_CONFIG_ENCRYPTION_KEY"]}
    async with open_world(previous) as world:
        await issued(world, await world.agent())
    # That start sealed everything anew, so the key before is needed no more.
    async with open_world(wrong) as world:
        await issued(world, await world.agent("web-2"))


async def test_the_encryption_key_is_made_once_for_its_owner_only(database_url: str, tmp_path: Path) -> None:
    environment = {**variables(database_url, tmp_path), "CERTCTL_CONFIG_ENCRYPTION_KEY": ""}
    async with open_world(environment):
        made = (tmp_path / "encryption.key").read_bytes()
        assert (tmp_path / "encryption.key").stat().st_mode & 0o777 == 0o600
    async with open_world(environment):
        assert (tmp_path / "encryption.key").read_bytes() == made
    (tmp_path / "encryption.key").unlink()
    with pytest.raises(Misconfigured, match="CERTCTL_CONFIG_ENCRYPTION_KEY"):
        async with open_world(environment):
            pass


def in_files(folder: Path, issuer: LocalIssuer) -> dict[str, str]:
    """Write an authority as its operator would; return the variables that name it."""
    certificate, key = folder / "sub.pem", folder / "sub.key"
    certificate.write_bytes(chain_to_pem(issuer.chain))
    key.write_bytes(keys.to_pem(issuer.key).reveal())
    return {"CERTCTL_CA_CERT_PATH": str(certificate), "CERTCTL_CA_KEY_PATH": str(key)}


async def test_a_subordinate_authority_from_files_takes_over_and_the_old_key_keeps_its_crl(
    database_url: str, tmp_path: Path
) -> None:
    async with open_world(variables(database_url, tmp_path)) as world:
        agent = await world.agent()
        own = await issued(world, agent)
    top = deep_root()
    below = sub_authority(top)
    files = in_files(tmp_path, below)
    for environment in (variables(database_url, tmp_path, **files), variables(database_url, tmp_path)):
        async with open_world(environment) as world:
            agent.world = world
            answer = await issued(world, agent, f"n{len(environment)}.example.com")
            assert answer.chain[1:] == below.chain[:1], "the chain is served without the root"
            assert verified(tmp_path, answer.chain[0], top.chain[0], answer.chain[1:]).endswith(": OK\n")
            for leaf in (own.chain[0], answer.chain[0]):
                ca_path, crl_path = paths_in(x509.load_der_x509_certificate(leaf))
                ca = x509.load_der_x509_certificate((await world.pki.get(ca_path)).content)
                crl = x509.load_der_x509_crl((await world.pki.get(crl_path)).content)
                assert crl.is_signature_valid(ca.public_key())  # type: ignore[arg-type]  # EC keys
            assert await world.value("SELECT count(*) FROM issuer_keys") == 2
            assert await world.value("SELECT count(*) FROM audit_events WHERE action = 'issuer.key_added'") == 2


@pytest.mark.parametrize(
    "issuer,variable",
    [
        (LocalIssuer(ROOT.key, sub_authority().chain), "CERTCTL_CA_KEY_PATH"),
        (sub_authority(ca=False, usage=False), "CERTCTL_CA_CERT_PATH"),
        (sub_authority(days=-1, since=timedelta(days=9)), "CERTCTL_CA_CERT_PATH"),
    ],
    ids=["wrong key", "no CA", "expired"],
)
async def test_files_that_are_no_authority_stop_the_start(
    database_url: str, tmp_path: Path, issuer: LocalIssuer, variable: str
) -> None:
    with pytest.raises(Misconfigured, match=variable):
        async with open_world(variables(database_url, tmp_path, **in_files(tmp_path, issuer)), NOW):
            pass


@pytest.mark.parametrize("damage", ["missing", "empty", "not PEM", "swapped"])
async def test_files_that_cannot_be_read_stop_the_start(database_url: str, tmp_path: Path, damage: str) -> None:
    files = in_files(tmp_path, sub_authority())
    if damage == "swapped":
        files = dict(zip(files, reversed(files.values()), strict=True))
    elif damage == "missing":
        await anyio.Path(files["CERTCTL_CA_KEY_PATH"]).unlink()
    else:
        await anyio.Path(files["CERTCTL_CA_CERT_PATH"]).write_text("" if damage == "empty" else "no PEM")
    with pytest.raises(Misconfigured, match=r"CERTCTL_CA_(CERT|KEY)_PATH"):
        async with open_world(variables(database_url, tmp_path, **files)):
            pass


async def test_no_certificate_outlives_its_authority(world: World) -> None:
    agent = await world.agent()
    await world.certificate(agent_id=agent.id, common_name="a.example.com", lifetime_s=398 * 86400)
    async with world.ctx.db.transaction() as tx:
        authority = (await issuers.signer(world.ctx, tx, issuers.LOCAL)).certificate
    world.clock.advance(authority.not_valid_after_utc - world.clock.now() - timedelta(days=30))
    leaf = x509.load_der_x509_certificate((await agent.issue(await agent.item())).chain[0])
    assert leaf.not_valid_after_utc == authority.not_valid_after_utc
    world.clock.advance(timedelta(days=31))
    await world.certificate(agent_id=agent.id, common_name="b.example.com")
    item = await agent.item()
    assert "expired" in problem(await agent.submit(item, csr_for(item)), 422)["detail"]


async def test_without_a_public_listener_leaves_name_no_urls(database_url: str, tmp_path: Path) -> None:
    off = variables(database_url, tmp_path, CERTCTL_PKI_PORT="0")
    del off["CERTCTL_PKI_URL"]
    async with open_world(off) as world:
        leaf = x509.load_der_x509_certificate((await issued(world, await world.agent())).chain[0])
        kinds = {type(extension.value) for extension in leaf.extensions}
        assert not kinds & {x509.AuthorityInformationAccess, x509.CRLDistributionPoints}


def test_a_root_is_made_with_the_clock_it_was_given() -> None:
    assert make_root("x", NOW).certificate.not_valid_after_utc == NOW + timedelta(days=3650)
