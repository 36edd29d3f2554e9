"""A proxy that ends TLS with an authority of its own and keeps every byte that passes, in both directions."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.lab.fleet import Coordinator
from tests.journeys.listener import Listener

_READ = 1 << 16


class Wiretap(Listener):
    """Stands where a load balancer would; ``sent`` is what agents said, ``received`` what they were answered."""

    def __init__(self, folder: Path, coordinator: Coordinator) -> None:
        super().__init__(folder)
        self._outward = ssl.create_default_context(cafile=coordinator.ca_path)
        self._upstream = urlsplit(coordinator.url)
        self.sent, self.received = bytearray(), bytearray()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass everything on and keep it."""
        host, port = self._upstream.hostname, self._upstream.port
        up_reader, up_writer = await asyncio.open_connection(host, port, ssl=self._outward)
        try:
            await asyncio.gather(self._pump(reader, up_writer, self.sent), self._pump(up_reader, writer, self.received))
        finally:
            up_writer.transport.abort()

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ):
                record += data
                writer.write(data)
                await writer.drain()
        writer.close()
