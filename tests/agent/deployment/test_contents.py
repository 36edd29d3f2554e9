"""What a real nginx serves from files with other chains, orders and formats, and what else stays in them."""

from __future__ import annotations

import subprocess

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.agent.deployment.authority import Issued
from tests.agent.deployment.world import World, shows

pytestmark = pytest.mark.trio


def sent(port: int) -> int:
    """Return how many certificates a server sends, by the words of OpenSSL."""
    argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "a.test", "-showcerts"]
    shown = subprocess.run(argv, input=b"", capture_output=True, check=False, timeout=10).stdout
    return shown.count(b"-----BEGIN CERTIFICATE-----")


@pytest.mark.parametrize("chain, count", [("leaf_only", 1), ("without_root", 2), ("with_root", 3)])
async def test_the_chain_that_was_asked_for_is_sent(world: World, chain: str, count: int) -> None:
    world.nginx.write_config(None, None)
    world.nginx.start()
    world.expect_tls("combined")
    issued = world.authority.issue()
    config = world.config("combined", chain=chain, combined_order=["certificate", "chain", "key"])
    item = msgspec.structs.replace(issued.item(config), root=world.authority.root.public_bytes(Encoding.DER))
    outcome = await world.deployer().deploy(item, issued.secret)
    assert outcome.outcome == "served", outcome
    assert sent(world.nginx.port) == count


async def test_nginx_refuses_the_chain_before_the_certificate_and_goes_on(world: World) -> None:
    first = await world.install("combined")
    order = ["key", "chain", "certificate"]
    outcome = await world.deploy(world.authority.issue(), "combined", combined_order=order)
    assert outcome.failure is not None
    assert (outcome.failure.step, outcome.undo) == ("validated", "not_needed")
    shows(world.nginx.port, first)


async def test_a_root_of_somebody_else_is_not_known(world: World) -> None:
    issued = world.authority.issue()
    item = msgspec.structs.replace(issued.item(world.config(chain="with_root")), root=issued.chain[1])
    outcome = await world.deployer().deploy(item, issued.secret)
    assert outcome.failure is not None
    assert "does not know this issuer's root" in outcome.failure.cause


@pytest.mark.parametrize("layout", ["current", "separate", "combined"])
async def test_dh_parameters_stay_through_renewal_repetition_and_undo(world: World, layout: str) -> None:
    first = await world.install(layout)
    parameters = b"-----BEGIN DH PARAMETERS-----\nMAYCAQUCAQI=\n-----END DH PARAMETERS-----\n"
    world.cert.write_bytes(world.cert.read_bytes() + parameters)
    assert (await world.deploy(first, layout)).outcome == "unchanged"
    second = world.authority.issue()
    assert (await world.deploy(second, layout)).outcome == "served"
    expected = certificate_file(second, layout) + parameters
    assert world.cert.read_bytes() == expected
    assert (await world.deploy(second, layout)).outcome == "unchanged"
    world.nginx.write_config(None, None)
    failed = await world.deploy(world.authority.issue(), layout, probe={"timeout_s": 0.3})
    assert (failed.outcome, failed.undo) == ("failed", "done")
    assert world.cert.read_bytes() == expected


async def test_a_key_in_the_format_of_old_programs_is_served(world: World) -> None:
    issued = await world.install(key_format="traditional")
    assert world.key.read_bytes().startswith(b"-----BEGIN EC PRIV")
    shows(world.nginx.port, issued)
    assert (await world.deploy(issued)).outcome == "served"
    assert world.key.read_bytes() == issued.key_pem


def certificate_file(issued: Issued, layout: str) -> bytes:
    return issued.key_pem + issued.cert_pem if layout == "combined" else issued.cert_pem
