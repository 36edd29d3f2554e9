"""A DNS server that says what a test tells it to: for what the challenge server cannot be made to say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
from anyio.abc import SocketStream, UDPSocket
from anyio.streams.buffered import BufferedByteReceiveStream

from benchmarks.lab.processes import free_ports
from tests.connectors.validation.serving import beside

Said = list[str] | dns.rcode.Rcode | None
"""The data of records, a response code, or None for silence."""
Says = Callable[[str, str], Said]
"""From a name and a type to what is said of them."""


class Nameserver:
    """Answers over UDP and TCP; over UDP with nothing but the flag TC when ``truncates``."""

    def __init__(self, says: Says, port: int, *, truncates: bool = False) -> None:
        self.says, self.port, self.truncates = says, port, truncates
        self.asked: list[tuple[str, str]] = []
        self.over_tcp = 0

    @property
    def address(self) -> tuple[str, int]:
        """Where it is asked."""
        return "127.0.0.1", self.port

    async def datagrams(self, socket: UDPSocket) -> None:
        """Answer questions over UDP."""
        async for data, (host, port) in socket:
            if (answer := self._answer(data, truncated=self.truncates)) is not None:
                await socket.sendto(answer, host, port)

    async def stream(self, stream: SocketStream) -> None:
        """Answer one question over TCP."""
        self.over_tcp += 1
        async with stream:
            reader = BufferedByteReceiveStream(stream)
            length = int.from_bytes(await reader.receive_exactly(2), "big")
            answer = self._answer(await reader.receive_exactly(length), truncated=False) or b""
            await stream.send(len(answer).to_bytes(2, "big") + answer)

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
    host, port = server.address
    async with (
        await anyio.create_udp_socket(local_host=host, local_port=port) as socket,
        await anyio.create_tcp_listener(local_host=host, local_port=port) as listener,
        beside(partial(server.datagrams, socket), partial(listener.serve, server.stream)),
    ):
        yield server


def zone(**records: list[str]) -> Says:
    """Return what a server says that has these records for every name, by type, and no others."""
    return lambda _name, kind: records.get(kind, [])
