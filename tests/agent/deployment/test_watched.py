"""Deployments to servers that watch their files: a real Envoy and a real Traefik, neither of which is ever reloaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.deployment.deployer import Deployer
from agent.deployment.outcome import DeploymentOutcome
from agent.policy import HostPolicy, load_policy
from connectors.targets.base import CONFIG_MARK
from core.wire import DeploymentItem
from tests.agent.deployment.authority import Authority, Issued, belongs
from tests.agent.deployment.world import served, shows, until
from tests.journeys.targets.subject import Subject
from tests.journeys.targets.subjects.envoy import Envoy
from tests.journeys.targets.subjects.traefik import Traefik

pytestmark = pytest.mark.trio
BOTH = pytest.mark.parametrize("host", [Envoy, Traefik], indirect=True, ids=["envoy", "traefik"])
ENVOY = pytest.mark.parametrize("host", [Envoy], indirect=True, ids=["envoy"])
TRAEFIK = pytest.mark.parametrize("host", [Traefik], indirect=True, ids=["traefik"])
SITE = "shop.example.test"


class Host:
    """One server with the agent of its host."""

    def __init__(self, folder: Path, authority: Authority, subject: Subject) -> None:
        self.folder, self.authority, self.subject = folder, authority, subject
        self.deployer = Deployer(folder / "state", self.policy())

    def policy(self, extra: str = "") -> HostPolicy:
        toml = self.folder / "agent.toml"
        toml.write_text(self.subject.policy() + extra)
        toml.chmod(0o600)
        return load_policy(toml, required=True)

    @property
    def own_file(self) -> Path:
        """Return the file that is watched."""
        config = self.subject.config()
        return Path(config.get("sds_path") or config["dynamic_path"])

    def issue(self) -> Issued:
        return self.authority.issue(SITE)

    def item(self, issued: Issued, **config: Any) -> DeploymentItem:
        given = {**self.subject.config(), **config}
        return msgspec.structs.replace(
            issued.item({key: value for key, value in given.items() if value is not None}, name=SITE),
            target_type=self.subject.target_type,
        )

    async def deploy(self, issued: Issued, **config: Any) -> DeploymentOutcome:
        return await self.deployer.deploy(self.item(issued, **config), issued.secret)

    def shows(self, issued: Issued) -> None:
        shows(self.subject.port(), issued, SITE)

    def complete_pair(self) -> bool:
        config = self.subject.config()
        return belongs(Path(config["cert_path"]), Path(config["key_path"]))


@pytest.fixture
def host(tmp_path: Path, authority: Authority, request: pytest.FixtureRequest) -> Iterator[Host]:
    folder = tmp_path / "program"
    folder.mkdir()
    host = Host(tmp_path, authority, request.param(folder))
    yield host
    for process in host.subject.processes():
        process.stop()


def cause(outcome: DeploymentOutcome) -> str:
    assert outcome.failure is not None, outcome
    return outcome.failure.cause


@BOTH
@pytest.mark.parametrize("layout", ["current", "separate", "combined"])
async def test_every_layout_is_served_without_a_reload(host: Host, layout: str) -> None:
    host.subject.start()
    first, second = host.issue(), host.issue()
    paths = {"key_path": None, "cert_path": f"{host.own_file.parent}/both.pem"} if layout == "combined" else {}
    for issued in (first, second):
        outcome = await host.deploy(issued, layout=layout, **paths)
        assert outcome.outcome == "served", outcome
        assert [step.name for step in outcome.steps if step.name == "reloaded"] == []
        host.shows(issued)
        assert host.own_file.read_bytes().startswith(CONFIG_MARK + f" for {issued.fingerprint}".encode())
        assert not host.own_file.is_symlink()
    assert (await host.deploy(second, layout=layout, **paths)).outcome == "unchanged"


@TRAEFIK
async def test_a_file_of_somebody_else_is_not_replaced(host: Host) -> None:
    theirs = 'http: {routers: {mine: {rule: "Host(`a`)", service: b}}}\n'
    host.own_file.write_text(theirs)
    outcome = await host.deploy(host.issue())
    assert f"{host.own_file} was not written by certctl and will not be replaced" in cause(outcome)
    assert "a first line '# Written by certctl'" in cause(outcome)
    assert host.own_file.read_text() == theirs
    assert list(host.own_file.parent.iterdir()) == [host.own_file]


@TRAEFIK
async def test_the_first_files_of_a_stopped_server_stay_for_its_start(host: Host) -> None:
    issued = host.issue()
    outcome = await host.deploy(issued, probe={"port": host.subject.port(), "timeout_s": 0.3})
    assert "The files are in place: start it" in cause(outcome)
    host.subject.start()
    host.shows(issued)
    assert (await host.deploy(issued)).outcome == "unchanged"


@ENVOY
async def test_nothing_is_published_while_the_configuration_is_broken(host: Host) -> None:
    """Envoy would take it at once, and nobody would know whether it could start again."""
    host.subject.start()
    old = host.issue()
    await host.deploy(old)
    text, versions = host.own_file.read_bytes(), list(host.subject.folder.rglob("versions/*"))
    host.subject.damage()
    outcome = await host.deploy(host.issue())
    assert "the live configuration does not pass its check" in cause(outcome)
    assert (outcome.undo, outcome.served_fingerprint) == ("not_needed", old.fingerprint)
    assert host.own_file.read_bytes() == text
    assert list(host.subject.folder.rglob("versions/*")) == versions


@ENVOY
async def test_a_pair_that_is_never_served_is_taken_back(host: Host) -> None:
    """Even when the check fails by then: Envoy has the old files whatever that says."""
    host.subject.start()
    old = host.issue()
    await host.deploy(old)
    once = json.dumps(["/bin/mkdir", str(host.folder / "checked")])
    host.deployer.take_policy(host.policy(f"validate_action = 'once'\n[actions.once]\nargv = {once}\n"))
    host.subject.divert()
    until(lambda: served(host.subject.port(), SITE) != old.fingerprint, "another certificate is served")
    outcome = await host.deploy(host.issue(), probe={"port": host.subject.port(), "timeout_s": 0.3})
    assert "was not served within 0.3 s" in cause(outcome)
    assert (host.folder / "checked").exists()
    assert outcome.undo == "done"
    assert host.complete_pair()
    host.subject.mend()
    host.shows(old)


@ENVOY
async def test_an_envoy_that_waits_for_its_first_secret_gets_it(host: Host) -> None:
    host.own_file.write_bytes(CONFIG_MARK + b"\nresources: []\n")
    (process,) = host.subject.processes()
    process.start()
    process.await_ready(lambda: "all dependencies initialized" in process.tail())
    assert served(host.subject.port(), SITE) == ""
    issued = host.issue()
    assert (await host.deploy(issued)).outcome == "served"
    host.shows(issued)
