"""Deployments that succeed, on a real nginx: each layout, renewal, nothing to do, retention, odd paths."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.agent.deployment.authority import Authority
from tests.agent.deployment.world import World, shows

STEPS = ["staged", "validated", "published", "checked", "reloaded", "served"]
LAYOUTS = ["current", "separate", "combined"]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.trio
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_first_install_and_renewal_are_served(world: World, layout: str) -> None:
    first = await world.install(layout)
    assert world.holds(first, layout)
    second = world.authority.issue()
    outcome = await world.deploy(second, layout)
    assert outcome.outcome == "served", outcome
    assert [step.name for step in outcome.steps] == STEPS
    assert outcome.served_fingerprint == second.fingerprint
    shows(world.nginx.port, second)
    assert outcome.failure is None
    assert outcome.undo == "not_needed"
    assert world.holds(second, layout)
    assert world.journals() == world.leftovers() == []


@pytest.mark.trio
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_modes_are_those_of_the_layouts(world: World, layout: str) -> None:
    await world.install(layout)
    assert world.cert.is_symlink() == (layout == "current")
    assert mode(world.cert) == (0o600 if layout == "combined" else 0o644)
    if layout != "combined":
        assert mode(world.key) == 0o600


@pytest.mark.trio
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_same_version_again_reloads_nothing(world: World, layout: str) -> None:
    issued = await world.install(layout)
    workers = world.nginx.workers()
    outcome = await world.deploy(issued, layout)
    assert outcome.outcome == "unchanged"
    assert outcome.served_fingerprint == issued.fingerprint
    assert world.nginx.workers() == workers


@pytest.mark.trio
async def test_renewal_reloads(world: World) -> None:
    """The counterpart of the test above: new workers are how a reload shows."""
    await world.install()
    workers = world.nginx.workers()
    await world.deploy(world.authority.issue())
    assert world.nginx.workers() != workers


@pytest.mark.trio
async def test_files_in_place_that_are_not_served_are_loaded(world: World) -> None:
    world.nginx.write_config(None, None)
    world.nginx.start()
    issued = world.authority.issue()
    failed = await world.deploy(issued, probe={"timeout_s": 0.2})
    assert failed.outcome == "failed"
    world.expect_tls()
    assert (await world.deploy(issued)).outcome == "served"
    world.nginx.stop()
    world.nginx.write_config(None, None)
    world.nginx.start()
    world.expect_tls()
    outcome = await world.deploy(issued)
    assert outcome.outcome == "served"
    assert [step.name for step in outcome.steps] == ["checked", "reloaded", "served"]


@pytest.mark.trio
async def test_a_chain_file_holds_the_chain_alone(world: World) -> None:
    issued = await world.install(chain_path=str(world.chain))
    assert world.chain.read_bytes() == issued.chain_pem
    assert world.cert.read_bytes() == issued.cert_pem


@pytest.mark.trio
async def test_a_chain_file_can_be_added_later(world: World) -> None:
    await world.install()
    issued = world.authority.issue()
    outcome = await world.deploy(issued, chain_path=str(world.chain))
    assert outcome.outcome == "served", outcome
    assert world.chain.read_bytes() == issued.chain_pem


@pytest.mark.trio
@pytest.mark.parametrize("before, after", [("current", "separate"), ("separate", "current")])
async def test_the_layout_can_be_changed(world: World, before: str, after: str) -> None:
    await world.install(before)
    issued = world.authority.issue()
    outcome = await world.deploy(issued, after)
    assert outcome.outcome == "served", outcome
    assert world.holds(issued)
    assert world.cert.is_symlink() == (after == "current")


@pytest.mark.trio
async def test_three_earlier_versions_are_kept(world: World) -> None:
    await world.install()
    for _ in range(5):
        assert (await world.deploy(world.authority.issue())).outcome == "served"
    versions = world.live / ".certctl" / "tgt-web" / "versions"
    assert sorted(int(entry.name) for entry in versions.iterdir()) == [2, 3, 4, 5]


@pytest.mark.trio
async def test_no_earlier_version_is_kept_when_none_is_wanted(world: World) -> None:
    await world.install(keep=0)
    assert (await world.deploy(world.authority.issue(), keep=0)).outcome == "served"
    versions = world.live / ".certctl" / "tgt-web" / "versions"
    assert [entry.name for entry in versions.iterdir()] == ["1"]


@pytest.mark.trio
@pytest.mark.parametrize("name", ["a folder with spaces", "f" * 120, "ünïcode"])
async def test_odd_folders(tmp_path: Path, authority: Authority, name: str) -> None:
    world = World(tmp_path, authority, live=name)
    try:
        await world.install()
    finally:
        world.close()


@pytest.mark.trio
async def test_missing_folders_are_made(world: World) -> None:
    world.cert = world.live / "sites" / "a" / "cert.pem"
    world.key = world.live / "keys" / "a.pem"
    assert world.holds(await world.install())


@pytest.mark.trio
async def test_configured_modes_win(world: World) -> None:
    await world.install(cert_mode="0600", key_mode="0640", owner=str(world.live.stat().st_uid))
    assert (mode(world.cert), mode(world.key)) == (0o600, 0o640)


@pytest.mark.trio
async def test_modes_of_existing_files_are_kept_but_keys_are_closed(world: World) -> None:
    old = world.authority.issue()
    world.cert.write_bytes(old.cert_pem)
    world.key.write_bytes(old.key_pem)
    world.cert.chmod(0o640)
    world.key.chmod(0o644)
    world.expect_tls()
    world.nginx.start()
    assert (await world.deploy(world.authority.issue())).outcome == "served"
    assert (mode(world.cert), mode(world.key)) == (0o640, 0o640)


@pytest.mark.trio
@pytest.mark.parametrize("layout", ["current", "separate"])
async def test_plain_files_are_adopted(world: World, layout: str) -> None:
    old = world.authority.issue()
    world.cert.write_bytes(old.cert_pem)
    world.key.write_bytes(old.key_pem)
    world.expect_tls()
    world.nginx.start()
    new = world.authority.issue()
    assert (await world.deploy(new, layout)).outcome == "served"
    assert world.holds(new)
    version = world.live / ".certctl" / "tgt-web" / "versions" / "0"
    assert (version / "certificate.pem").read_bytes() == old.cert_pem
    assert (version / "key.pem").read_bytes() == old.key_pem


@pytest.mark.trio
@pytest.mark.parametrize("layout", ["current", "separate"])
async def test_links_of_another_tool_are_replaced_and_their_files_left_alone(world: World, layout: str) -> None:
    old = world.authority.issue()
    archive = world.folder / "archive"
    archive.mkdir()
    (archive / "cert1.pem").write_bytes(old.cert_pem)
    (archive / "key1.pem").write_bytes(old.key_pem)
    world.cert.symlink_to("../archive/cert1.pem")
    world.key.symlink_to("../archive/key1.pem")
    world.expect_tls()
    world.nginx.start()
    new = world.authority.issue()
    assert (await world.deploy(new, layout)).outcome == "served"
    assert world.holds(new)
    assert (archive / "cert1.pem").read_bytes() == old.cert_pem
    assert (archive / "key1.pem").read_bytes() == old.key_pem


@pytest.mark.trio
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: nobody else may label files where SELinux is off")
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_the_selinux_context_is_kept(world: World, layout: str) -> None:
    """A file that was labelled on purpose keeps its label, renewed and undone."""
    await world.install(layout)
    label = b"system_u:object_r:httpd_config_t:s0\0"
    os.setxattr(world.cert, "security.selinux", label)
    await world.deploy(world.authority.issue(), layout)
    assert os.getxattr(world.cert, "security.selinux") == label
    world.nginx.write_config(world.cert, world.key, extra="broken")
    assert (await world.deploy(world.authority.issue(), layout)).undo == "done"
    assert os.getxattr(world.cert, "security.selinux") == label
