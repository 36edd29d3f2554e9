"""Which coordinator is believed: pins by file and by hash, roots that were replaced, impostors."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trustme

from agent.coordinator import Coordinator
from agent.identity import Identity, load_identity
from agent.settings import Settings
from agent.trust import trust
from core.errors import Misconfigured, Transient
from core.wire import Metadata, Work
from tests.agent.double import Double, Reply, problem

pytestmark = pytest.mark.trio
MakeSettings = Callable[..., Settings]


def sha256(root: trustme.CA) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(root.cert_pem.bytes().decode())).hexdigest()


def by_hash(value: str) -> dict[str, str | None]:
    return {"CERTCTL_SERVER_CA_BUNDLE_PATH": None, "CERTCTL_SERVER_CA_SHA256": value}


async def poll(settings: Settings, identity: Identity) -> Work:
    async with Coordinator(settings.server_url, identity, Metadata(), await trust(settings)) as client:
        return await client.poll("boot1234", [], 0)


def trusted(context: ssl.SSLContext) -> list[bytes]:
    return context.get_ca_certs(binary_form=True)


async def test_a_bundle_is_believed_and_nothing_else(
    make_settings: MakeSettings, double: Double, tmp_path: Path, identity: Identity
) -> None:
    assert await poll(make_settings(), identity) == Work()
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    with pytest.raises(Transient) as caught:
        await poll(make_settings(CERTCTL_SERVER_CA_BUNDLE_PATH=str(other)), identity)
    assert "its certificate is not trusted" in caught.value.detail
    assert "CERTCTL_SERVER_CA_BUNDLE_PATH" in caught.value.detail
    with pytest.raises(Transient, match="its certificate is not trusted"):
        await poll(make_settings(CERTCTL_SERVER_CA_BUNDLE_PATH=None), identity)


async def test_another_name_is_not_believed(make_settings: MakeSettings, double: Double, identity: Identity) -> None:
    settings = make_settings(CERTCTL_SERVER_URL=f"https://localhost:{double.port}")
    with pytest.raises(Transient, match="Hostname mismatch"):
        await poll(settings, identity)


@pytest.mark.parametrize("content", [None, b"", b"no PEM"])
async def test_a_bundle_that_holds_none_is_told(
    make_settings: MakeSettings, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "broken.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Misconfigured, match=f"CERTCTL_SERVER_CA_BUNDLE_PATH: {path} cannot be used"):
        await trust(make_settings(CERTCTL_SERVER_CA_BUNDLE_PATH=str(path)))


async def test_the_root_is_fetched_once_and_kept(
    make_settings: MakeSettings, double: Double, state_dir: Path, identity: Identity
) -> None:
    settings = make_settings(**by_hash(sha256(double.authority)))
    for _ in range(2):
        assert await poll(settings, identity) == Work()
    (asked,) = double.of("root")
    assert "authorization" not in asked.headers
    kept = state_dir / "coordinator-ca.crt"
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.write_bytes(b"damaged")
    assert await poll(settings, identity) == Work()
    assert len(double.of("root")) == 2


async def test_another_root_is_refused_and_not_kept(
    make_settings: MakeSettings, double: Double, state_dir: Path
) -> None:
    for value in (sha256(trustme.CA()), "0" * 64):
        with pytest.raises(Misconfigured, match="CERTCTL_SERVER_CA_SHA256 is not the hash"):
            await trust(make_settings(**by_hash(value)))
    assert not (state_dir / "coordinator-ca.crt").exists()


async def test_nothing_that_comes_with_the_root_is_believed(make_settings: MakeSettings, double: Double) -> None:
    """An impostor may show the true root: what it appends must not be trusted."""
    impostor = trustme.CA().cert_pem.bytes()
    for body in (double.root_pem + impostor, b"# the root\n" + double.root_pem + impostor):
        double.instead["root"] = [Reply(body=body)]
        context = await trust(make_settings(**by_hash(sha256(double.authority))))
        assert trusted(context) == [ssl.PEM_cert_to_DER_cert(double.root_pem.decode())]
    double.instead["root"] = [Reply(body=impostor + double.root_pem)]
    with pytest.raises(Misconfigured):
        await trust(
            make_settings(CERTCTL_STATE_DIR=str(make_settings().state_dir.parent), **by_hash(sha256(double.authority)))
        )


async def test_a_replaced_root_is_not_believed_until_the_setting_names_it(
    make_settings: MakeSettings, double: Double, identity: Identity, nursery: trio.Nursery
) -> None:
    old = make_settings(**by_hash(sha256(double.authority)))
    assert await poll(old, identity) == Work()
    replaced = Double()
    replaced.agents = double.agents
    await nursery.start(replaced.serve)
    moved = {"CERTCTL_SERVER_URL": replaced.url}
    with pytest.raises(Transient, match="its certificate is not trusted"):
        await poll(make_settings(**moved, **by_hash(old.ca_sha256)), identity)
    new = make_settings(**moved, **by_hash(sha256(replaced.authority)))
    assert await poll(new, identity) == Work()
    assert trusted(await trust(new)) == [ssl.PEM_cert_to_DER_cert(replaced.root_pem.decode())]


@pytest.mark.parametrize("reply", [Reply(502, b"bad gateway"), problem(503, "transient")])
async def test_a_coordinator_that_starts_is_waited_for(
    make_settings: MakeSettings, double: Double, reply: Reply
) -> None:
    double.instead["root"] = [reply]
    with pytest.raises(Transient, match="does not show its root now"):
        await trust(make_settings(**by_hash(sha256(double.authority))))


async def test_a_coordinator_without_a_root_of_its_own_asks_for_a_file(
    make_settings: MakeSettings, double: Double
) -> None:
    double.instead["root"] = [problem(404, "not-found")]
    with pytest.raises(Misconfigured, match="set CERTCTL_SERVER_CA_BUNDLE_PATH instead"):
        await trust(make_settings(**by_hash("0" * 64)))


async def test_an_agent_without_an_identity_can_fetch_the_root(make_settings: MakeSettings, double: Double) -> None:
    settings = make_settings(**by_hash(sha256(double.authority)))
    assert load_identity(settings.state_dir).agent_id == ""
    assert trusted(await trust(settings))
