"""Power cuts, and an agent that is alone with them: no coordinator gives the work again before the repair is judged.

The process dies on the way of a deployment, then an agent starts and repairs. Every point, with a coordinator, is in
tests/journeys/crash.

With the layouts ``current`` and ``combined`` the configured paths show one complete pair at every instant; with
``separate`` they do after the repair.
"""

from __future__ import annotations

import signal

import msgspec
import pytest

from tests.agent.deployment.authority import Issued
from tests.agent.deployment.world import World, free_port, shows

pytestmark = pytest.mark.slow

FORWARD = [
    "locked", "staged", "validated", "numbered", "journaled", "published", "checked", "reloaded", "served", "settled",
    "pruned",
]  # fmt: skip
BACKWARD = [
    "undo_switched", "undo_file", "undo_file:2", "unnumbered", "discarded", "undo_files", "undo_noted", "undo_reloaded",
]  # fmt: skip
SETTLED = {"settled", "pruned"}


def died(world: World, issued: Issued, config: dict[str, object], point: str) -> None:
    done = world.in_process(issued.item(config), issued.key_pem, crash=f"deploy.{point}")
    assert done.returncode == -signal.SIGKILL, (done.stdout, done.stderr)


async def repaired(world: World) -> None:
    for message in await world.deployer().repair():
        assert message.endswith("was undone, the previous state is back")
    assert world.journals() == []


@pytest.mark.trio
@pytest.mark.parametrize("layout", ["current", "combined"])
@pytest.mark.parametrize("point", FORWARD)
async def test_renewal_interrupted(world: World, layout: str, point: str) -> None:
    old, new = await world.install(layout), world.authority.issue()
    died(world, new, world.config(layout), point)
    assert world.holds(old, layout) or world.holds(new, layout)
    await repaired(world)
    expected = new if point in SETTLED else old
    assert world.holds(expected, layout)
    shows(world.nginx.port, expected)
    assert (await world.deploy(new, layout)).outcome in {"served", "unchanged"}
    assert world.holds(new, layout)
    assert world.leftovers() == []


@pytest.mark.trio
@pytest.mark.parametrize("point", ["beside", "beside:2", "beside:3", "replaced", "replaced:2", "published", "reloaded"])
async def test_renewal_of_separate_files_interrupted(world: World, point: str) -> None:
    old, new = await world.install("separate"), world.authority.issue()
    died(world, new, world.config("separate"), point)
    await repaired(world)
    assert world.holds(old)
    shows(world.nginx.port, old)
    assert (await world.deploy(new, "separate")).outcome == "served"
    assert world.leftovers() == []


@pytest.mark.trio
@pytest.mark.parametrize(
    "layout, point",
    [
        ("current", "adopted"),
        ("current", "numbered"),
        ("current", "linked"),
        ("current", "linked:2"),
        ("current", "link_beside"),
        ("current", "link_beside:4"),
        ("current", "published"),
        ("separate", "adopted"),
        ("separate", "replaced"),
        ("separate", "published"),
    ],
)
@pytest.mark.parametrize("links", [False, True], ids=["files", "links"])
async def test_adoption_interrupted(world: World, layout: str, point: str, links: bool) -> None:
    old, new = world.authority.issue(), world.authority.issue()
    put = world.folder / "archive" if links else world.live
    put.mkdir(exist_ok=True)
    (put / "a.crt").write_bytes(old.cert_pem)
    (put / "a.key").write_bytes(old.key_pem)
    if links:
        world.cert.symlink_to(put / "a.crt")
        world.key.symlink_to(put / "a.key")
    world.expect_tls()
    world.nginx.start()
    died(world, new, world.config(layout), point)
    if layout == "current":
        assert world.holds(old) or world.holds(new)
    await repaired(world)
    assert world.holds(old)
    assert world.cert.is_symlink() == world.key.is_symlink() == links
    assert (await world.deploy(new, layout)).outcome == "served"


@pytest.mark.trio
@pytest.mark.parametrize(
    "layout, point",
    [
        ("current", "link_beside"),
        ("current", "link_beside:3"),
        ("current", "linked"),
        ("current", "linked:2"),
        ("current", "published"),
        ("separate", "beside:2"),
        ("separate", "replaced"),
    ],
)
async def test_first_install_interrupted(world: World, layout: str, point: str) -> None:
    """The links dangle until the one rename, so the server sees nothing or a complete pair."""
    world.nginx.write_config(None, None)
    world.nginx.start()
    new = world.authority.issue()
    died(world, new, world.config(layout), point)
    if layout == "current":
        assert world.cert.exists() == world.key.exists()
    await repaired(world)
    assert not world.cert.is_symlink()
    assert not world.key.is_symlink()
    assert list(world.live.iterdir()) == []
    world.expect_tls()
    assert (await world.deploy(new, layout)).outcome == "served"


@pytest.mark.trio
@pytest.mark.parametrize("layout", ["current", "separate"])
@pytest.mark.parametrize("point", BACKWARD)
async def test_undo_interrupted(world: World, layout: str, point: str) -> None:
    old, new = await world.install(layout), world.authority.issue()
    died(world, new, world.config(layout, probe={"port": free_port(), "timeout_s": 0.2}), point)
    if layout == "current":
        assert world.holds(old)
    await repaired(world)
    assert world.holds(old)
    shows(world.nginx.port, old)
    assert (await world.deploy(new, layout)).outcome == "served"


@pytest.mark.trio
@pytest.mark.parametrize("point", BACKWARD)
async def test_undo_of_an_adoption_interrupted(world: World, point: str) -> None:
    """The originals are back in the end, even when the copies they came from are gone already."""
    old, new = world.authority.issue(), world.authority.issue()
    world.cert.write_bytes(old.cert_pem)
    world.key.write_bytes(old.key_pem)
    world.expect_tls()
    world.nginx.start()
    died(world, new, world.config(probe={"port": free_port(), "timeout_s": 0.2}), point)
    assert world.holds(old)
    await repaired(world)
    assert world.holds(old)
    assert sorted(world.live.iterdir()) == [world.cert, world.key]


@pytest.mark.trio
async def test_a_repair_interrupted_is_repaired(world: World) -> None:
    old, new = await world.install(), world.authority.issue()
    died(world, new, world.config(), "reloaded")
    assert world.in_process(None, crash="deploy.undo_switched").returncode == -signal.SIGKILL
    done = world.in_process(None)
    assert done.returncode == 0, done.stderr.decode()
    messages = msgspec.json.decode(done.stdout)
    assert messages == ["tgt-web: an interrupted deployment was undone, the previous state is back"]
    assert world.holds(old)
    shows(world.nginx.port, old)


@pytest.mark.trio
async def test_a_new_deployment_finishes_the_undo_first(world: World) -> None:
    """An agent that is asked before it has repaired does not take the interrupted state for the old one."""
    old, new = await world.install("separate"), world.authority.issue()
    died(world, new, world.config("separate"), "replaced")
    broken = world.authority.issue()
    outcome = await world.deploy(broken, "separate", probe={"port": free_port(), "timeout_s": 0.2})
    assert outcome.undo == "done"
    assert world.holds(old)
    assert world.journals() == []


@pytest.mark.trio
async def test_a_damaged_journal_is_named_and_blocks_only_its_target(world: World) -> None:
    await world.install()
    (world.state / "journal" / "tgt-web.json").write_text("{")
    outcome = await world.deploy(world.authority.issue())
    assert outcome.failure is not None
    assert "tgt-web.json is damaged" in outcome.failure.cause
    (message,) = await world.deployer().repair()
    assert "could not be undone" in message
    issued = world.authority.issue()
    config = world.config(cert_path=str(world.live / "b.crt"), key_path=str(world.live / "b.key"), probe={})
    world.nginx.write_config(world.live / "b.crt", world.live / "b.key")
    assert (await world.deployer().deploy(issued.item(config, target_id="tgt-b"), issued.secret)).outcome == "served"
