"""One simulated host: the real agent from its disk upwards, around a simulated server.

It lives until its process ends. A crash abandons whatever its tasks wait for and begins again from the disk, as a new
process would: with a new ``boot``, after repair, with nothing in memory. What a worker thread has begun it finishes.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import structlog
import trio

from agent.activity import Activity
from agent.coordinator import Coordinator
from agent.daemon import tidy
from agent.deployment.deployer import Deployer
from agent.enrollment import ensure_enrolled
from agent.files import own_folder
from agent.heads import HeadLog
from agent.host import describe
from agent.identity import Identity, load_identity
from agent.keystore import Keystore
from agent.settings import Settings, load
from agent.work import Worker
from benchmarks.fleet.config import AgentEntry, Config, Faults
from benchmarks.fleet.network import BadNetwork
from benchmarks.fleet.server import SimulatedServer
from core.errors import CertctlError
from core.wire import Work

log = structlog.get_logger(__name__)
Tell = Callable[..., None]
"""Takes the name of an event and its fields."""

in_thread = trio.to_thread.run_sync


class Host:
    """One agent and its host. ``tell`` hears what happens to it."""

    def __init__(self, entry: AgentEntry, config: Config, faults: Faults, shared: Shared, tell: Tell) -> None:
        self.name = entry.name
        self._faults = faults
        self._shared = shared
        self._tell = tell
        self._home = config.home(entry.name)
        self._settings = settings_of(entry, config)
        self._life = trio.CancelScope()
        self._activity: Activity | None = None

    @property
    def busy(self) -> bool:
        """Say whether a job is in its hands."""
        return self._activity is not None and bool(self._activity.held)

    def crash(self) -> None:
        """Abandon everything at this moment; the host starts its agent again at once."""
        self._tell("crashed", agent=self.name)
        self._life.cancel()

    async def run(self, stopping: trio.Event) -> None:
        """Run the agent, again after each crash, until ``stopping`` is set or it was retired."""
        while not stopping.is_set():
            with trio.CancelScope() as self._life:
                try:
                    if await self._live(stopping):
                        return
                except CertctlError as error:
                    # A service manager starts a daemon again that could not start.
                    log.warning("agent_ended", agent=self.name, detail=error.detail)
                    await trio.sleep(random.uniform(1, 5))

    async def _live(self, stopping: trio.Event) -> bool:
        """Live as the daemon does; say whether the agent was retired."""
        settings = self._settings
        async with AsyncExitStack() as stack:
            async with self._shared.starting:
                identity, keystore, server = await in_thread(self._open)
                deployer = Deployer(settings.state_dir, server.policy(), runner=server, probe=server.probe, parallel=4)
                for message in await deployer.repair():
                    self._tell("repaired", agent=self.name, detail=message)
                client = await stack.enter_async_context(self._client(identity))
                await ensure_enrolled(settings, identity, client, self._shared.metadata)
            self._activity = activity = _Watched(self._tell, self.name)
            worker = Worker(identity, client, keystore, deployer, activity, stopping, HeadLog(settings.state_dir))
            await worker.run()
            return bool(worker.retired)

    def _open(self) -> tuple[Identity, Keystore, SimulatedServer]:
        settings = self._settings
        for folder in (settings.state_dir, settings.key_dir):
            own_folder(folder, "CERTCTL_STATE_DIR")
        identity, keystore = load_identity(settings.state_dir), Keystore(settings.key_dir)
        keystore.sweep()
        tidy(settings.state_dir)
        return identity, keystore, SimulatedServer(self._home)

    def _client(self, identity: Identity) -> Coordinator:
        transport = BadNetwork(self._shared.context, self._faults)
        return _Client(self._settings.server_url, identity, self._shared, transport, self._clock, self._tell)

    def _clock(self) -> float:
        return time.time() + self._faults.clock_offset_s


class Shared:
    """What the agents of a process have in common: trust, the description of the host, and room to start in.

    Hosts that are switched on together have processors of their own; here only some start at once.
    """

    def __init__(self, context: ssl.SSLContext, url: str) -> None:
        self.context = context
        self.metadata = describe(url)
        self.starting = trio.CapacityLimiter(32)


class _Client(Coordinator):
    """The real client; it tells when work came out of the socket."""

    def __init__(
        self,
        url: str,
        identity: Identity,
        shared: Shared,
        transport: BadNetwork,
        clock: Callable[[], float],
        tell: Tell,
    ) -> None:
        super().__init__(url, identity, shared.metadata, shared.context, transport=transport, clock=clock)
        self._tell = tell

    async def poll(self, *arguments: Any, **options: Any) -> Work:
        """Poll, and tell of each item."""
        work = await super().poll(*arguments, **options)
        for item in work.items:
            self._tell("received", agent=self._identity.agent_id, job=item.job_id, epoch=item.lease_epoch)
        return work


class _Watched(Activity):
    """The real record of what an agent is about; it tells when the coordinator is found and lost."""

    def __init__(self, tell: Tell, name: str) -> None:
        super().__init__()
        self._tell = tell
        self._name = name

    def note_answer(self) -> None:
        """Tell that the coordinator is there, when it was not."""
        if not self.connected:
            self._tell("connected", agent=self._name)
        super().note_answer()

    def note_trouble(self, detail: str) -> None:
        """Tell that the coordinator is away, when it was not."""
        if self.connected:
            self._tell("disconnected", agent=self._name, detail=detail)
        super().note_trouble(detail)


def settings_of(entry: AgentEntry, config: Config) -> Settings:
    """Return what the agent's environment would say."""
    return load(
        {
            "CERTCTL_SERVER_URL": config.coordinator,
            "CERTCTL_SERVER_CA_BUNDLE_PATH": config.ca,
            "CERTCTL_AGENT_NAME": entry.name,
            "CERTCTL_STATE_DIR": str(config.home(entry.name) / "state"),
            "CERTCTL_AGENT_LISTEN": "",
            "CERTCTL_AGENT_BOOTSTRAP_TOKEN": entry.token,
        }
    )
