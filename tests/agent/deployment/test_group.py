"""Many certificates for one nginx at once: committed together, and one bad one holds nobody back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from agent.deployment.commands import HostRunner
from agent.deployment.deployer import Deployer
from agent.deployment.outcome import DeploymentOutcome
from connectors.targets.base import Command, CommandResult
from tests.agent.deployment.authority import Issued
from tests.agent.deployment.test_parallel import put, server
from tests.agent.deployment.world import World, free_port, shows

pytestmark = pytest.mark.slow
NAMES = tuple(f"n{number}" for number in range(8))


class CountingRunner(HostRunner):
    """Notes the commands; ``refuses`` may make one of them fail without running it."""

    def __init__(self, refuses: Callable[[Command], bool] = lambda _command: False) -> None:
        self.seen: list[str] = []
        self._refuses = refuses

    async def run(self, command: Command) -> CommandResult:
        if "-V" not in command.argv:
            kind = "reload" if "reload" in command.argv else "trial" if "stderr" in command.argv else "check"
            self.seen.append(kind)
        if self._refuses(command):
            return CommandResult(1, "this one is bad")
        return await super().run(command)


class Fleet:
    """One nginx with a served certificate for each name, and the next ones."""

    def __init__(self, world: World, names: Sequence[str] = NAMES) -> None:
        self.world = world
        self.old = {name: world.authority.issue(f"{name}.test") for name in names}
        self.new = {name: world.authority.issue(f"{name}.test") for name in names}
        for name, issued in self.old.items():
            put(world, name, issued)
        world.nginx.write_config(None, None)
        blocks = "".join(server(world, name) for name in names)
        text = world.nginx.config.read_text().replace("access_log off;", f"access_log off;\n{blocks}")
        world.nginx.config.write_text(text)
        world.nginx.start()

    async def renew(self, deployer: Deployer, **special: Any) -> dict[str, DeploymentOutcome]:
        """Deploy to all at once, after something that makes them wait for one another."""
        outcomes: dict[str, DeploymentOutcome] = {}

        async def deploy(name: str) -> None:
            paths = {"cert_path": f"{self.world.live}/{name}.crt", "key_path": f"{self.world.live}/{name}.key"}
            config = self.world.config(**{**paths, **special.get(name, {})})
            item = self.new[name].item(config, target_id=f"tgt-{name}", name=f"{name}.test")
            outcomes[name] = await deployer.deploy(item, self.new[name].secret)

        lock = deployer._services["nginx", "nginx"].lock
        await lock.acquire()
        async with trio.open_nursery() as nursery:
            for name in self.new:
                nursery.start_soon(deploy, name)
            await wait_all_tasks_blocked()
            lock.release()
        return outcomes

    def show(self, expected: dict[str, Issued]) -> None:
        """See from outside what each name is served with, and that its files are that pair."""
        for name, issued in expected.items():
            shows(self.world.nginx.port, issued, f"{name}.test")
            assert (self.world.live / f"{name}.crt").read_bytes() == issued.cert_pem
            assert (self.world.live / f"{name}.key").read_bytes() == issued.key_pem


def failed(outcomes: dict[str, DeploymentOutcome]) -> set[str]:
    return {name for name, outcome in outcomes.items() if outcome.failure}


@pytest.mark.trio
async def test_what_arrives_together_is_tried_checked_and_loaded_once(world: World) -> None:
    fleet, runner = Fleet(world), CountingRunner()
    outcomes = await fleet.renew(world.deployer(runner=runner))
    assert {outcome.outcome for outcome in outcomes.values()} == {"served"}, outcomes
    assert runner.seen == ["trial", "check", "reload"]
    fleet.show(fleet.new)
    assert world.journals() == world.leftovers() == []


@pytest.mark.trio
async def test_a_pair_that_the_trial_refuses_is_found_by_halves(world: World) -> None:
    fleet = Fleet(world)
    bad = f"{world.live}/.certctl/tgt-n5/"
    runner = CountingRunner(lambda command: "stderr" in command.argv and bad in trial_text(command))
    outcomes = await fleet.renew(world.deployer(runner=runner))
    assert failed(outcomes) == {"n5"}
    assert runner.seen.count("reload") == 1
    fleet.show({**fleet.new, "n5": fleet.old["n5"]})
    assert world.journals() == world.leftovers() == []


def trial_text(command: Command) -> str:
    return Path(command.argv[command.argv.index("-c") + 1]).read_text()


@pytest.mark.trio
async def test_a_pair_that_the_live_check_refuses_is_found_by_halves(world: World) -> None:
    fleet = Fleet(world)
    path, new = world.live / "n2.crt", fleet.new["n2"].cert_pem

    def refuses(command: Command) -> bool:
        return "-t" in command.argv and "stderr" not in command.argv and path.read_bytes() == new

    runner = CountingRunner(refuses)
    outcomes = await fleet.renew(world.deployer(runner=runner))
    assert failed(outcomes) == {"n2"}
    failure = outcomes["n2"].failure
    assert failure is not None
    assert not failure.transient
    assert "with the previous files it passes" in failure.cause
    assert outcomes["n2"].undo == "done"
    fleet.show({**fleet.new, "n2": fleet.old["n2"]})
    assert world.journals() == world.leftovers() == []


@pytest.mark.trio
async def test_a_configuration_broken_elsewhere_is_not_halved(world: World) -> None:
    fleet, runner = Fleet(world), CountingRunner()
    world.nginx.config.write_text(world.nginx.config.read_text() + "broken")
    outcomes = await fleet.renew(world.deployer(runner=runner))
    assert failed(outcomes) == set(NAMES)
    assert all(outcome.failure and outcome.failure.transient for outcome in outcomes.values())
    assert runner.seen == ["trial", "check", "check"]
    fleet.show(fleet.old)
    assert world.journals() == world.leftovers() == []


@pytest.mark.trio
async def test_what_is_not_served_is_undone_alone(world: World) -> None:
    fleet, runner = Fleet(world), CountingRunner()
    probe = {"probe": {"port": free_port(), "timeout_s": 0.5}}
    outcomes = await fleet.renew(world.deployer(runner=runner), n0=probe, n7=probe)
    assert failed(outcomes) == {"n0", "n7"}
    assert runner.seen.count("reload") == 2
    fleet.show({**fleet.new, "n0": fleet.old["n0"], "n7": fleet.old["n7"]})
    assert world.journals() == world.leftovers() == []


@pytest.mark.trio
async def test_a_daemon_that_ignores_the_whole_reload_because_of_one_pair(world: World) -> None:
    """Its reload succeeds and nothing changes: the halves tell which one it does not take."""
    fleet = Fleet(world)
    path, new = world.live / "n3.crt", fleet.new["n3"].cert_pem

    class Deaf(CountingRunner):
        async def run(self, command: Command) -> CommandResult:
            if "reload" in command.argv and path.read_bytes() == new:
                self.seen.append("ignored")
                return CommandResult(0, "")
            workers = world.nginx.workers() if "reload" in command.argv else set()
            result = await super().run(command)
            # nginx reads its files some time after the signal: not those of the next try, however busy the host.
            while workers & world.nginx.workers():  # noqa: ASYNC110 - another process, which tells nobody
                await trio.sleep(0.01)
            return result

    runner = Deaf()
    probe = {name: {"probe": {"port": world.nginx.port, "timeout_s": 4}} for name in NAMES}
    outcomes = await fleet.renew(world.deployer(runner=runner), **probe)
    assert failed(outcomes) == {"n3"}
    assert runner.seen.count("ignored") == 4
    fleet.show({**fleet.new, "n3": fleet.old["n3"]})
    assert world.journals() == world.leftovers() == []


@pytest.mark.trio
async def test_an_interrupted_group_is_repaired_with_one_reload(world: World) -> None:
    fleet = Fleet(world)

    class Cut(CountingRunner):
        async def run(self, command: Command) -> CommandResult:
            if "reload" in command.argv:
                raise KeyboardInterrupt
            return await super().run(command)

    with pytest.raises(BaseExceptionGroup):
        await fleet.renew(world.deployer(runner=Cut()))
    assert len(world.journals()) == len(NAMES)
    runner = CountingRunner()
    messages = await world.deployer(runner=runner).repair()
    assert len(messages) == len(NAMES)
    assert runner.seen == ["check", "reload"]
    fleet.show(fleet.old)
    assert world.journals() == world.leftovers() == []
