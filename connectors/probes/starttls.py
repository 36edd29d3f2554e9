"""Asks a mail server that begins in plain text for TLS, up to the moment of the handshake.

SMTP (RFC 3207), LMTP (RFC 2033), IMAP (RFC 9051 section 6.2.1) and POP3 (RFC 2595 section 4). Whatever is said in plain
text, by the server or by somebody on the way, is believed for one thing only: to go on with TLS. Bytes that come with
the consent are injected answers, and end the look. Nobody logs in, and no mail is sent.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Literal

import anyio
from anyio.abc import SocketAttribute, SocketStream

from core.errors import Transient

ProbeProtocol = Literal["tls", "smtp", "imap", "pop3", "lmtp"]

_MAX_BYTES = 1 << 16
"""How much a server may say before TLS begins."""
_MAX_SAID = 200
_REPLY = re.compile(r"\d{3}(?:[ -]|$)")


async def start_tls(stream: SocketStream, protocol: ProbeProtocol, where: str) -> None:
    """Bring the connection to where the handshake begins; raise ``Transient`` with a human cause.

    ``where`` names the server in it. Ends of the connection are raised as anyio does.
    """
    if protocol != "tls":
        talk = _Talk(stream, protocol, where)
        await _ASK[protocol](talk)
        talk.end()


class _Talk:
    """Lines to and from the server."""

    def __init__(self, stream: SocketStream, protocol: ProbeProtocol, where: str) -> None:
        self.name = protocol.upper()
        self.where = where
        self.stream = stream
        self._buffer = bytearray()
        self._left = _MAX_BYTES

    async def line(self) -> str:
        """Return the next line without its end."""
        while (end := self._buffer.find(b"\n")) < 0:
            try:
                piece = await self.stream.receive()
            except anyio.EndOfStream as error:
                raise self.problem("closed the connection before it agreed to TLS") from error
            self._left -= len(piece)
            if self._left < 0:
                raise self.problem(f"says more than {_MAX_BYTES // 1024} KiB before it agrees to TLS")
            self._buffer += piece
        line = self._buffer[:end].decode(errors="replace").rstrip("\r")
        del self._buffer[: end + 1]
        return line

    async def ask(self, command: str) -> None:
        """Send one command."""
        await self.stream.send(command.encode() + b"\r\n")

    def end(self) -> None:
        """Raise when anything was said behind the consent: it would be taken for what the server says within TLS."""
        if self._buffer:
            raise self.problem("sent more in plain text than its consent to TLS: are answers injected on the way?")

    def problem(self, what: str, line: str = "") -> Transient:
        """Return an error about the server, with its own words where there are some."""
        said = "".join(char if char.isprintable() else "?" for char in line[:_MAX_SAID])
        return Transient(f"{self.where} {what}{f': {said}' if said else ''}")

    def foreign(self, line: str) -> Transient:
        """Return an error for a server that does not speak the protocol."""
        return self.problem(f"does not speak {self.name} (is probe.protocol right?), it says", line)

    def turned_away(self, line: str) -> Transient:
        """Return an error for a server that wants to talk to nobody, or not to us."""
        return self.problem(f"turns {self.name} clients away", line)

    def not_offered(self, command: str = "STARTTLS") -> Transient:
        """Return an error for a server that has no TLS to offer."""
        return self.problem(f"offers no {command}: is TLS switched on there?")

    def refused(self, line: str, command: str = "STARTTLS") -> Transient:
        """Return an error for a server that offered TLS and does not begin it."""
        return self.problem(f"refuses {command}", line)


async def _ask_smtp(talk: _Talk) -> None:
    await _greet(talk, "EHLO")


async def _ask_lmtp(talk: _Talk) -> None:
    await _greet(talk, "LHLO")


async def _greet(talk: _Talk, hello: str) -> None:
    greeting = await _reply(talk)
    if greeting[0][:3] != "220":
        raise talk.turned_away(greeting[-1])
    address = str(talk.stream.extra(SocketAttribute.local_address)[0]).partition("%")[0]
    await talk.ask(f"{hello} [{f'IPv6:{address}' if ':' in address else address}]")
    offers = await _reply(talk)
    if offers[0][:3] != "250":
        raise talk.foreign(offers[-1])
    if not any(line[4:].strip().upper() == "STARTTLS" for line in offers[1:]):
        raise talk.not_offered()
    await talk.ask("STARTTLS")
    consent = await _reply(talk)
    if consent[0][:3] != "220":
        raise talk.refused(consent[-1])


async def _reply(talk: _Talk) -> list[str]:
    """Return the lines of one reply; all but the last have a dash behind the code (RFC 5321 section 4.2.1)."""
    lines: list[str] = []
    while not lines or lines[-1][3:4] == "-":
        line = await talk.line()
        if not _REPLY.match(line):
            raise talk.foreign(line)
        lines.append(line)
    return lines


async def _ask_imap(talk: _Talk) -> None:
    greeting = await talk.line()
    kind = greeting.upper().split(" ")[:2]
    if kind == ["*", "BYE"]:
        raise talk.turned_away(greeting)
    if kind == ["*", "PREAUTH"]:
        raise talk.problem("logs clients in before TLS, which rules STARTTLS out", greeting)
    if kind != ["*", "OK"]:
        raise talk.foreign(greeting)
    *offers, _ = await _tagged(talk, "c1", "CAPABILITY")
    if not any("STARTTLS" in line.upper().split() for line in offers if line.upper().startswith("* CAPABILITY ")):
        raise talk.not_offered()
    *_, consent = await _tagged(talk, "c2", "STARTTLS")
    if consent.upper().split()[1:2] != ["OK"]:
        raise talk.refused(consent)


async def _tagged(talk: _Talk, tag: str, command: str) -> list[str]:
    """Return what is said in answer to a command, its result last."""
    await talk.ask(f"{tag} {command}")
    lines = [await talk.line()]
    while not lines[-1].startswith(f"{tag} "):
        if lines[-1].upper().startswith("* BYE"):
            raise talk.turned_away(lines[-1])
        lines.append(await talk.line())
    return lines


async def _ask_pop3(talk: _Talk) -> None:
    greeting = await talk.line()
    if greeting.startswith("-ERR"):
        raise talk.turned_away(greeting)
    if not greeting.startswith("+OK"):
        raise talk.foreign(greeting)
    await talk.ask("CAPA")
    answer = await talk.line()
    if not answer.startswith("+OK"):
        raise talk.not_offered("STLS")
    offered = False
    while (line := await talk.line()) != ".":
        offered = offered or line.strip().upper() == "STLS"
    if not offered:
        raise talk.not_offered("STLS")
    await talk.ask("STLS")
    if not (consent := await talk.line()).startswith("+OK"):
        raise talk.refused(consent, "STLS")


_ASK: dict[str, Callable[[_Talk], Awaitable[None]]] = {
    "smtp": _ask_smtp,
    "lmtp": _ask_lmtp,
    "imap": _ask_imap,
    "pop3": _ask_pop3,
}
