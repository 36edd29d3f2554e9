"""What was installed is looked at again, on a real nginx: what is told of it, once and as long as it is so."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from agent.coordinator import Coordinator
from agent.deployment.installed import Installations
from agent.drift import DriftWatch
from agent.keystore import Keystore
from tests.agent.deployment.authority import Issued
from tests.agent.deployment.world import World, shows, until
from tests.agent.double import Double, problem

pytestmark = pytest.mark.trio


class Host:
    """A world whose agent looks again; ``client`` reaches the double."""

    def __init__(self, world: World, client: Coordinator, double: Double) -> None:
        self.world, self.double, self.client = world, double, client
        self.deployer = world.deployer()
        self.keys = world.folder / "keys"
        self.keys.mkdir(mode=0o700)

    async def install(self, layout: str = "current") -> Issued:
        """Have a certificate served whose key is in the keystore."""
        issued = await self.world.install(layout)
        self.keep_key(issued)
        return issued

    def keep_key(self, issued: Issued) -> None:
        """Put a key into the keystore."""
        folder = self.keys / "mc-a"
        folder.mkdir(exist_ok=True)
        (folder / issued.spki_sha256).write_bytes(issued.key_pem)

    async def look(self) -> list[tuple[str, str]]:
        """Look at everything, as an agent that has just started does; return what it told: states and causes."""
        before = len(self.double.findings)
        await DriftWatch(self.deployer, Keystore(self.keys), self.client, 3600).look()
        return [(each.state, each.cause) for each in self.double.findings[before:]]

    def load(self) -> None:
        """Let nginx read its files."""
        assert self.world.nginx._process is not None
        workers = self.world.nginx.workers()
        self.world.nginx._process.send_signal(1)
        # For a tenth of a second and more the old workers accept beside the new ones.
        until(lambda: self.world.nginx.workers().isdisjoint(workers), "only workers that read the files are left")


@pytest.fixture
def host(client: Coordinator, double: Double, world: World) -> Host:
    return Host(world, client, double)


@pytest.mark.parametrize("layout", ["current", "separate", "combined"])
async def test_what_is_as_it_was_is_not_talked_about(host: Host, layout: str) -> None:
    await host.install(layout)
    assert await host.look() == []
    assert host.double.of("drift") == []


def overwrite(world: World) -> str:
    world.cert.write_bytes(world.authority.issue().cert_pem)
    return f"changed: {world.cert} holds something else"


def chmod(world: World) -> str:
    world.key.chmod(0o644)
    return f"changed: {world.key} has another owner, mode or context"


def replace_the_link(world: World) -> str:
    content = world.cert.read_bytes()
    world.cert.unlink()
    world.cert.write_bytes(content)
    return f"changed: {world.cert} is not the link that was installed any more"


def remove(world: World) -> str:
    world.key.unlink()
    return f"missing: {world.key} is gone"


def remove_the_store(world: World) -> str:
    shutil.rmtree(world.live / ".certctl")
    return f"missing: {world.cert} is gone; {world.key} is gone"


def leave_a_note(world: World) -> str:
    world.cert.unlink()
    world.cert.write_text("moved to the balancer\n")
    return f"changed: {world.cert} holds no PEM certificate or key and will not be replaced"


@pytest.mark.parametrize("change", [overwrite, chmod, replace_the_link, remove, remove_the_store, leave_a_note])
async def test_a_change_of_the_files_is_told_and_its_end_as_well(host: Host, change: Callable[[World], str]) -> None:
    issued = await host.install()
    expected = change(host.world)
    (found,) = await host.look()
    assert ": ".join(found).startswith(expected)
    assert host.double.findings[-1].served_fingerprint == issued.fingerprint, "nginx goes on with what it has loaded"
    assert [state for state, _ in await host.look()] == [found[0]], "it is told as long as it is so"
    host.world.cert.unlink(missing_ok=True)
    outcome = await host.world.deploy(issued)
    assert outcome.failure is None
    host.deployer = host.world.deployer()
    assert await host.look() == [], "a deployment tells its end itself"


async def test_what_comes_right_by_itself_is_told(host: Host) -> None:
    await host.install()
    key = host.world.key.read_bytes()
    store = host.world.key.resolve()
    store.write_bytes(host.world.authority.issue().key_pem)
    assert [state for state, _ in await host.look()] == ["changed"]
    store.write_bytes(key)
    assert await host.look() == [("in place", "")]
    assert await host.look() == []


async def test_another_certificate_on_the_wire_counts_more_than_files(host: Host) -> None:
    issued, other = await host.install("separate"), host.world.authority.issue()
    host.world.cert.write_bytes(other.cert_pem)
    host.world.key.write_bytes(other.key_pem)
    host.load()
    shows(host.world.nginx.port, other)
    ((state, cause),) = await host.look()
    assert state == "served differs"
    assert other.fingerprint in cause
    assert f"{host.world.cert} holds something else" in cause
    assert host.double.findings[-1].served_fingerprint == other.fingerprint
    host.world.nginx.stop()
    host.world.cert.write_bytes(issued.cert_pem)
    host.world.key.write_bytes(issued.key_pem)
    assert [state for state, _ in await host.look()] == ["served differs"], "nobody has seen it served again"
    host.world.nginx.start()
    shows(host.world.nginx.port, issued)
    assert await host.look() == [("in place", "")]


async def test_a_stopped_server_is_no_drift(host: Host) -> None:
    await host.install()
    host.world.nginx.stop()
    assert await host.look() == []


async def test_what_is_not_wanted_any_more_is_not_looked_at_again(host: Host) -> None:
    await host.install()
    host.world.key.unlink()
    host.double.unwanted = ("tgt-web",)
    assert len(await host.look()) == 1
    assert await host.look() == []
    assert await host.deployer.installations.targets() == []


async def test_the_end_is_told_although_the_agent_died_before_it_heard_the_answer(host: Host) -> None:
    """It had said so, and cannot know whether it was heard."""
    await host.install()
    key = host.world.key.resolve()
    content = key.read_bytes()
    key.unlink()
    host.double.instead["drift"] = [problem(503, "transient")] * 1000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.look)
        await host.double.until(lambda: host.double.of("drift"))
        nursery.cancel_scope.cancel()
    host.double.instead.clear()
    key.write_bytes(content)
    key.chmod(0o600)
    host.deployer = host.world.deployer()
    assert await host.look() == [("in place", "")]


async def test_a_target_that_is_being_changed_is_left_for_the_next_time(host: Host) -> None:
    await host.install()
    other = host.world.authority.issue()
    crashed = host.world.in_process(other.item(host.world.config()), other.key_pem, crash="deploy.journaled")
    assert crashed.returncode == -signal.SIGKILL
    host.world.key.unlink()
    assert await host.look() == []


async def test_a_record_that_cannot_be_looked_at_keeps_no_other(host: Host) -> None:
    await host.install()
    installed = host.world.state / "installed"
    (installed / "tgt-damaged.json").write_text("{")
    host.world.key.unlink()
    assert [state for state, _ in await host.look()] == ["missing"]


async def test_a_record_that_cannot_be_written_fails_no_deployment(host: Host) -> None:
    await host.install()
    shutil.rmtree(host.world.state / "installed")
    (host.world.state / "installed").write_text("in the way")
    outcome = await host.world.deploy(host.world.authority.issue())
    assert outcome.outcome == "served"


async def test_a_newer_installation_is_neither_noted_over_nor_forgotten(tmp_path: Path, host: Host) -> None:
    installations = Installations(tmp_path / "installed")
    old, new = (host.world.authority.issue().item({}) for _ in range(2))
    await installations.keep(old)
    read = await installations.read("tgt-web")
    assert read is not None
    await installations.keep(new)
    await installations.note(read, "changed")
    await installations.forget(read)
    last = await installations.read("tgt-web")
    assert last is not None
    assert (last.item, last.told) == (new, "in place")
