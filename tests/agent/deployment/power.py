"""A host whose disk is watched: files, a daemon of a few lines that loads them, and an agent's deployer."""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent.deployment.deployer import Deployer
from agent.deployment.outcome import DeploymentOutcome
from agent.policy import load_policy
from connectors.probes.tls import Observation
from connectors.targets.base import Command, CommandResult
from core.certificates import pem_to_chain, read_certificate
from tests.agent.deployment.authority import Authority, Issued

ATOMIC = {"current", "combined"}
"""Layouts that show a complete pair at every instant, not only after the repair."""


class Daemon:
    """Loads its certificate at a reload and shows it; a stubborn one goes on with what it has.

    ``failing`` is the one of its commands that fails, ``check`` or ``reload``, if one does.
    """

    def __init__(self, certificate: Path) -> None:
        self.stubborn = False
        self.failing = ""
        self._certificate = certificate
        self._shown = ""

    async def run(self, command: Command) -> CommandResult:
        """Be checked or reloaded."""
        if self.failing in command.argv:
            return CommandResult(1, f"{self.failing} fails")
        if "reload" in command.argv and not self.stubborn:
            pem = self._certificate.read_bytes() if self._certificate.exists() else b""
            self._shown = read_certificate(pem_to_chain(pem)[0]).fingerprint if pem else ""
        return CommandResult(0, "")

    async def probe(
        self, host: str, port: int, *, sni: str = "", timeout_s: float = 10.0, protocol: str = "tls"
    ) -> Observation:
        """Show what was loaded last."""
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
        """Return a deployer as it is after a start of the agent."""
        policy = load_policy(self._toml, required=True)
        return Deployer(self.state, policy, runner=self.daemon, probe=self.daemon.probe)

    async def deploy(self, issued: Issued) -> DeploymentOutcome:
        """Deploy to the one target, one earlier version being kept."""
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
