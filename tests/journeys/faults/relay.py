"""A cable between a program and the coordinator that a test can cut, hold and lead elsewhere.

It passes bytes and knows nothing of what they say, so what runs through it is the product's own TLS. What is *held*
arrives later, as TCP brings it after packets were lost; what is *lost* never arrives, and only a cut tells the ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from anyio.from_thread import BlockingPortal, start_blocking_portal

from benchmarks.lab.fleet import Coordinator

_RESET = struct.pack("ii", 1, 0)


class Relay:
    """One listening port on loopback; each connection goes to where the relay leads at that moment.

    It runs in a loop of its own, in a thread; what the test calls takes effect before the call returns.
    """

    def __init__(self, portal: BlockingPortal, port: int) -> None:
        self._portal = portal
        self._leads_to = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_cut = self._loses_answers = False
        self._passes_requests = asyncio.Event()
        self._passes_requests.set()
        self.held = 0
        """Pieces of requests that were held since it was last mended."""
        self.lost = 0
        """Pieces of answers that were lost since then."""
        self.refused = 0
        """Connections that were refused, because it was cut or nobody listens where it leads."""
        self.port = 0

    def lead_to(self, port: int) -> None:
        """Take new connections to another port; those that are open stay where they are."""
        self._leads_to = port

    def hold_requests(self) -> None:
        """Let requests wait on their way."""
        self._portal.call(self._passes_requests.clear)

    def lose_answers(self) -> None:
        """Let requests go on, and swallow whatever comes back."""
        self._loses_answers = True
        self._portal.call(self._passes_requests.set)

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        self._portal.call(self._cut)

    def mend(self) -> None:
        """Be a good cable again."""
        self._is_cut = self._loses_answers = False
        self.held = self.lost = 0
        self._portal.call(self._passes_requests.set)

    async def run(self, started: Callable[[], None]) -> None:
        """Pass on until cancelled."""
        server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started()
        try:
            await asyncio.Event().wait()
        finally:
            server.close()
            self._cut()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cut(self) -> None:
        self._is_cut = True
        for writer in self._writers:
            _reset(writer)

    def _refuses(self) -> bool:
        return self._is_cut

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Whoever is refused has spoken before: CPython's ssl leaks a socket that is reset before its handshake begins.
        hello = await reader.read(1 << 16)
        try:
            if self._refuses():
                raise ConnectionRefusedError
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._leads_to)
            if self._refuses():  # it was cut meanwhile
                far_writer.transport.abort()
                raise ConnectionRefusedError
        except OSError:
            self.refused += 1
            _reset(writer)
            return
        far_writer.write(hello)
        ends = {writer, far_writer}
        self._writers |= ends
        try:
            await asyncio.gather(
                self._pass_on(reader, far_writer, upwards=True), self._pass_on(far_reader, writer, upwards=False)
            )
        finally:
            self._writers -= ends
            for end in ends:
                end.close()

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, upwards: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                if upwards and not self._passes_requests.is_set():
                    self.held += 1
                    await self._passes_requests.wait()
                if not upwards and self._loses_answers:
                    self.lost += 1
                    continue
                sink.write(data)
                await sink.drain()
            if sink.can_write_eof():
                sink.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close it so that the other end hears of it at once."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


class Behind:
    """A coordinator as it is found at the other end of a relay: what an agent or a client is told of it."""

    def __init__(self, relay: Relay, coordinator: Coordinator) -> None:
        self.url = f"https://127.0.0.1:{relay.port}"
        self._coordinator = coordinator

    @property
    def ca_path(self) -> Path:
        """The root that its HTTPS chains to."""
        return self._coordinator.ca_path

    def enrollment_token(self) -> str:
        """Make a one-time token."""
        return self._coordinator.enrollment_token()


@contextlib.contextmanager
def relay_to(port: int) -> Iterator[Relay]:
    """Lend a relay."""
    with start_blocking_portal("asyncio") as portal:
        relay = portal.call(Relay, portal, port)
        with portal.wrap_async_context_manager(_running(relay)):
            yield relay


@contextlib.asynccontextmanager
async def _running(relay: Relay) -> AsyncIterator[None]:
    started = asyncio.Event()
    task = asyncio.create_task(relay.run(started.set))
    await started.wait()
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
