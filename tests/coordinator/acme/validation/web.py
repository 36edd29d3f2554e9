"""A web server that answers with whatever bytes a test gives it, as long as the test likes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from benchmarks.lab.processes import free_ports

Answers = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
"""Writes an answer to a request; is given its whole head."""


class Web:
    """A server and the heads of the requests that it has seen."""

    def __init__(self, answers: Answers, port: int) -> None:
        self.port = port
        self.requests: list[str] = []
        self._answers = answers

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head)
            await self._answers(head, writer)
        writer.close()


@asynccontextmanager
async def web(
    answers: Answers, host: str = "127.0.0.1", port: int = 0, context: ssl.SSLContext | None = None
) -> AsyncIterator[Web]:
    """Run one."""
    server = Web(answers, port or free_ports(1)[0])
    listener = await asyncio.start_server(server.serve, host, server.port, ssl=context)
    try:
        yield server
    finally:
        listener.close()


def says(body: str | bytes, status: str = "200 OK", *headers: str) -> Answers:
    """Return answers with this status, body and headers."""
    data = body.encode() if isinstance(body, str) else body

    async def answer(_head: str, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        await writer.drain()

    return answer


def redirects(to: str, then: str = "", status: int = 302) -> Answers:
    """Return answers that redirect ``/.well-known/…`` and say ``then`` elsewhere."""

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        first = head.startswith("GET /.well-known/") or not then
        await (says("secret of the refused", f"{status} Found", f"Location: {to}") if first else says(then))(
            head, writer
        )

    return answer
