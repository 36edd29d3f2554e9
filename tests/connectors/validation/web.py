"""A web server that answers with whatever bytes a test gives it, as long as the test likes."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
from anyio.abc import AnyByteSendStream, AnyByteStream, Listener
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSListener

from benchmarks.lab.processes import free_ports
from tests.connectors.validation.serving import beside

Answers = Callable[[str, AnyByteSendStream], Awaitable[None]]
"""Writes an answer to a request; is given its whole head."""
_MOST_BYTES = 64 * 1024


class Web:
    """A server and the heads of the requests that it has seen."""

    def __init__(self, answers: Answers, port: int) -> None:
        self.port = port
        self.requests: list[str] = []
        self._answers = answers

    async def serve(self, stream: AnyByteStream) -> None:
        """Answer one request and close."""
        async with stream:
            with suppress(anyio.BrokenResourceError, anyio.IncompleteRead, anyio.EndOfStream):
                head = (await BufferedByteReceiveStream(stream).receive_until(b"\r\n\r\n", _MOST_BYTES)).decode()
                self.requests.append(f"{head}\r\n\r\n")
                await self._answers(self.requests[-1], stream)


@asynccontextmanager
async def web(
    answers: Answers, host: str = "127.0.0.1", port: int = 0, context: ssl.SSLContext | None = None
) -> AsyncIterator[Web]:
    """Run one."""
    server = Web(answers, port or free_ports(1)[0])
    listener: Listener[AnyByteStream] = await anyio.create_tcp_listener(local_host=host, local_port=server.port)
    if context is not None:
        listener = TLSListener(listener, context, standard_compatible=False)
    async with listener, beside(partial(listener.serve, server.serve)):
        yield server


def says(body: str | bytes, status: str = "200 OK", *headers: str) -> Answers:
    """Return answers with this status, body and headers."""
    data = body.encode() if isinstance(body, str) else body

    async def answer(_head: str, stream: AnyByteSendStream) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", *headers]
        await stream.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data)

    return answer


def redirects(to: str, then: str = "", status: int = 302) -> Answers:
    """Return answers that redirect ``/.well-known/…`` and say ``then`` elsewhere."""

    async def answer(head: str, stream: AnyByteSendStream) -> None:
        first = head.startswith("GET /.well-known/") or not then
        await (says("secret of the refused", f"{status} Found", f"Location: {to}") if first else says(then))(
            head, stream
        )

    return answer
