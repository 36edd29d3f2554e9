"""Wake-ups: how a long poll or a loop learns at once that there is something to look at, on whichever replica it waits.

A topic is a short string (``agent:ag-…``). ``notify`` wakes this process's waiters directly and hands the topics to
one task, which tells the other replicas in batches by ``pg_notify`` on a connection of its own. A NOTIFY inside of each
transaction would serialise the commits of the whole server instead.

A wake-up is a hint and carries no data. It can be lost with the database; a waiter's timeout is the safety net, and
after a new LISTEN everybody is woken once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, Self, TypeAlias

import structlog

from coordinator.database import driver
from coordinator.database.driver import RawConnection
from coordinator.metrics import service as metrics
from core.errors import Transient

CHANNEL = "certctl"
MAX_PAYLOAD_BYTES = 7_500  # the server takes less than 8,000
MAX_TOPIC_BYTES = 200
MAX_PENDING = 50_000
MAX_UNDER_WAY = 1_000
EVERYBODY = "*"
START_DEADLINE_S = 15.0
PING_EVERY_S, PING_DEADLINE_S = 30.0, 10.0
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
TELL_DEADLINE_S = 1.0
GATHER_S = 0.01
"""Between two batches, so that many commits in a row make few of them; the first one goes at once."""
# The commits of notifications need not reach the disk: what they announce is there already.
SESSION = {"application_name": "certctl wake-ups", "synchronous_commit": "off", "statement_timeout": "10s"}

Use: TypeAlias = Callable[[RawConnection, Callable[[], None]], Awaitable[None]]

log = structlog.get_logger(__name__)


class Waiter:
    """One subscription. Subscribe first, then look, then wait: what happens after the look is not missed."""

    __slots__ = ("_future", "_hub", "_woken", "topic")

    def __init__(self, hub: WakeUps, topic: str) -> None:
        self._hub = hub
        self.topic = topic
        self._woken = False
        self._future: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        self._hub._waiters.setdefault(self.topic, set()).add(self)  # noqa: SLF001 - the hub's other half
        return self

    def __exit__(self, *_exception: object) -> None:
        self._hub._forget(self)  # noqa: SLF001 - the hub's other half

    async def wait(self, timeout_s: float) -> bool:
        """Wait for the next wake-up; return True for one, False when the time is over or the hub is closing.

        A wake-up since the last call counts, several count once. To be awaited by one task at a time.
        """
        if not self._woken and not self._hub.closed:
            loop = asyncio.get_running_loop()
            self._future = future = loop.create_future()
            timer = loop.call_later(max(0.0, timeout_s), _settle, future)
            try:
                await future
            finally:
                timer.cancel()
                self._future = None
        woken, self._woken = self._woken, False
        return woken and not self._hub.closed

    def wake(self) -> None:
        """End the present or the next ``wait``."""
        self._woken = True
        if self._future is not None:
            _settle(self._future)


class WakeUps:
    """The hub of one replica."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._replica = os.urandom(8).hex()
        self._waiters: dict[str, set[Waiter]] = {}
        self._pending: dict[str, None] = {}
        self._since = 0.0
        self._under_way: deque[float] = deque(maxlen=MAX_UNDER_WAY)
        self._work = asyncio.Event()
        self._listening = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.closed = False

    @property
    def connected(self) -> bool:
        """Tell whether this replica hears the others at present."""
        return self._listening.is_set()

    async def start(self) -> None:
        """Connect; return once wake-ups of other replicas are heard."""
        self._tasks = [
            _supervised("notifier", self._again_and_again(self._tell_others)),
            _supervised("listener", self._again_and_again(self._listen)),
        ]
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                await self._listening.wait()
        except TimeoutError as error:
            await self.close()
            raise Transient("database is not reachable: LISTEN was not possible in time") from error

    async def close(self) -> None:
        """Wake everybody – their ``wait`` returns False – tell what is still to be told, and end both connections."""
        self.closed = True
        self._wake([EVERYBODY])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TELL_DEADLINE_S):
                # Our own word comes back to us as well. Once in a process's life, and for a moment.
                while self.connected and (self._pending or self._under_way):  # noqa: ASYNC110
                    await asyncio.sleep(GATHER_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listening.clear()

    def wake_everybody(self) -> None:
        """Wake every waiter of this process, so that each looks again; for a stop that is under way."""
        self._wake([EVERYBODY])

    def subscribe(self, topic: str) -> Waiter:
        """Return a waiter, to be used as ``with hub.subscribe(topic) as waiter``."""
        _check(topic)
        return Waiter(self, topic)

    def notify(self, topics: Iterable[str]) -> None:
        """Wake the waiters of these topics here now and on the other replicas soon; for after a commit."""
        found = list(topics)
        for topic in found:
            _check(topic)
        self._wake(found)
        self._since = self._since if self._pending else time.perf_counter()
        self._pending.update(dict.fromkeys(found))
        if len(self._pending) > MAX_PENDING:
            # The database has been away for long; one wake-up for all is less than what has piled up.
            self._pending = {EVERYBODY: None}
        self._work.set()

    def _wake(self, topics: Iterable[str]) -> None:
        for topic in topics:
            if topic == EVERYBODY:
                for waiters in self._waiters.values():
                    for waiter in waiters:
                        waiter.wake()
            else:
                for waiter in self._waiters.get(topic, ()):
                    waiter.wake()

    def _forget(self, waiter: Waiter) -> None:
        waiters = self._waiters.get(waiter.topic, set())
        waiters.discard(waiter)
        if not waiters:
            self._waiters.pop(waiter.topic, None)

    async def _tell_others(self, connection: RawConnection, healthy: Callable[[], None]) -> None:
        """Send what is pending, again and again; while one batch is under way the next one gathers."""
        healthy()
        # A lost connection shows with the next statement; let that be now and not when it matters.
        connection.add_termination_listener(lambda *_: self._work.set())
        while True:
            await self._work.wait()
            self._work.clear()
            topics, self._pending = self._pending, {}
            told = list(payloads(self._replica, topics))
            self._under_way.extend([self._since] * len(told))
            try:
                await connection.execute(
                    "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload",
                    CHANNEL,
                    told,
                )
            except BaseException:
                self._under_way.clear()
                self._pending = topics | self._pending
                self._work.set()
                raise
            await asyncio.sleep(GATHER_S)

    async def _listen(self, connection: RawConnection, healthy: Callable[[], None]) -> None:
        """Hear the other replicas until the connection is lost."""
        lost = asyncio.Event()
        connection.add_termination_listener(lambda *_: lost.set())
        await connection.add_listener(CHANNEL, self._heard)
        healthy()
        self._under_way.clear()
        self._listening.set()
        self._wake([EVERYBODY])
        try:
            while not lost.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PING_EVERY_S):
                        await lost.wait()
                if not lost.is_set():
                    await connection.execute("SELECT 1", timeout=PING_DEADLINE_S)
        finally:
            self._listening.clear()

    def _heard(self, _connection: RawConnection, _pid: int, _channel: str, payload: object) -> None:
        replica, *topics = str(payload).split("\n")
        if replica != self._replica:
            self._wake(topics)
        elif self._under_way:
            metrics.woken(time.perf_counter() - self._under_way.popleft())

    async def _again_and_again(self, use: Use) -> None:
        """Use a connection of its own; connect again, less and less eagerly, whenever it is lost."""
        pause_s = SHORTEST_PAUSE_S

        def healthy() -> None:
            nonlocal pause_s
            pause_s = SHORTEST_PAUSE_S

        while True:
            try:
                connection = await driver.connect(self._dsn, SESSION)
                try:
                    await use(connection, healthy)
                finally:
                    connection.terminate()
            except driver.ANY_FAILURE as error:
                log.warning("wakeups_connection_lost", error=type(error).__name__)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads the replicas, no secret
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def payloads(replica: str, topics: Iterable[str]) -> Iterator[str]:
    """Pack topics into as few notifications as the server's limit allows; the first line names the sender."""
    lines, size = [replica], len(replica)
    for topic in topics:
        length = len(topic.encode()) + 1
        if size + length > MAX_PAYLOAD_BYTES:
            yield "\n".join(lines)
            lines, size = [replica], len(replica)
        lines.append(topic)
        size += length
    yield "\n".join(lines)


def _check(topic: str) -> None:
    if not topic or "\n" in topic or "\0" in topic or len(topic.encode()) > MAX_TOPIC_BYTES:
        message = f"a topic is a short line of text, not {topic[:40]!r}"
        raise ValueError(message)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _supervised(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a task whose end by an error is a defect, and make that visible when it happens."""

    def tell(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            log.critical("wakeups_task_failed", task=name, exc_info=error)

    task = asyncio.create_task(work, name=f"wake-ups {name}")
    task.add_done_callback(tell)
    return task
