"""Several deployments at once: one service after the other in itself, different services side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from agent.deployment.commands import HostRunner
from connectors.targets.base import Command, CommandResult
from core.wire import DeploymentItem
from tests.agent.deployment.authority import Authority, Issued
from tests.agent.deployment.world import Nginx, World, shows


class WatchingRunner(HostRunner):
    """Notes who runs live commands at the same time; ``meet`` makes each wait until that many are there."""

    def __init__(self, meet: int = 1) -> None:
        self.most = 0
        self._now = 0
        self._meet = meet
        self._met = trio.Event()

    async def run(self, command: Command) -> CommandResult:
        self._now += 1
        self.most = max(self.most, self._now)
        if self._now >= self._meet:
            self._met.set()
        try:
            with trio.fail_after(10):
                await self._met.wait()
            return await super().run(command)
        finally:
            self._now -= 1


@pytest.mark.trio
async def test_one_service_takes_one_deployment_at_a_time(world: World) -> None:
    names = ("a", "b", "c")
    runner = WatchingRunner()
    deployer = world.deployer(runner=runner)
    for name in names:
        put(world, name, world.authority.issue(f"{name}.test"))
    world.nginx.write_config(None, None)
    blocks = "".join(server(world, name) for name in names)
    world.nginx.config.write_text(
        world.nginx.config.read_text().replace("access_log off;", f"access_log off;\n{blocks}")
    )
    world.nginx.start()
    renewed = {name: world.authority.issue(f"{name}.test") for name in names}
    outcomes = []

    async def deploy(name: str) -> None:
        config = world.config(cert_path=f"{world.live}/{name}.crt", key_path=f"{world.live}/{name}.key")
        item = renewed[name].item(config, target_id=f"tgt-{name}", name=f"{name}.test")
        outcomes.append(await deployer.deploy(item, renewed[name].secret))

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(deploy, name)
    assert [outcome.outcome for outcome in outcomes] == ["served"] * 3, outcomes
    assert runner.most == 1
    for name in names:
        shows(world.nginx.port, renewed[name], f"{name}.test")


def put(world: World, name: str, issued: Issued) -> None:
    (world.live / f"{name}.crt").write_bytes(issued.cert_pem)
    (world.live / f"{name}.key").write_bytes(issued.key_pem)


def server(world: World, name: str) -> str:
    pair = f'ssl_certificate "{world.live}/{name}.crt"; ssl_certificate_key "{world.live}/{name}.key";'
    return f"server {{ listen 127.0.0.1:{world.nginx.port} ssl; server_name {name}.test; {pair} }}\n"


@pytest.mark.trio
@pytest.mark.parametrize("parallel", [1, 2])
async def test_two_services_are_deployed_to_side_by_side(tmp_path: Path, authority: Authority, parallel: int) -> None:
    world = World(tmp_path, authority)
    other = Nginx(tmp_path)
    try:
        for nginx in (world.nginx, other):
            nginx.write_config(None, None)
            nginx.start()
        world.expect_tls()
        other.write_config(world.live / "b.crt", world.live / "b.key")
        world.write_policy(f'[services.edge]\ntype = "nginx"\nconfig = "{other.config}"\n')
        runner = WatchingRunner(meet=parallel)
        deployer = world.deployer(runner=runner, parallel=parallel)
        a, b = authority.issue(), authority.issue("b.test")
        paths = {"cert_path": str(world.live / "b.crt"), "key_path": str(world.live / "b.key"), "service": "edge"}
        second = b.item(world.config(**paths, probe={"port": other.port}), target_id="tgt-b", name="b.test")
        outcomes = []

        async def deploy(item: DeploymentItem, issued: Issued) -> None:
            outcomes.append(await deployer.deploy(item, issued.secret))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(deploy, a.item(world.config()), a)
            nursery.start_soon(deploy, second, b)
        assert [outcome.outcome for outcome in outcomes] == ["served"] * 2, outcomes
        assert runner.most == parallel
        shows(world.nginx.port, a)
        shows(other.port, b, "b.test")
    finally:
        world.close()
        other.stop()
