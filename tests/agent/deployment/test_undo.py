"""Deployments that fail after the change was made, on a real nginx: what was there before is back and served."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.deployment.commands import HostRunner
from connectors.probes.tls import Observation
from connectors.targets.base import Command, CommandResult
from core.errors import Transient
from tests.agent.deployment.world import World, free_port, served, shows

LAYOUTS = ["current", "separate", "combined"]


class FailingRunner:
    """Runs everything but fails the commands that contain a word."""

    def __init__(self, word: str, times: int = 1) -> None:
        self._word = word
        self._left = times
        self._real = HostRunner()

    async def run(self, command: Command) -> CommandResult:
        if self._word in command.argv and self._left:
            self._left -= 1
            return CommandResult(1, "it broke")
        return await self._real.run(command)


class CountingRunner(FailingRunner):
    """Fails nothing, and counts the commands with the word."""

    def __init__(self, word: str) -> None:
        super().__init__(word, 0)
        self.count = 0

    async def run(self, command: Command) -> CommandResult:
        self.count += self._word in command.argv
        return await super().run(command)


class OnceThenFailing(FailingRunner):
    """Lets the first command with the word through and fails those that follow."""

    def __init__(self, word: str) -> None:
        super().__init__(word, 0)

    async def run(self, command: Command) -> CommandResult:
        result = await super().run(command)
        if self._word in command.argv:
            self._left = 9
        return result


@pytest.mark.trio
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_not_served_in_time_brings_certificate_and_key_back(world: World, layout: str) -> None:
    old = await world.install(layout)
    kind = world.cert.is_symlink()
    outcome = await world.deploy(world.authority.issue(), layout, probe={"port": free_port(), "timeout_s": 0.3})
    assert outcome.outcome == "failed"
    assert outcome.undo == "done"
    assert outcome.failure is not None
    assert outcome.failure.step == "served"
    assert outcome.failure.transient
    assert "connection refused" in outcome.failure.cause
    assert world.holds(old, layout)
    assert world.cert.is_symlink() == kind
    shows(world.nginx.port, old)
    assert world.journals() == world.leftovers() == []


@pytest.mark.trio
async def test_another_certificate_served_for_the_name_is_named(world: World) -> None:
    """Another server answers at the probed port: the outcome says what it serves."""
    await world.install()
    port, extra_cert, extra_key = free_port(), world.live / "other.crt", world.live / "other.key"
    other = world.authority.issue("other.test")
    extra_cert.write_bytes(other.cert_pem)
    extra_key.write_bytes(other.key_pem)
    text = world.nginx.config.read_text()
    block = (
        f'server {{ listen 127.0.0.1:{port} ssl; ssl_certificate "{extra_cert}"; ssl_certificate_key "{extra_key}"; }}'
    )
    world.nginx.config.write_text(text.replace("http {", "http { " + block))
    outcome = await world.deploy(world.authority.issue(), probe={"port": port, "timeout_s": 0.5})
    assert outcome.undo == "done"
    assert outcome.served_fingerprint == other.fingerprint
    assert outcome.failure is not None
    assert other.fingerprint in outcome.failure.cause


@pytest.mark.trio
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_undo_of_a_first_install_leaves_nothing(world: World, layout: str) -> None:
    world.nginx.write_config(None, None)
    world.nginx.start()
    outcome = await world.deploy(world.authority.issue(), layout, probe={"timeout_s": 0.2})
    assert outcome.undo == "done"
    assert list(world.live.iterdir()) == []
    assert world.journals() == []


@pytest.mark.trio
@pytest.mark.parametrize("layout", ["current", "separate"])
async def test_undo_of_an_adoption_brings_the_plain_files_back(world: World, layout: str) -> None:
    old = world.authority.issue()
    world.cert.write_bytes(old.cert_pem)
    world.key.write_bytes(old.key_pem)
    world.key.chmod(0o640)
    world.expect_tls()
    world.nginx.start()
    outcome = await world.deploy(world.authority.issue(), layout, probe={"port": free_port(), "timeout_s": 0.2})
    assert outcome.undo == "done"
    assert sorted(world.live.iterdir()) == [world.cert, world.key]
    assert not world.cert.is_symlink()
    assert world.holds(old)
    assert world.key.stat().st_mode & 0o777 == 0o640
    shows(world.nginx.port, old)


@pytest.mark.trio
@pytest.mark.parametrize("layout", ["current", "separate"])
async def test_undo_of_an_adoption_brings_links_back(world: World, layout: str) -> None:
    old = world.authority.issue()
    archive = world.folder / "archive"
    archive.mkdir()
    (archive / "cert1.pem").write_bytes(old.cert_pem)
    (archive / "key1.pem").write_bytes(old.key_pem)
    world.cert.symlink_to("../archive/cert1.pem")
    world.key.symlink_to("../archive/key1.pem")
    world.expect_tls()
    world.nginx.start()
    outcome = await world.deploy(world.authority.issue(), layout, probe={"port": free_port(), "timeout_s": 0.2})
    assert outcome.undo == "done"
    assert world.cert.readlink() == Path("../archive/cert1.pem")
    assert world.key.readlink() == Path("../archive/key1.pem")
    assert world.holds(old)


@pytest.mark.trio
async def test_undo_of_a_changed_layout_brings_the_old_kind_back(world: World) -> None:
    old = await world.install("current")
    outcome = await world.deploy(world.authority.issue(), "separate", probe={"port": free_port(), "timeout_s": 0.2})
    assert outcome.undo == "done"
    assert world.cert.is_symlink()
    assert world.holds(old)
    shows(world.nginx.port, old)
    assert (await world.deploy(old)).outcome == "unchanged"


@pytest.mark.trio
async def test_a_configuration_broken_by_somebody_else_is_told_apart(world: World) -> None:
    old = await world.install()
    world.expect_tls(extra="no_such_directive on;")
    outcome = await world.deploy(world.authority.issue())
    assert outcome.outcome == "failed"
    assert outcome.undo == "done"
    assert outcome.failure is not None
    assert outcome.failure.step == "checked"
    assert outcome.failure.transient
    assert "no_such_directive" in outcome.failure.cause
    assert "fails with the previous files as well" in outcome.failure.cause
    assert outcome.served_fingerprint == old.fingerprint == served(world.nginx.port)
    assert world.holds(old)


@pytest.mark.trio
async def test_a_configuration_that_does_not_take_the_new_files_is_told_apart(world: World) -> None:
    old = await world.install()
    runner = FailingRunner(str(world.nginx.config))
    item = world.authority.issue()
    outcome = await world.deployer(runner=runner).deploy(item.item(world.config()), item.secret)
    assert outcome.failure is not None
    assert outcome.failure.step == "checked"
    assert not outcome.failure.transient
    assert "with the previous files it passes" in outcome.failure.cause
    assert outcome.undo == "done"
    assert world.holds(old)


@pytest.mark.trio
async def test_a_failed_reload_is_undone(world: World) -> None:
    old = await world.install()
    new = world.authority.issue()
    outcome = await world.deployer(runner=FailingRunner("reload")).deploy(new.item(world.config()), new.secret)
    assert outcome.outcome == "failed"
    assert outcome.failure is not None
    assert outcome.failure.step == "reloaded"
    assert outcome.failure.transient
    assert outcome.undo == "done"
    assert world.holds(old)
    assert outcome.served_fingerprint == old.fingerprint


@pytest.mark.trio
async def test_a_reload_that_never_works_leaves_the_old_files_and_the_old_service(world: World) -> None:
    old = await world.install()
    new = world.authority.issue()
    outcome = await world.deployer(runner=FailingRunner("reload", 9)).deploy(new.item(world.config()), new.secret)
    assert outcome.undo == "done"
    assert outcome.served_fingerprint == old.fingerprint
    assert world.holds(old)


@pytest.mark.trio
async def test_a_stopped_server_is_said_plainly(world: World) -> None:
    """The files are as they were, and so is the server: stopped."""
    old = await world.install()
    world.nginx.stop()
    outcome = await world.deploy(world.authority.issue(), probe={"timeout_s": 0.3})
    assert outcome.failure is not None
    assert outcome.failure.step == "reloaded"
    assert outcome.undo == "done"
    assert "is the server running?" in outcome.failure.cause
    assert "-s reload" in outcome.failure.cause
    assert outcome.served_fingerprint == ""
    assert world.holds(old)
    assert world.journals() == []


@pytest.mark.trio
async def test_the_first_files_of_a_server_that_never_ran_stay_for_its_start(world: World) -> None:
    """An nginx does not start without the files that its configuration names, so somebody has to come first."""
    world.expect_tls()
    new = world.authority.issue()
    outcome = await world.deploy(new, probe={"timeout_s": 0.3})
    assert outcome.failure is not None
    assert (outcome.failure.step, outcome.undo, outcome.failure.transient) == ("reloaded", "not_needed", True)
    assert "start it" in outcome.failure.cause
    assert world.holds(new)
    assert world.journals() == []
    world.nginx.start()
    assert (await world.deploy(new)).outcome == "unchanged"


@pytest.mark.trio
async def test_an_unfinished_undo_does_not_overwrite_what_an_operator_did(world: World) -> None:
    await world.install()
    runner = OnceThenFailing("reload")
    new = world.authority.issue()
    config = world.config(probe={"port": free_port(), "timeout_s": 0.3})
    assert (await world.deployer(runner=runner).deploy(new.item(config), new.secret)).undo == "failed"
    world.nginx.stop()
    by_hand = world.authority.issue()
    for path, content in ((world.cert, by_hand.cert_pem), (world.key, by_hand.key_pem)):
        path.unlink()
        path.write_bytes(content)
    world.nginx.start()
    await world.deployer().repair()
    assert world.holds(by_hand)
    new = world.authority.issue()
    assert (await world.deploy(new)).outcome == "served"
    assert world.holds(new)


@pytest.mark.trio
@pytest.mark.parametrize("layout", ["current", "separate"])
async def test_what_an_operator_left_half_replaced_is_put_back_and_never_loaded(world: World, layout: str) -> None:
    """It is no pair, so the server goes on with what it runs with, the new one; the next renewal mends it."""
    await world.install(layout)
    theirs = world.authority.issue()
    world.cert.unlink()
    world.cert.write_bytes(theirs.cert_pem)
    key, new, runner = world.key.read_bytes(), world.authority.issue(), CountingRunner("reload")
    config = world.config(layout, probe={"port": free_port(), "timeout_s": 0.3})
    outcome = await world.deployer(runner=runner).deploy(new.item(config), new.secret)
    assert runner.count == 1, "the new pair was loaded, what is no pair was not even tried"
    assert outcome.failure is not None
    assert (outcome.failure.step, outcome.undo) == ("served", "failed")
    assert re.search("THE UNDO FAILED: the live configuration.*key values mismatch", outcome.failure.cause)
    assert not world.cert.is_symlink()
    assert (world.cert.read_bytes(), world.key.read_bytes()) == (theirs.cert_pem, key)
    shows(world.nginx.port, new)
    newer = world.authority.issue()
    assert (await world.deploy(newer, layout)).outcome == "served"
    assert world.holds(newer, layout)
    assert world.journals() == world.leftovers() == []


@pytest.mark.trio
async def test_a_new_certificate_that_stays_served_is_a_failed_undo(world: World) -> None:
    """Nothing answers until the old files are back, and then it is the new certificate that is seen."""
    old = await world.install()
    new = world.authority.issue()

    async def probe(
        host: str, port: int, *, sni: str = "", timeout_s: float = 10.0, protocol: str = "tls"
    ) -> Observation:
        if not world.holds(old):
            raise Transient("not yet")
        return Observation(new.chain[0], new.fingerprint, "TLSv1.3", 1.0, new.chain)

    config = world.config(probe={"timeout_s": 0.2})
    outcome = await world.deployer(probe=probe).deploy(new.item(config), new.secret)
    assert outcome.outcome == "failed"
    assert outcome.undo == "failed"
    assert outcome.served_fingerprint == new.fingerprint
    assert world.holds(old)
    assert world.journals() != []
