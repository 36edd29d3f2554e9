"""A real program as the journeys know it, and a deployer beside it: targets on their host, without a coordinator."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from agent.deployment.deployer import Deployer
from agent.deployment.outcome import DeploymentOutcome
from agent.policy import load_policy
from core.wire import DeploymentItem
from tests.agent.deployment.authority import Authority, Issued
from tests.journeys.targets.subject import SITE, Subject


class Host:
    """One program and the agent's side of its target."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.authority = Authority()
        self.state = subject.folder / "state"
        self.toml = subject.folder / "agent.toml"
        self.state.mkdir()
        self.toml.write_text(subject.policy())
        self.toml.chmod(0o600)

    def issue(self) -> Issued:
        """Return a new certificate for the subject's name."""
        return self.authority.issue(SITE)

    def deployer(self, **ports: Any) -> Deployer:
        """Return a deployer as the daemon would make it."""
        return Deployer(self.state, load_policy(self.toml, required=True), **ports)

    async def deploy(self, issued: Issued, **changed: Any) -> DeploymentOutcome:
        """Deploy to the subject's target, or to one that differs from it."""
        return await self.deployer().deploy(self.item(issued, **changed), issued.secret)

    def item(self, issued: Issued, *, target_id: str = "tgt-web", name: str = SITE, **changed: Any) -> DeploymentItem:
        """Return the work that asks for this certificate."""
        item = issued.item({**self.subject.config(), **changed}, target_id=target_id, name=name)
        return msgspec.structs.replace(item, target_type=self.subject.target_type)

    def dies(self, issued: Issued, point: str) -> None:
        """Deploy in a process that is killed on its way."""
        task = {
            "state": str(self.state),
            "policy": str(self.toml),
            "item": self.item(issued),
            "key": issued.key_pem,
            "user": None,
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.agent.deployment.process"],
            input=msgspec.json.encode(task),
            capture_output=True,
            env={**os.environ, "CERTCTL_CRASH_POINT": point},
            timeout=60,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, (done.stdout, done.stderr)

    def serves(self, issued: Issued) -> bool:
        """Say whether a client sees this certificate, and the files are its pair."""
        seen = self.subject.seen()
        certificate, key = self.subject.pair()
        right = issued.cert_pem in certificate and issued.key_pem in key
        return right and seen is not None and seen.fingerprint == issued.fingerprint


@contextmanager
def hosting(kind: type[Subject], folder: Path) -> Iterator[Host]:
    """Run the program of a subject."""
    subject = kind(folder)
    try:
        host = Host(subject)
        subject.start()
        yield host
    finally:
        for process in reversed(subject.processes()):
            process.stop()
