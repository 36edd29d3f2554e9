"""A deployment tried out on a real nginx: it says what a deployment would, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.wire import TrialItem, TrialReport
from tests.agent.deployment.world import World

pytestmark = pytest.mark.trio


def everything(world: World) -> dict[Path, tuple[bytes, int]]:
    """Return what stands in the folders of the target."""
    return {
        path: (b"" if path.is_dir() else path.read_bytes(), path.lstat().st_mode)
        for path in world.live.parent.rglob("*")
        if world.nginx.folder not in path.parents and world.state not in path.parents
    }


async def try_out(world: World, layout: str = "current", **more: object) -> TrialReport:
    item = TrialItem("trl-1", "tgt-1", "nginx", world.config(layout, **more))
    return await world.deployer().try_out(item)


@pytest.mark.parametrize("layout", ["current", "separate", "combined"])
async def test_a_target_in_use_is_tried_and_stays_as_it_is(world: World, layout: str) -> None:
    issued = await world.install(layout)
    before, workers = everything(world), world.nginx.workers()
    report = await try_out(world, layout)
    assert report.failure is None
    assert [step.name for step in report.steps] == [
        "looked",
        "staged",
        "validated",
        "checked",
        "reloadable",
        "answered",
    ]
    assert everything(world) == before
    assert world.nginx.workers() == workers
    assert world.holds(issued, layout)


async def test_a_target_without_a_certificate_is_tried_and_its_new_folders_go(world: World) -> None:
    world.nginx.write_config(None, None)
    world.nginx.start()
    world.cert = world.live / "new" / "deep" / "a.crt"
    before = everything(world)
    report = await try_out(world)
    assert report.failure is not None
    assert report.failure.step == "answered"
    assert "staged" in [step.name for step in report.steps]
    assert everything(world) == before


async def test_a_broken_live_configuration_is_named_as_a_deployment_names_it(world: World) -> None:
    await world.install()
    world.expect_tls(extra="nonsense;")
    before = everything(world)
    report = await try_out(world)
    outcome = await world.deploy(world.authority.issue())
    assert report.failure is not None
    assert outcome.failure is not None
    assert [step.name for step in report.steps] == ["looked", "staged", "validated"]
    assert report.failure.step == "checked"
    assert outcome.failure.step == report.failure.step
    for cause in (report.failure.cause, outcome.failure.cause):
        assert cause.startswith("the live configuration does not pass its check")
        assert "nonsense" in cause
    assert everything(world) == before


async def test_a_path_that_the_policy_forbids_is_named_before_anything_is_touched(world: World) -> None:
    world.cert = Path("/etc/forbidden/a.crt")
    report = await try_out(world)
    assert report.failure is not None
    assert report.failure.step == "prepared"
    assert "/etc/forbidden" in report.failure.cause


async def test_a_reload_that_cannot_be_run_is_named_and_not_run(world: World) -> None:
    await world.install()
    world.write_policy('[actions.load]\nargv = ["/nowhere/reload"]', service='reload_action = "load"')
    report = await try_out(world)
    assert report.failure is not None
    assert report.failure.step == "reloadable"
    assert "/nowhere/reload" in report.failure.cause


@pytest.mark.parametrize("allowed", [True, False])
async def test_of_sudo_its_rules_are_asked_and_nothing_is_run(world: World, tmp_path: Path, allowed: bool) -> None:
    """Here by a program in its place, which writes down what it was asked for."""
    await world.install()
    sudo, asked = tmp_path / "sudo", tmp_path / "asked"
    sudo.write_text(f'#!/bin/sh\necho "$*" >> "{asked}"\nexit {0 if allowed else 1}\n')
    sudo.chmod(0o755)
    argv = f'["{sudo}", "-n", "/usr/bin/systemctl", "reload", "nginx"]'
    world.write_policy(f"[actions.load]\nargv = {argv}", service='reload_action = "load"')
    report = await try_out(world)
    assert asked.read_text() == "-n -l -- /usr/bin/systemctl reload nginx\n"
    if allowed:
        assert report.failure is None
        return
    assert report.failure is not None
    assert report.failure.step == "reloadable"
    assert "sudo does not let this agent run `/usr/bin/systemctl reload nginx`" in report.failure.cause
