"""The deploy transaction: look → stage → validate → journal → publish → check → reload → see it served, or undo.

One transaction at a time per service; different services run in parallel. What fails on the host becomes a ``Failure``
in the outcome; only defects of certctl itself are raised, and they leave the journal behind for ``repair``.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import structlog
import trio

from agent.deployment import service
from agent.deployment.commands import HostRunner
from agent.deployment.installation import Installation, Snapshot
from agent.deployment.journal import Journal, JournalFolder
from agent.deployment.outcome import DeploymentOutcome, Progress
from agent.deployment.prepare import Prepared, prepare, resolve_commands
from agent.deployment.undo import undo_before_retry, undo_failed, undo_interrupted
from agent.policy import HostPolicy
from connectors.probes import tls
from connectors.targets import registry
from connectors.targets.base import Probe, Runner, ServiceCommands
from core.crash import crash_point
from core.errors import CertctlError, Transient
from core.secret import Secret
from core.wire import DeploymentItem

_log = structlog.get_logger(__name__)

in_thread = trio.to_thread.run_sync


class Deployer:
    """Installs certificates on this host; one per agent. ``parallel`` is how many services it changes at once."""

    def __init__(
        self,
        state_dir: Path,
        policy: HostPolicy,
        *,
        runner: Runner | None = None,
        probe: Probe = tls.probe,
        parallel: int = 4,
    ) -> None:
        self._journals = JournalFolder(state_dir / "journal")
        self._scratch = state_dir / "scratch"
        self._policy = policy
        self._runner = runner or HostRunner()
        self._probe = probe
        self._locks: defaultdict[tuple[str, str], trio.Lock] = defaultdict(trio.Lock)
        self._slots = trio.CapacityLimiter(parallel)

    def take_policy(self, policy: HostPolicy) -> None:
        """Go by other rules from the next deployment on."""
        self._policy = policy

    async def deploy(self, item: DeploymentItem, private_key_pem: Secret[bytes]) -> DeploymentOutcome:
        """Install one version in one target and prove that it is served; the outcome says how it went."""
        progress = Progress()
        try:
            with progress.doing("prepared", record=False):
                prepared = prepare(item, private_key_pem, self._policy)
        except CertctlError as error:
            return progress.failed(error)
        # The service first: what waits for its turn there must not take a slot from another service.
        async with self._locks[item.target_type, prepared.service.name], self._slots:
            crash_point("deploy.locked")
            return await self._transact(prepared, progress)

    async def repair(self) -> list[str]:
        """Undo what an interrupted run left unfinished; return one sentence per target, for the log. Call at start."""
        messages = []
        for target_id in await in_thread(self._journals.targets):
            try:
                journal = await in_thread(self._journals.read, target_id)
                if journal is not None:
                    async with self._locks[journal.target_type, journal.service]:
                        await undo_interrupted(journal, self._journals, self._commands(journal), self._runner)
            except CertctlError as error:
                messages.append(f"{target_id}: an interrupted deployment could not be undone: {error.detail}")
            else:
                messages.append(f"{target_id}: an interrupted deployment was undone, the previous state is back")
        return messages

    def _commands(self, journal: Journal) -> ServiceCommands:
        facts = self._policy.service(journal.target_type, journal.service)
        connector = registry.find(journal.target_type)
        return resolve_commands(self._policy, connector, facts, journal.validate_action, journal.reload_action)

    async def _transact(self, prepared: Prepared, progress: Progress) -> DeploymentOutcome:
        installation = Installation(prepared, self._journals)
        try:
            await self._put_back_leftover(prepared, progress)
            with progress.doing("looked", record=False):
                snapshot = await in_thread(installation.look)
            if snapshot.complete:
                return await self._confirm(prepared, progress)
            await self._stage(prepared, installation, snapshot, progress)
            with progress.doing("published"):
                await in_thread(installation.publish, snapshot)
            await self._activate(prepared, progress)
            await in_thread(installation.settle)
        except CertctlError as error:
            return await self._back_out(prepared, installation, progress, error)
        await self._prune(prepared, installation)
        return progress.ended("served", prepared.item.fingerprint)

    async def _put_back_leftover(self, prepared: Prepared, progress: Progress) -> None:
        """Finish the undo of an interrupted attempt."""
        with progress.doing("repaired", record=False):
            journal = await in_thread(self._journals.read, prepared.item.target_id)
            if journal is not None:
                await undo_before_retry(journal, self._journals, prepared.commands, self._runner)

    async def _confirm(self, prepared: Prepared, progress: Progress) -> DeploymentOutcome:
        """See whether the files in place are served, and let the daemon load them when they are not."""
        fingerprint = prepared.item.fingerprint
        with progress.doing("served"):
            served = await service.is_served(prepared.endpoint, fingerprint, self._probe)
        if served:
            return progress.ended("unchanged", fingerprint)
        progress.steps.clear()
        await self._activate(prepared, progress)
        return progress.ended("served", fingerprint)

    async def _stage(
        self, prepared: Prepared, installation: Installation, snapshot: Snapshot, progress: Progress
    ) -> None:
        with progress.doing("staged"):
            staged = await in_thread(installation.stage, snapshot)
        with progress.doing("validated"):
            tried = await service.try_staged(prepared, staged, self._scratch, self._runner)
        if not tried:
            progress.steps.pop()
        crash_point("deploy.validated")

    async def _activate(self, prepared: Prepared, progress: Progress) -> None:
        """Service-wide from here: everything that was published is checked, loaded and looked at."""
        with progress.doing("checked", record=prepared.commands.check is not None):
            await service.check_live(prepared.commands, self._runner)
        crash_point("deploy.checked")
        with progress.doing("reloaded"):
            await service.reload_with(prepared, self._runner, self._probe)
        crash_point("deploy.reloaded")
        with progress.doing("served"):
            await service.wait_until_served(prepared.endpoint, prepared.item.fingerprint, self._probe)
        crash_point("deploy.served")

    async def _back_out(
        self, prepared: Prepared, installation: Installation, progress: Progress, error: CertctlError
    ) -> DeploymentOutcome:
        journal = installation.journal
        if journal is not None:
            if journal.is_first and progress.current == "reloaded":
                return await self._leave_for_the_start(prepared, installation, progress, error)
            return await self._undo(prepared, journal, progress, error)
        try:
            await in_thread(installation.discard)
        except CertctlError as leftover:
            _log.warning("staged_files_left", target_id=prepared.item.target_id, cause=leftover.detail)
        return progress.failed(error, served=await service.served_now(prepared.endpoint, self._probe))

    async def _leave_for_the_start(
        self, prepared: Prepared, installation: Installation, progress: Progress, error: CertctlError
    ) -> DeploymentOutcome:
        """Leave the first files of a server that does not run yet, since it may need them to start at all."""
        served = await service.served_now(prepared.endpoint, self._probe)
        if served and installation.journal is not None:
            return await self._undo(prepared, installation.journal, progress, error)
        await in_thread(installation.settle)
        told = Transient(f"{error.detail} The files are in place: start it, and the next attempt sees them served")
        return progress.failed(told)

    async def _undo(
        self, prepared: Prepared, journal: Journal, progress: Progress, error: CertctlError
    ) -> DeploymentOutcome:
        step = progress.current
        with progress.doing("undone"):
            undone = await undo_failed(prepared, journal, self._journals, (self._runner, self._probe), (step, error))
        if undone.undo == "failed":
            _log.error("undo_failed", target_id=journal.target_id, cause=undone.error.detail)
        return progress.failed(undone.error, step=step, undo=undone.undo, served=undone.served)

    async def _prune(self, prepared: Prepared, installation: Installation) -> None:
        try:
            await in_thread(installation.prune)
        except CertctlError as error:
            _log.warning("old_versions_left", target_id=prepared.item.target_id, cause=error.detail)
