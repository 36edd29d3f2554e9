"""Connections whose peer does not go on are cut, and nobody else's: on real sockets, with limits of moments."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import trustme

from coordinator import serving, slowness
from coordinator.metrics.service import REGISTRY
from tests.coordinator.database.conftest import until

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
SHORT_S, PATIENCE_S = 0.15, 10.0
TICK_S = 0.2
"""The server looks ten times a second whether it shall end."""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be impatient."""
    for name in ("HEAD_S", "BODY_S", "ANSWER_S"):
        monkeypatch.setattr(slowness, name, SHORT_S)


class Application:
    """Reads its request, waits until it may answer, answers with so many bytes."""

    def __init__(self) -> None:
        self.length = 5
        self.pieces, self.pause_s, self.later_s = 1, 0.0, 0.0
        self.reads = True
        self.go = asyncio.Event()
        self.go.set()
        self.read = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        more = self.reads
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            self.read += len(message["body"])
            more = message["more_body"]
        await self.go.wait()
        length = (b"content-length", str(self.length).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        if self.later_s:
            await asyncio.sleep(self.later_s)
        for left in reversed(range(self.pieces)):
            await send(
                {"type": "http.response.body", "body": b"x" * (self.length // self.pieces), "more_body": left > 0}
            )
            await asyncio.sleep(self.pause_s)


class Peer:
    """One connection, in a client's hands."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def drip(self, data: bytes, every_s: float = SHORT_S / 5) -> None:
        """Send the same bytes again and again, until the connection is gone."""
        with contextlib.suppress(ConnectionError):
            while not self.writer.is_closing():
                await self.send(data)
                await asyncio.sleep(every_s)

    async def answer(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            return head + await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """Return what comes until the end, which has to come."""
        found = b""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):
                while data := await self.reader.read(65536):
                    found += data
        return found


class Listener:
    """A server with one application."""

    def __init__(
        self, application: Application, server: serving.Server, port: int, context: ssl.SSLContext | None
    ) -> None:
        self.application, self.server = application, server
        self.port, self._context = port, context

    def knock(self, *, deaf: bool = False) -> socket.socket:
        """Connect as far as the server's kernel; who is deaf takes next to nothing from the network."""
        sock = socket.socket()
        if deaf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        sock.connect(("127.0.0.1", self.port))
        return sock

    @contextlib.asynccontextmanager
    async def peer(self, sock: socket.socket | None = None, *, deaf: bool = False) -> AsyncIterator[Peer]:
        """Connect."""
        sock = sock or self.knock(deaf=deaf)
        name = "localhost" if self._context else None
        streams = await asyncio.open_connection(sock=sock, ssl=self._context, server_hostname=name, limit=1024)
        try:
            yield Peer(*streams)
        finally:
            streams[1].transport.abort()


@contextlib.asynccontextmanager
async def serve(tls: bool = False, most: int = 64 * 1024) -> AsyncIterator[Listener]:
    authority = trustme.CA()
    here, there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(here)
    authority.configure_trust(there)
    application = Application()
    bound = serving._bind("127.0.0.1", 0, "CERTCTL_SERVER_PORT")
    server = serving.server(application, here if tls else None, max_body_bytes=most)
    task = asyncio.create_task(server.serve([bound]))
    try:
        yield Listener(application, server, bound.getsockname()[1], there if tls else None)
    finally:
        server.should_exit = server.force_exit = True
        await task


def cut(owed: str) -> float:
    return REGISTRY.get_sample_value("certctl_connections_cut_total", {"owed": owed}) or 0.0


@contextlib.contextmanager
def one_is_cut(owed: str) -> Any:
    before = cut(owed)
    yield
    assert cut(owed) == before + 1


STARTS: dict[str, tuple[str, bytes, bytes]] = {
    "nothing": ("head", b"", b""),
    "a head that stops": ("head", b"GET / HTTP/1.1\r\nHost: a\r\n", b""),
    "a head that drips": ("head", b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
    "lines before a head": ("head", b"", b"\r\n"),
    "lines after a request": ("head", GET, b"\r\n"),
    "half of the next head": ("head", GET + b"GET / HT", b""),
    "a body that stops": ("body", POST + b"Content-Length: 9\r\n\r\n", b""),
    "a body that drips": ("body", POST + b"Content-Length: 999999\r\n\r\n", b"x"),
    "chunks that drip": ("body", POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "trailers that drip": ("body", POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n"),
}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("start", STARTS)
async def test_who_does_not_finish_a_request_is_cut_off(start: str, tls: bool) -> None:
    owed, begin, drop = STARTS[start]
    async with serve(tls) as listener, listener.peer() as peer:
        with one_is_cut(owed):
            await peer.send(begin)
            async with asyncio.TaskGroup() as group:
                dripping = group.create_task(peer.drip(drop)) if drop else None
                rest = await peer.rest()
                if dripping:
                    dripping.cancel()
    assert rest.count(b"200 OK") == begin.startswith(GET)


async def test_a_body_of_which_enough_comes_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slowness, "LEAST_RATE", 1000)
    async with serve() as listener, listener.peer() as peer:
        await peer.send(POST + b"Content-Length: 4000\r\n\r\n")
        for _ in range(40):  # 0.8 s in all, far more than is allowed for a body that stops
            await peer.send(b"x" * 100)
            await asyncio.sleep(0.02)
        assert b"200 OK" in await peer.answer()
    assert listener.application.read == 4000


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_who_waits_for_an_answer_or_is_idle_is_left_alone(tls: bool) -> None:
    before = cut("head"), cut("body"), cut("answer")
    async with serve(tls) as listener, listener.peer() as peer:
        listener.application.go.clear()
        await peer.send(GET)
        await asyncio.sleep(SHORT_S * 4)
        listener.application.go.set()
        assert b"200 OK" in await peer.answer()
        await asyncio.sleep(SHORT_S * 4)
        await peer.send(GET + GET)
        assert b"200 OK" in await peer.answer() + await peer.answer()
    assert (cut("head"), cut("body"), cut("answer")) == before


async def test_a_body_that_the_application_does_not_read_is_no_fault_of_its_sender() -> None:
    async with serve(most=1024 * 1024) as listener, listener.peer() as peer:
        application = listener.application
        application.reads = False
        application.go.clear()
        whole = 512 * 1024
        async with asyncio.TaskGroup() as group:
            group.create_task(peer.send(POST + f"Content-Length: {whole}\r\n\r\n".encode() + b"x" * whole))
            await asyncio.sleep(SHORT_S * 5)
            application.go.set()
            assert b"200 OK" in await peer.answer()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("last", [False, True], ids=["kept alive", "closed"])
@pytest.mark.parametrize("pieces", [1, 256])
async def test_who_does_not_take_an_answer_is_cut_off(tls: bool, last: bool, pieces: int) -> None:
    request = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") if last else GET
    async with serve(tls) as listener, listener.peer(deaf=True) as peer:
        listener.application.length, listener.application.pieces = 16 << 20, pieces
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads
        before = cut("answer")
        await peer.send(request)
        await until(lambda: cut("answer") == before + 1)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("pieces", [1, 256])
async def test_a_large_answer_is_waited_for_as_long_as_it_is_taken(
    tls: bool, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slowness, "ANSWER_S", 1.0)  # a busy machine takes nothing for a while, too
    before = cut("answer")
    async with serve(tls) as listener, listener.peer() as peer:
        whole = listener.application.length = 16 << 20
        listener.application.pieces = pieces
        await peer.send(GET)
        await peer.reader.readuntil(b"\r\n\r\n")
        for _ in range(32):  # 3.2 s in all, far more than is allowed for an answer of which nothing is taken
            await peer.reader.readexactly(whole // 32)
            await asyncio.sleep(0.1)
    assert cut("answer") == before


async def test_an_answer_to_which_more_is_added_is_not_one_that_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slowness, "unsent", lambda _transport: 100)  # as much is added as is taken
    async with serve() as listener, listener.peer() as peer:
        await peer.send(GET)
        await peer.answer()
        listener.application.length, listener.application.pieces, listener.application.pause_s = 50, 50, 0.02
        await peer.send(GET)
        assert (await peer.answer()).endswith(b"x" * 50)
        with one_is_cut("answer"):
            await peer.rest()


async def test_the_time_of_one_request_is_not_that_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slowness, "HEAD_S", 0.6)
    monkeypatch.setattr(slowness, "BODY_S", 0.6)
    async with serve() as listener, listener.peer() as peer:
        await peer.send(POST + b"Content-Length: 2\r\n\r\nx")
        await asyncio.sleep(1)
        await peer.send(b"x" + GET[:8])
        await asyncio.sleep(0.3)  # past the end of the body's time
        await peer.send(GET[8:])
        assert b"200 OK" in await peer.answer()
        assert b"200 OK" in await peer.answer()


def document(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    for field in (b"Content-Type: application/problem+json", b"X-Content-Type-Options: nosniff", b"Connection: close"):
        assert field in head
    found: dict[str, Any] = msgspec.json.decode(body)
    return found


async def test_a_head_without_end_is_refused() -> None:
    for endless in (b"a: " + b"x" * 1000 + b"\r\n", b"x" * 1000):
        async with serve() as listener, listener.peer() as peer:
            await peer.send(GET[:-2] + b"b: ")
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(peer.drip(endless, 0))
                assert document(await peer.answer())["status"] == 431
                sending.cancel()


@pytest.mark.parametrize("endless", [b"a: " + b"x" * 1000 + b"\r\n", b"x" * 1000], ids=["fields", "one field"])
async def test_trailers_without_end_are_cut(endless: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slowness, "BODY_S", 60)
    async with serve() as listener, listener.peer() as peer:
        await peer.send(POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nb: ")
        with one_is_cut("an end"):
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(peer.drip(endless, 0))
                await peer.rest()
                sending.cancel()


@pytest.mark.parametrize("tls,hsts", [(False, False), (True, True)])
async def test_what_is_not_http_is_refused_like_everything_else(tls: bool, hsts: bool) -> None:
    async with serve(tls) as listener, listener.peer() as peer:
        await peer.send(b"\x16\x03\x01 hello\r\n\r\n")
        answer = await peer.answer()
        assert document(answer)["status"] == 400
        assert (b"Strict-Transport-Security" in answer) == hsts


async def test_an_answer_is_one_record_of_tls_unless_its_body_comes_later() -> None:
    def ask() -> list[bytes]:
        """Return the records of two answers, whose applications have their body at once and later."""
        with listener.knock() as sock:
            sock.settimeout(PATIENCE_S)
            with listener._context.wrap_socket(sock, server_hostname="localhost") as connection:  # type: ignore[union-attr]
                connection.sendall(GET)
                whole = connection.recv(65536)
                listener.application.later_s = TICK_S
                connection.sendall(GET)
                return [whole, connection.recv(65536), connection.recv(65536)]

    async with serve(tls=True) as listener:
        whole, head, body = await asyncio.to_thread(ask)
    assert whole.endswith(b"\r\n\r\nxxxxx")
    assert (head.endswith(b"\r\n\r\n"), body) == (True, b"xxxxx")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_who_asks_whether_to_go_on_is_told_before_the_body_is_there(tls: bool) -> None:
    async with serve(tls) as listener, listener.peer() as peer:
        for _ in range(2):
            await peer.send(POST + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n")
            async with asyncio.timeout(PATIENCE_S):
                assert await peer.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await peer.send(b"x" * 9)
            assert (await peer.answer()).endswith(b"xxxxx")
    assert listener.application.read == 18


async def test_many_requests_on_one_connection_leave_no_timer_behind() -> None:
    handles: list[Callable[[], bool]] = []
    call_at = asyncio.get_running_loop().call_at

    def noted(*arguments: Any, **more: Any) -> asyncio.TimerHandle:
        handle = call_at(*arguments, **more)
        if "_check_" in repr(handle):
            handles.append(handle.cancelled)
        return handle

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "call_at", noted)
        async with serve() as listener, listener.peer() as peer:
            for _ in range(50):
                await peer.send(GET)
                await peer.answer()
            assert len(handles) == 1, "only the one of the new connection"
            assert all(cancelled() for cancelled in handles)


@pytest.mark.parametrize("tls", [False, True])
async def test_who_came_before_the_end_is_answered(tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far they have come: to the kernel, or through the handshake."""
    monkeypatch.setattr(slowness, "HEAD_S", PATIENCE_S)
    async with serve(tls) as listener, contextlib.AsyncExitStack() as stack:
        idle = await stack.enter_async_context(listener.peer())
        await idle.send(GET)
        await idle.answer()
        met = [await stack.enter_async_context(listener.peer()) for _ in range(3)]
        knocking = [listener.knock() for _ in range(100 if tls else 400)]
        listener.server.should_exit = True
        time.sleep(TICK_S)  # noqa: ASYNC251 - the server sees all of this at once
        await asyncio.sleep(TICK_S)
        met += [await stack.enter_async_context(listener.peer(sock)) for sock in knocking]
        with socket.socket() as late:
            assert late.connect_ex(("127.0.0.1", listener.port)) == errno.ECONNREFUSED
        for peer in met:
            await peer.send(GET)
        for peer in met:
            assert (await peer.answer()).endswith(b"x" * 5)
        assert await idle.rest() == b""


async def test_who_only_connects_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_CHANCE_S", SHORT_S)
    monkeypatch.setattr(slowness, "HEAD_S", PATIENCE_S)
    async with serve() as listener, listener.peer() as peer:
        listener.server.should_exit = True
        assert await peer.rest() == b""
