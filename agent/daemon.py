"""Starts everything in order, ends in order.

The first SIGTERM or SIGINT ends all waiting, takes no more work and finishes the deployments in hand; a second one
stops at once. The page answers from the start on, so that a host can see why its agent has no coordinator yet.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import structlog
import trio

from agent.activity import Activity
from agent.backoff import until_answered
from agent.coordinator import Coordinator
from agent.deployment.deployer import Deployer
from agent.drift import DriftWatch
from agent.enrollment import ensure_enrolled
from agent.files import explained, own_folder, sweep
from agent.heads import HeadLog
from agent.host import describe
from agent.identity import Identity, load_identity
from agent.keystore import Keystore
from agent.policy import DEFAULT_PATH, HostPolicy, load_policy
from agent.settings import Settings
from agent.supervision import supervised
from agent.trust import trust
from agent.work import Worker
from core.crash import crash_point
from core.errors import CertctlError, Misconfigured

log = structlog.get_logger(__name__)
FINISH_S = 120.0
"""How long deployments in hand may take after the first signal; what is cut off then is undone at the next start."""

in_thread = trio.to_thread.run_sync


async def run(settings: Settings) -> None:
    """Run until told to stop or retired; raise ``Misconfigured`` for whatever prevents the start."""
    own_folder(settings.state_dir, "CERTCTL_STATE_DIR")
    own_folder(settings.key_dir, "CERTCTL_KEY_DIR")
    problem: CertctlError | None = None
    with _only_one(settings.state_dir):
        async with trio.open_nursery() as nursery:
            stop = Stop(nursery.cancel_scope)
            await nursery.start(stop.on_signals)
            try:
                await _live(settings, stop, nursery)
            except CertctlError as error:
                problem = error
            nursery.cancel_scope.cancel()
    if problem is not None:
        # Raised here, because a nursery would wrap it.
        raise problem


class Stop:
    """How the daemon ends: ``asked`` is set by the first signal, which also ends ``waiting``."""

    def __init__(self, everything: trio.CancelScope) -> None:
        self.asked = trio.Event()
        self.waiting = trio.CancelScope()
        self._everything = everything

    async def on_signals(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Turn signals into a stop."""
        signalled = False
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                if signalled:
                    self._everything.cancel()
                    return
                signalled = True
                log.info("stopping")
                self.asked.set()
                self.waiting.cancel()
                self._everything.deadline = trio.current_time() + FINISH_S


@contextmanager
def _only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state folder's lock; it ends with the process, however that ends."""
    with explained("locking the state folder"):
        descriptor = os.open(state_dir / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"CERTCTL_STATE_DIR: another agent runs on {state_dir}; give this one a folder of its own"
            raise Misconfigured(message) from error
        yield


async def _live(settings: Settings, stop: Stop, nursery: trio.Nursery) -> None:
    policy = _policy(settings)
    identity = await in_thread(load_identity, settings.state_dir)
    keystore, activity = Keystore(settings.key_dir), Activity()
    await in_thread(keystore.sweep)
    await in_thread(tidy, settings.state_dir)
    async with AsyncExitStack() as stack:
        if settings.listen:
            from agent.endpoint import open_listener, serve_page  # noqa: PLC0415 - a third of the start, and of use here

            listener = stack.enter_context(open_listener(settings.listen))
            nursery.start_soon(supervised, "page", lambda: serve_page(listener, identity, activity))
        deployer = await _repaired(settings, policy, identity)
        nursery.start_soon(_on_hangup, settings, deployer)
        client = await _connect(settings, identity, activity, stop, stack)
        if client is None:
            return
        log.info("ready", agent_id=identity.agent_id, name=settings.name, server=settings.server_url)
        if settings.drift_interval:
            watch = DriftWatch(deployer, keystore, client, settings.drift_interval.total_seconds())
            nursery.start_soon(supervised, "drift", watch.run)
        heads = HeadLog(settings.state_dir)
        worker = Worker(identity, client, keystore, deployer, activity, stop.asked, heads)
        await worker.run()
        if worker.retired:
            log.warning("retired", detail=worker.retired)


def tidy(state_dir: Path) -> None:
    """Remove what a crash left of trials, and of journals and records that were not whole yet; all begin anew."""
    with explained("tidying the state folder"):
        for folder in ("journal", "journal-remote", "installed"):
            sweep(state_dir / folder)
        if (state_dir / "scratch").is_dir():
            shutil.rmtree(state_dir / "scratch")


def _policy(settings: Settings) -> HostPolicy:
    return load_policy(settings.config_path or DEFAULT_PATH, required=settings.config_path is not None)


async def _on_hangup(settings: Settings, deployer: Deployer) -> None:
    """Read agent.toml again on SIGHUP; rules that cannot be used leave those in force."""
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        async for _ in signals:
            try:
                deployer.take_policy(await in_thread(_policy, settings))
            except Misconfigured as error:
                log.error("policy_not_loaded", detail=error.detail)  # noqa: TRY400 - no traceback for a bad file
            else:
                log.info("policy_loaded")


async def _repaired(settings: Settings, policy: HostPolicy, identity: Identity) -> Deployer:
    """Return the deployer after it has undone what an interrupted run left."""
    deployer = Deployer(settings.state_dir, policy, parallel=settings.max_parallel, sealing_key=identity.sealing)
    for message in await deployer.repair():
        log.warning("deployment_repaired", detail=message)
    crash_point("agent.repaired")
    return deployer


async def _connect(
    settings: Settings, identity: Identity, activity: Activity, stop: Stop, stack: AsyncExitStack
) -> Coordinator | None:
    """Return the client of a coordinator that knows this agent, however long that takes; None when told to stop."""
    note = activity.note_trouble
    with stop.waiting:
        metadata = await in_thread(describe, settings.server_url, abandon_on_cancel=True)
        context = await until_answered("reach the coordinator", lambda: trust(settings), note=note)
        client = await stack.enter_async_context(Coordinator(settings.server_url, identity, metadata, context))
        await ensure_enrolled(settings, identity, client, metadata, note)
        return client
    return None
