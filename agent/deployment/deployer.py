"""Installs certificates on this host: one group at a time per service, different services in parallel.

Deployments that arrive while their service is busy wait, and are then committed together; see ``group``.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent.deployment.commands import HostRunner
from agent.deployment.group import Group
from agent.deployment.inspection import at_paths, at_place, finding
from agent.deployment.installed import Installations, Installed
from agent.deployment.journal import Journal, JournalFolder
from agent.deployment.member import Member, Tools
from agent.deployment.outcome import DeploymentOutcome, Progress
from agent.deployment.prepare import Prepared, prepare, resolve_commands
from agent.deployment.remote import PreparedDelivery, Remote, prepare_delivery
from agent.deployment.trial import stand_in, try_files, try_remote
from agent.deployment.undo import undo_interrupted
from agent.policy import HostPolicy
from connectors.probes import tls
from connectors.targets import registry
from connectors.targets.base import Probe, RemoteTarget, Runner, ServiceCommands
from core.crash import crash_point
from core.errors import CertctlError, Transient
from core.secret import Secret
from core.wire import DeploymentItem, Failure, Finding, TrialItem, TrialReport

in_thread = trio.to_thread.run_sync


class _Service:
    """Who waits for a service, and the lock that one group at a time holds."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.waiting: list[Member] = []

    def take(self, leader: Member) -> list[Member]:
        """Take the leader and all that can be committed with it: equal commands, other files, another target."""
        group, paths = [leader], set(leader.paths)
        for member in self.waiting:
            if member is leader or member.prepared.commands != leader.prepared.commands:
                continue
            if paths.isdisjoint(member.paths) and member.target_id not in {other.target_id for other in group}:
                group.append(member)
                paths |= member.paths
        self.waiting = [member for member in self.waiting if member not in group]
        return group


class Deployer:
    """Installs certificates on this host; one per agent.

    ``parallel`` is how many services it changes at once, ``sealing_key`` what opens the secrets of targets.
    """

    def __init__(
        self,
        state_dir: Path,
        policy: HostPolicy,
        *,
        runner: Runner | None = None,
        probe: Probe = tls.probe,
        parallel: int = 4,
        sealing_key: X25519PrivateKey | None = None,
    ) -> None:
        journals = JournalFolder(state_dir / "journal")
        self._tools = Tools(journals, state_dir / "scratch", runner or HostRunner(), probe)
        self._policy = policy
        self._sealing_key = sealing_key
        self._services: defaultdict[tuple[str, str], _Service] = defaultdict(_Service)
        self._slots = trio.CapacityLimiter(parallel)
        self._remote = Remote(state_dir / "journal-remote", probe)
        self.installations = Installations(state_dir / "installed")
        self._places: defaultdict[tuple[str, str, str], trio.Lock] = defaultdict(trio.Lock)

    @property
    def policy(self) -> HostPolicy:
        """Return the rules in force."""
        return self._policy

    def take_policy(self, policy: HostPolicy) -> None:
        """Go by other rules from the next deployment on."""
        self._policy = policy

    async def deploy(self, item: DeploymentItem, private_key_pem: Secret[bytes]) -> DeploymentOutcome:
        """Install one version in one target and prove that it is served; the outcome says how it went."""
        outcome = await self._deploy(item, private_key_pem)
        if outcome.failure is None:
            await self.installations.keep(item)
        return outcome

    async def _deploy(self, item: DeploymentItem, private_key_pem: Secret[bytes]) -> DeploymentOutcome:
        progress = Progress()
        try:
            prepared = self._prepare(item, private_key_pem, progress)
        except CertctlError as error:
            return progress.failed(error)
        if isinstance(prepared, PreparedDelivery):
            return await self._deliver(prepared, progress)
        member = Member(prepared, progress, self._tools.journals)
        await self._in_turn(self._services[item.target_type, prepared.service.name], member)
        assert member.outcome is not None, "a group gives each member its outcome"  # noqa: S101
        return member.outcome

    async def try_out(self, item: TrialItem) -> TrialReport:
        """Do all of a deployment that changes nothing, and say which step would fail."""
        progress, failure = Progress(), None
        try:
            await self._try_out(item, progress)
        except CertctlError as error:
            failure = Failure(progress.current, error.detail, isinstance(error, Transient))
        return TrialReport(tuple(progress.steps), failure)

    async def inspect(self, installed: Installed, private_key_pem: Secret[bytes]) -> Finding | None:
        """Look again at what was installed; None while its target is being changed. Raises why it cannot be looked at.

        Nothing is held while the server is asked: a finding that a deployment overtakes is about an earlier version.
        """
        prepared = self._prepare(installed.item, private_key_pem, Progress())
        if isinstance(prepared, PreparedDelivery):
            async with self._places[prepared.place], self._slots:
                stand = await at_place(prepared)
        else:
            async with self._services[installed.item.target_type, prepared.service.name].lock, self._slots:
                if await in_thread(self._tools.journals.read, installed.item.target_id) is not None:
                    return None
                stand = await in_thread(at_paths, prepared, self._tools.journals)
        return await finding(prepared, stand, installed.told, self._tools.probe)

    async def _try_out(self, item: TrialItem, progress: Progress) -> None:
        prepared = self._prepare(*stand_in(item), progress)
        if isinstance(prepared, PreparedDelivery):
            async with self._places[prepared.place], self._slots:
                await try_remote(prepared, progress, self._tools)
            return
        async with self._services[item.target_type, prepared.service.name].lock, self._slots:
            await try_files(Member(prepared, progress, self._tools.journals), self._tools)

    def _prepare(self, item: DeploymentItem, key_pem: Secret[bytes], progress: Progress) -> Prepared | PreparedDelivery:
        with progress.doing("prepared", record=False):
            remote = isinstance(registry.find(item.target_type), RemoteTarget)
            return (prepare_delivery if remote else prepare)(item, key_pem, self._policy, self._sealing_key)

    async def _deliver(self, prepared: PreparedDelivery, progress: Progress) -> DeploymentOutcome:
        async with self._places[prepared.place], self._slots:
            return await self._remote.deliver(prepared, progress)

    async def _in_turn(self, service: _Service, member: Member) -> None:
        """Wait for the service; whoever gets it first works for all who wait."""
        service.waiting.append(member)
        try:
            async with service.lock:
                if member.outcome is not None:
                    return
                # The service first: what waits for its turn there must not take a slot from another service.
                async with self._slots:
                    crash_point("deploy.locked")
                    await self._lead(service, member)
        finally:
            if member in service.waiting:
                service.waiting.remove(member)

    async def _lead(self, service: _Service, leader: Member) -> None:
        group = service.take(leader)
        try:
            await Group(self._tools).run(group)
        finally:
            # After a defect in the leader's run each of the others leads its own.
            for member in group:
                if member.outcome is None and member is not leader:
                    member.begin()
                    service.waiting.append(member)

    async def repair(self) -> list[str]:
        """Undo what an interrupted run left unfinished; return one sentence per target, for the log. Call at start."""
        together: defaultdict[tuple[str, str, ServiceCommands], list[Journal]] = defaultdict(list)
        obstacles: dict[str, CertctlError] = {}
        targets = await in_thread(self._tools.journals.targets)
        for target_id in targets:
            try:
                journal = await in_thread(self._tools.journals.read, target_id)
                if journal is not None:
                    together[journal.target_type, journal.service, self._commands(journal)].append(journal)
            except CertctlError as error:
                obstacles[target_id] = error
        for (target_type, name, commands), journals in together.items():
            async with self._services[target_type, name].lock:
                obstacles |= await undo_interrupted(journals, self._tools.journals, commands, self._tools.runner)
        told = [_told(target_id, obstacles.get(target_id)) for target_id in targets]
        return [*told, *await self._repair_remote()]

    async def _repair_remote(self) -> list[str]:
        told: list[str] = []

        async def repair(target_id: str) -> None:
            async with self._slots:
                try:
                    left_alone = await self._remote.repair(target_id, self._policy, self._sealing_key)
                except CertctlError as error:
                    told.append(_told(target_id, error))
                else:
                    told.append(f"{target_id}: {left_alone}" if left_alone else _told(target_id, None))

        async with trio.open_nursery() as nursery:
            for target_id in await in_thread(self._remote.journals.targets):
                nursery.start_soon(repair, target_id)
        return told

    def _commands(self, journal: Journal) -> ServiceCommands:
        facts = self._policy.service(journal.target_type, journal.service)
        connector: Any = registry.find(journal.target_type)
        return resolve_commands(
            self._policy, connector, facts, journal.validate_action, journal.reload_action, api=journal.api
        )


def _told(target_id: str, obstacle: CertctlError | None) -> str:
    if obstacle is not None:
        return f"{target_id}: an interrupted deployment could not be undone: {obstacle.detail}"
    return f"{target_id}: an interrupted deployment was undone, the previous state is back"
