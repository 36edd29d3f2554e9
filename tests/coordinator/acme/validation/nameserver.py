"""A DNS server that says what a test tells it to: for what the challenge server cannot be made to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from benchmarks.lab.processes import free_ports

Said = list[str] | dns.rcode.Rcode | None
"""The data of records, a response code, or None for silence."""
Says = Callable[[str, str], Said]
"""From a name and a type to what is said of them."""


class Nameserver(asyncio.DatagramProtocol):
    """Answers over UDP and TCP; over UDP with nothing but the flag TC when ``truncates``."""

    def __init__(self, says: Says, port: int, *, truncates: bool = False) -> None:
        self.says, self.port, self.truncates = says, port, truncates
        self.asked: list[tuple[str, str]] = []
        self.over_tcp = 0

    @property
    def address(self) -> tuple[str, int]:
        """Where it is asked."""
        return "127.0.0.1", self.port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # asyncio's own is of no such class

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        if (answer := self._answer(data, truncated=self.truncates)) is not None:
            self._transport.sendto(answer, addr)

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one question over TCP."""
        self.over_tcp += 1
        length = int.from_bytes(await reader.readexactly(2), "big")
        answer = self._answer(await reader.readexactly(length), truncated=False) or b""
        writer.write(len(answer).to_bytes(2, "big") + answer)
        await writer.drain()
        writer.close()

    def _answer(self, data: bytes, *, truncated: bool) -> bytes | None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        answer = dns.message.make_response(query, recursion_available=True)
        if truncated:
            answer.flags |= dns.flags.TC
            return answer.to_wire()
        said = self.says(name, kind)
        if said is None:
            return None
        if isinstance(said, dns.rcode.Rcode):
            answer.set_rcode(said)
        elif said:
            answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *said))
        return answer.to_wire()


@asynccontextmanager
async def nameserver(says: Says, *, truncates: bool = False) -> AsyncIterator[Nameserver]:
    """Run one on 127.0.0.1."""
    server = Nameserver(says, free_ports(1)[0], truncates=truncates)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: server, local_addr=server.address)
    stream = await asyncio.start_server(server.stream, *server.address)
    try:
        yield server
    finally:
        transport.close()
        stream.close()
        await stream.wait_closed()


def zone(**records: list[str]) -> Says:
    """Return what a server says that has these records for every name, by type, and no others."""
    return lambda _name, kind: records.get(kind, [])
