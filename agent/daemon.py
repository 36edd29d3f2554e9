"""The nursery: starts everything in order, supervises the loops, ends in order.

A loop that crashes is logged and started again with a growing pause; it never takes the others down. The broad
``except`` here is the supervisor's. SIGTERM and SIGINT finish the deployments in hand, then stop; a second one stops
at once.
"""

from __future__ import annotations

import fcntl
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO

import structlog
import trio

from agent.backoff import Backoff, until_answered
from agent.coordinator import Coordinator, trust
from agent.deployment.deployer import Deployer
from agent.endpoint import check_listen, serve_page
from agent.enrollment import ensure_enrolled
from agent.host import describe
from agent.identity import load_identity
from agent.keystore import Keystore
from agent.policy import DEFAULT_PATH, load_policy
from agent.settings import Settings, make_private_folder
from agent.work import Activity, Worker
from core.crash import crash_point
from core.errors import Gone, Misconfigured

log = structlog.get_logger(__name__)
_FINISH_S = 120.0


async def run(settings: Settings) -> None:
    """Run until told to stop or retired; raise ``Misconfigured`` for whatever prevents the start."""
    make_private_folder(settings.state_dir, "CERTCTL_STATE_DIR")
    make_private_folder(settings.key_dir, "CERTCTL_KEY_DIR")
    with _only_one(settings.state_dir):
        await _run(settings)


def _only_one(state_dir: Path) -> BinaryIO:
    """Hold the state folder's lock; it ends with the process, however that ends."""
    lock = (state_dir / "agent.lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        message = f"CERTCTL_STATE_DIR: another agent runs on {state_dir}; give this one a folder of its own"
        raise Misconfigured(message) from error
    return lock


async def _run(settings: Settings) -> None:
    policy = load_policy(settings.config_path or DEFAULT_PATH, required=settings.config_path is not None)
    if settings.listen:
        check_listen(settings.listen)
    identity = load_identity(settings.state_dir)
    metadata = describe(settings.server_url)
    deployer = Deployer(settings.state_dir, policy, parallel=settings.max_parallel)
    for message in await deployer.repair():
        log.warning("deployment_repaired", detail=message)
    crash_point("agent.repaired")
    client = Coordinator(settings, identity, metadata, await until_answered("trust", lambda: trust(settings)))
    activity = Activity()
    worker = Worker(identity, client, Keystore(settings.key_dir), deployer, activity)
    try:
        await ensure_enrolled(settings, identity, client, metadata)
        log.info("ready", agent_id=identity.agent_id, name=settings.name, server=settings.server_url)
        async with trio.open_nursery() as nursery:
            stopping = trio.Event()
            nursery.start_soon(_on_signals, stopping, nursery.cancel_scope)
            if settings.listen:
                listen = settings.listen
                nursery.start_soon(_supervised, "page", lambda: serve_page(listen, identity, activity))
            await _supervised("worker", lambda: worker.run(stopping))
            nursery.cancel_scope.cancel()
    except* Gone as group:
        log.warning("retired", detail=str(group.exceptions[0]))
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
            await client.aclose()


async def _supervised(name: str, run_loop: Callable[[], Awaitable[None]]) -> None:
    """Run a loop to its end, starting it again whenever it crashes."""
    backoff = Backoff()
    while True:
        try:
            await run_loop()
        except* Gone:
            raise
        except* Exception:
            log.exception("loop_crashed", loop=name)
        else:
            return
        await backoff.pause()


async def _on_signals(stopping: trio.Event, everything: trio.CancelScope) -> None:
    """First signal: stop taking work and finish what is in hand, within two minutes. Second signal: stop now."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            if stopping.is_set():
                everything.cancel()
                return
            log.info("stopping")
            stopping.set()
            everything.deadline = trio.current_time() + _FINISH_S
