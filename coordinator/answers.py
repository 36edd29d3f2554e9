"""Answers in one piece: a packet, a record of TLS and a wake-up of the peer instead of two of each."""

from __future__ import annotations

import asyncio


class InOnePiece:
    """Where one answer is written: its head waits for the body, if that comes in the same turn of the loop.

    The library writes the one after the other. A head whose body takes time, as that of a long poll, is not held back,
    nor is a client that waits for "100 Continue".
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop, self._transport = loop, transport
        self._head = b""
        self._waiting: asyncio.Handle | None = None
        self._begun = False

    def write(self, data: bytes) -> None:
        """Hold the first piece, which is the head; write what follows, with the head before it if that still waits."""
        if self._begun:
            self._write(data)
        else:
            self._begun, self._head = True, data
            self._waiting = self._loop.call_soon(self._write, b"")

    def is_closing(self) -> bool:
        """Say whether nothing is sent any more."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the connection behind what was written."""
        if self._waiting is not None:
            self._write(b"")
        self._transport.close()

    def _write(self, data: bytes) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting, data = None, self._head + data
        self._transport.write(data)
