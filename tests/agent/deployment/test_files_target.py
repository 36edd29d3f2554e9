"""Deployments of type ``files`` to a real small TLS server that its host checks and reloads by named actions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.deployment.deployer import Deployer
from agent.deployment.outcome import DeploymentOutcome
from agent.policy import load_policy
from benchmarks.lab.processes import free_ports
from benchmarks.lab.servers import SmallServer
from core.wire import Failure
from tests.agent.deployment.authority import Authority, Issued
from tests.agent.deployment.world import served

pytestmark = pytest.mark.trio


class Host:
    """One server called web-1, with the agent.toml of its host."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.authority = authority
        self.folder = folder
        self.toml = folder / "agent.toml"
        (port,) = free_ports(1)
        self.server = SmallServer("web-1", folder / "web", port, ["a.test"])
        self.write_policy(self.server.policy())

    def write_policy(self, text: str) -> None:
        self.toml.write_text(text)
        self.toml.chmod(0o600)

    async def deploy(self, issued: Issued, **config: Any) -> DeploymentOutcome:
        deployer = Deployer(self.folder / "state", load_policy(self.toml, required=True))
        item = issued.item({**self.server.target_config("a.test"), **config})
        return await deployer.deploy(msgspec.structs.replace(item, target_type="files"), issued.secret)

    def served(self) -> str:
        return served(self.server.port)


@pytest.fixture
def host(tmp_path: Path, authority: Authority) -> Iterator[Host]:
    host = Host(tmp_path, authority)
    host.server.start()
    yield host
    host.server.process.stop()


def without(policy: str, key: str) -> str:
    return "\n".join(line for line in policy.splitlines() if not line.startswith(key))


def failure(outcome: DeploymentOutcome) -> Failure:
    assert outcome.failure is not None, outcome
    return outcome.failure


@pytest.mark.parametrize("layout", ["current", "separate"])
async def test_install_and_renewal_are_served(host: Host, layout: str) -> None:
    for issued in (host.authority.issue(), host.authority.issue()):
        outcome = await host.deploy(issued, layout=layout)
        assert outcome.outcome == "served", outcome
        assert [step.name for step in outcome.steps] == ["staged", "published", "checked", "reloaded", "served"]
        assert host.served() == issued.fingerprint


async def test_a_server_that_is_broken_already_keeps_what_it_served(host: Host) -> None:
    old = host.authority.issue()
    await host.deploy(old)
    host.server.damage()
    outcome = await host.deploy(host.authority.issue())
    assert (outcome.outcome, outcome.undo, failure(outcome).transient) == ("failed", "done", True)
    assert "check failed" in failure(outcome).cause
    assert host.served() == outcome.served_fingerprint == old.fingerprint


async def test_without_a_check_what_is_served_decides(host: Host) -> None:
    host.write_policy(without(host.server.policy(), "validate_action"))
    old = host.authority.issue()
    outcome = await host.deploy(old)
    assert [step.name for step in outcome.steps] == ["staged", "published", "reloaded", "served"]
    host.server.damage()
    outcome = await host.deploy(host.authority.issue(), probe={"port": host.server.port, "timeout_s": 0.5})
    assert (outcome.outcome, outcome.undo, failure(outcome).step) == ("failed", "done", "served")
    assert host.served() == old.fingerprint


async def test_the_target_may_name_the_actions(host: Host) -> None:
    policy = without(host.server.policy(), "reload_action")
    host.write_policy(policy)
    issued = host.authority.issue()
    assert (await host.deploy(issued, reload_action="reload-web-1")).outcome == "served"
    host.write_policy(without(policy, "validate_action"))
    assert (await host.deploy(host.authority.issue(), reload_action="reload-web-1")).outcome == "served"


@pytest.mark.parametrize("key", ["reload_action", "type"])
async def test_a_missing_reload_is_told_with_the_lines_to_add(host: Host, key: str) -> None:
    config: dict[str, Any] = {}
    policy = without(host.server.policy(), "reload_action")
    if key == "type":
        policy, config = f'allowed_paths = ["{host.server.folder}"]\n', {"service": "files"}
    host.write_policy(policy)
    outcome = await host.deploy(host.authority.issue(), **config)
    name = "web-1" if key == "reload_action" else "files"
    cause = failure(outcome).cause
    assert (failure(outcome).step, failure(outcome).transient) == ("prepared", False)
    for line in (str(host.toml), f"[services.{name}]", 'type = "files"', f'reload_action = "reload-{name}"'):
        assert line in cause
    assert f"[actions.reload-{name}]" in cause


async def test_a_service_without_an_entry_is_refused(host: Host) -> None:
    outcome = await host.deploy(host.authority.issue(), service="web-2")
    assert "add a table [services.web-2]" in failure(outcome).cause
