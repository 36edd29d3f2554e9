"""A proxy that ends TLS with an authority of its own and keeps every byte that passes, in both directions."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import trustme
from anyio.from_thread import start_blocking_portal

from benchmarks.lab.fleet import Coordinator

_READ = 1 << 16


class Wiretap:
    """Stands where a load balancer would; ``sent`` is what agents said, ``received`` what they were answered."""

    def __init__(self, folder: Path, coordinator: Coordinator) -> None:
        folder.mkdir()
        authority = trustme.CA()
        self.ca_path = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca_path)
        self._inward = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self._inward)
        self._outward = ssl.create_default_context(cafile=coordinator.ca_path)
        self._upstream = urlsplit(coordinator.url)
        self._connections: set[asyncio.Task[None]] = set()
        self.sent, self.received = bytearray(), bytearray()
        self.url = ""

    async def open(self) -> asyncio.Server:
        """Listen."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._inward)
        self.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
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
            host, port = self._upstream.hostname, self._upstream.port
            up_reader, up_writer = await asyncio.open_connection(host, port, ssl=self._outward)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(
                    self._pump(reader, up_writer, self.sent), self._pump(up_reader, writer, self.received)
                )
            up_writer.transport.abort()
        finally:
            writer.transport.abort()
            self._connections.discard(task)

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ):
                record += data
                writer.write(data)
                await writer.drain()
        writer.close()


@contextlib.contextmanager
def tapped(folder: Path, coordinator: Coordinator) -> Iterator[Wiretap]:
    """Run a proxy in front of a coordinator, in a thread with a loop of its own."""
    tap = Wiretap(folder, coordinator)
    with start_blocking_portal("asyncio") as portal:
        server = portal.call(tap.open)
        try:
            yield tap
        finally:
            portal.call(tap.close, server)
