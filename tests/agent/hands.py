"""A worker whose deployments end when and how a test says, beside the double."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import trio

from agent.activity import Activity
from agent.coordinator import Coordinator
from agent.deployment.deployer import Deployer
from agent.deployment.outcome import DeploymentOutcome
from agent.heads import HeadLog
from agent.identity import Identity
from agent.keystore import Keystore
from agent.policy import HostPolicy
from agent.work import Worker
from core import keys
from core.names import parse_name
from core.secret import Secret
from core.wire import DeploymentItem, IssuanceItem

SERVED = DeploymentOutcome(outcome="served", served_fingerprint="f" * 64)


class Hands(Deployer):
    """Takes part in nothing: what a job's end is stands in ``ends``, and jobs in ``blocked`` wait for their event."""

    def __init__(self) -> None:
        self._policy = HostPolicy()
        self.begun: list[str] = []
        self.keys: dict[str, Secret[bytes]] = {}
        self.ends: dict[str, DeploymentOutcome | Exception] = {}
        self.blocked: defaultdict[str, trio.Event] = defaultdict(trio.Event)

    def block(self, *job_ids: str) -> None:
        for job_id in job_ids:
            self.blocked[job_id] = trio.Event()

    async def deploy(self, item: DeploymentItem, private_key_pem: Secret[bytes]) -> DeploymentOutcome:
        self.begun.append(item.job_id)
        self.keys[item.job_id] = private_key_pem
        if item.job_id in self.blocked:
            await self.blocked[item.job_id].wait()
        end = self.ends.get(item.job_id, SERVED)
        if isinstance(end, Exception):
            raise end
        return end


class Bench:
    """One worker with everything around it."""

    def __init__(self, folder: Path, identity: Identity, client: Coordinator, nursery: trio.Nursery) -> None:
        folder.mkdir(mode=0o700)
        self.keys_folder = folder
        self.keystore = Keystore(folder)
        self.hands = Hands()
        self.activity = Activity()
        self.stopping = trio.Event()
        self.worker = Worker(
            identity, client, self.keystore, self.hands, self.activity, self.stopping, HeadLog(folder.parent)
        )
        self._nursery = nursery
        self._started = False
        self.ended = trio.Event()

    def start(self) -> None:
        """Let the worker run."""
        self._started = True
        self._nursery.start_soon(self._run)

    async def _run(self) -> None:
        await self.worker.run()
        self.ended.set()

    async def finish(self) -> None:
        """Stop as a daemon does: what is cut off instead may leave half a request behind."""
        self.stopping.set()
        for blocked in self.hands.blocked.values():
            blocked.set()
        if self._started:
            await self.has_ended()

    async def has_ended(self) -> None:
        with trio.fail_after(20):
            await self.ended.wait()

    def issuance(self, job_id: str, *, epoch: int = 1, algorithm: str = "ecdsa-p256") -> IssuanceItem:
        """Return work of one certificate per job."""
        return IssuanceItem(job_id, epoch, _certificate(job_id), "a.test", (parse_name("a.test"),), algorithm)

    def deployment(self, job_id: str, *, with_key: bool = True) -> DeploymentItem:
        """Return work whose key is in the keystore, or is not."""
        certificate_id, spki = _certificate(f"{job_id}-served"), "0" * 64
        if with_key:
            key = keys.generate(keys.KeyAlgorithm.ECDSA_P256)
            spki = keys.spki_sha256(key.public_key())
            (self.keys_folder / certificate_id).mkdir(exist_ok=True)
            (self.keys_folder / certificate_id / spki).write_bytes(keys.to_pem(key).reveal())
        return DeploymentItem(
            job_id=job_id,
            lease_epoch=3,
            certificate_id=certificate_id,
            version_id="cv-1",
            target_id="tgt-a",
            target_type="nginx",
            config={},
            chain=(),
            fingerprint="f" * 64,
            spki_sha256=spki,
        )


def _certificate(job_id: str) -> str:
    return f"mc-{job_id}"
