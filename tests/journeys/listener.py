"""TLS servers of the journeys' own, with an authority that agents are told to trust; each in a thread with a loop."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import trustme
from anyio.from_thread import start_blocking_portal


class Listener(ABC):
    """Listens on 127.0.0.1; subclasses say what happens on a connection."""

    def __init__(self, folder: Path, authority: trustme.CA | None = None, *, plain: bool = False) -> None:
        folder.mkdir(parents=True)
        self.ca = authority or trustme.CA()
        self.ca_path = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(self.ca_path)
        self._context = None if plain else ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self._context is not None:
            self.ca.issue_cert("127.0.0.1").configure_cert(self._context)
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        """Return its base URL."""
        return f"http{'s' if self._context else ''}://127.0.0.1:{self.port}"

    @abstractmethod
    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak on one connection; it is closed afterwards."""

    async def open(self) -> asyncio.Server:
        """Listen."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def close(self, server: asyncio.Server) -> None:
        """Cut every connection."""
        server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                await self.converse(reader, writer)
        finally:
            writer.transport.abort()
            self._connections.discard(task)


L = TypeVar("L", bound=Listener)


@contextlib.contextmanager
def listening(listener: L) -> Iterator[L]:
    """Run a listener."""
    with start_blocking_portal("asyncio") as portal:
        server = portal.call(listener.open)
        try:
            yield listener
        finally:
            portal.call(listener.close, server)
