"""Power cuts: whatever of a deployment or an undo had not reached the disk is gone; the repair finds a pair anyway.

``tests.agent.disk`` says what may be found after a cut at each file operation; each of these is put in place, looked
at, repaired by the real repair, and deployed to again.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent.deployment.deployer import Deployer
from agent.deployment.outcome import DeploymentOutcome
from agent.policy import load_policy
from connectors.probes.tls import Observation
from connectors.targets.base import Command, CommandResult
from core.certificates import pem_to_chain, read_certificate
from tests.agent.deployment.authority import Authority, Issued
from tests.agent.disk import Disk, recorded, restore

pytestmark = [pytest.mark.slow, pytest.mark.trio, pytest.mark.usefixtures("autojump_clock")]

ATOMIC = {"current", "combined"}
"""Layouts that show a complete pair at every instant, not only after the repair."""


class Daemon:
    """Loads its certificate at a reload and shows it; a stubborn one goes on with what it has."""

    def __init__(self, certificate: Path) -> None:
        self.stubborn = False
        self._certificate = certificate
        self._shown = ""

    async def run(self, command: Command) -> CommandResult:
        if "reload" in command.argv and not self.stubborn:
            pem = self._certificate.read_bytes() if self._certificate.exists() else b""
            self._shown = read_certificate(pem_to_chain(pem)[0]).fingerprint if pem else ""
        return CommandResult(0, "")

    async def probe(self, host: str, port: int, *, sni: str = "", timeout_s: float = 10.0) -> Observation:
        assert (host, port, sni, timeout_s > 0) == ("127.0.0.1", 1, "a.test", True)
        return Observation(b"", self._shown, "TLSv1.3", 1.0)


class Host:
    """A folder for certificates and an agent's state below ``root``, both at the mercy of the power."""

    def __init__(self, folder: Path, authority: Authority, layout: str) -> None:
        self.authority = authority
        self.layout = layout
        self.root = folder / "root"
        self.live, self.state = self.root / "live", self.root / "state"
        for made in (self.live, self.state):
            made.mkdir(parents=True)
        self.cert = self.live / "a.crt"
        self.key = self.cert if layout == "combined" else self.live / "a.key"
        self.daemon = Daemon(self.cert)
        self._toml = folder / "agent.toml"
        actions = "".join(f'[actions.{name}]\nargv = ["/bin/true", "{name}"]\n' for name in ("check", "reload"))
        self._toml.write_text(
            f'allowed_paths = ["{self.live}"]\n[services.files]\ntype = "files"\nvalidate_action = "check"\n'
            f'reload_action = "reload"\n{actions}'
        )
        self._toml.chmod(0o600)

    def deployer(self) -> Deployer:
        policy = load_policy(self._toml, required=True)
        return Deployer(self.state, policy, runner=self.daemon, probe=self.daemon.probe)

    async def deploy(self, issued: Issued) -> DeploymentOutcome:
        paths = {"cert_path": str(self.cert)} | ({} if self.layout == "combined" else {"key_path": str(self.key)})
        item = issued.item({**paths, "layout": self.layout, "keep": 1, "probe": {"port": 1, "timeout_s": 0.4}})
        return await self.deployer().deploy(msgspec.structs.replace(item, target_type="files"), issued.secret)

    def put(self, issued: Issued) -> None:
        """Put plain files in place, as a person would."""
        self.cert.write_bytes(issued.key_pem + issued.cert_pem if self.layout == "combined" else issued.cert_pem)
        if self.layout != "combined":
            self.key.write_bytes(issued.key_pem)

    def shown(self, known: dict[str, Issued]) -> str:
        """Return whose complete pair the paths show; ``nothing`` for none, ``a mix`` for what fits nobody."""
        if not self.cert.exists() and not self.key.exists():
            return "nothing"
        for name, issued in known.items():
            texts = (issued.cert_pem, issued.key_pem)
            wanted = (issued.key_pem + issued.cert_pem,) * 2 if self.layout == "combined" else texts
            if self.key.exists() and (self.cert.read_bytes(), self.key.read_bytes()) == wanted:
                return name
        return "a mix"


async def check_every_cut(host: Host, disk: Disk, known: dict[str, Issued], before: str) -> None:
    """Put each find in place, repair, look, and deploy once more."""
    host.daemon.stubborn = False
    for tree, promised in disk.found.items():
        restore(host.root, tree)
        allowed = {promised} if promised else {before, "new"}
        if host.layout in ATOMIC:
            assert host.shown(known) in allowed, tree
        for message in await host.deployer().repair():
            assert message.endswith("was undone, the previous state is back"), tree
        assert host.shown(known) in allowed, tree
        assert list((host.state / "journal").glob("*.json")) == []
        assert (await host.deploy(known["new"])).outcome in {"served", "unchanged"}, tree
        assert host.shown(known) == "new"
        assert [path for path in host.root.rglob(".*") if path.name != ".certctl"] == []


@pytest.mark.parametrize("layout", ["current", "separate", "combined"])
@pytest.mark.parametrize("before", ["nothing", "plain", "old"])
@pytest.mark.parametrize("works", [True, False], ids=["deployment", "undo"])
async def test_a_cut_at_any_moment_leaves_a_pair(
    tmp_path: Path,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
    before: str,
    works: bool,
) -> None:
    host = Host(tmp_path, authority, layout)
    known = {before: authority.issue(), "new": authority.issue()}
    if before == "plain":
        host.put(known[before])
    if before == "old":
        assert (await host.deploy(authority.issue())).outcome == "served"
        assert (await host.deploy(known[before])).outcome == "served"
    host.daemon.stubborn = not works
    with recorded(host.root, monkeypatch) as disk:
        outcome = await host.deploy(known["new"])
        assert (outcome.outcome, outcome.undo) == (("served", "not_needed") if works else ("failed", "done"))
        disk.mark("new" if works else before)
    assert disk.operations > 20
    await check_every_cut(host, disk, known, before)
