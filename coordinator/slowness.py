"""Connections of those who do not go on: the HTTP protocol of the library, with an end to its patience.

It waits without bounds for a request's head and body, for an answer to be taken, and reads heads of any length. Here a
connection is cut when its peer owes something for too long:

    head     nothing, or not all of a request's head; within ``HEAD_S``, and at most ``MOST_HEAD`` bytes
    body     the rest of a request; within ``BODY_S`` and as long as its bytes so far take at ``LEAST_RATE``
    answer   to take what was written; all of it within ``ANSWER_S``, or as much as that is at ``LEAST_RATE``

Who owes nothing is left alone: idle connections end as before (``timeout_keep_alive``), and requests may wait for their
answers as long as they like. What lies in the kernel's buffers is bounded by TCP_USER_TIMEOUT, see ``serving``.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar
from weakref import WeakSet

import msgspec
import structlog
from uvicorn._types import ASGI3Application, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from coordinator.answers import InOnePiece
from coordinator.metrics import service as metrics
from coordinator.web import problems
from coordinator.web.headers import HSTS, SECURITY

log = structlog.get_logger()
HEAD_S = 20.0
BODY_S = 20.0
ANSWER_S = 30.0
LEAST_RATE = 16 * 1024
"""Bytes in a second; somebody on a bad telephone line has more."""
MOST_HEAD = 64 * 1024
_MOST_FRAMING = 8
"""How much longer than its content a chunked body may be: chunks of a byte are six times as long."""


class WatchedProtocol(HttpToolsProtocol):
    """One connection. ``most_body`` is set by a subclass, see ``protocol``, and so is ``newcomers``.

    These are the connections from which no request has come yet, their handshakes not done perhaps.
    """

    most_body = 1024 * 1024
    newcomers: ClassVar[WeakSet[WatchedProtocol]] = WeakSet()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.newcomers.add(self)
        self._began = 0.0
        self._received = 0
        self._arriving = 0
        self._head_done = False
        self._message_done = True
        self._asking: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None
        self._moves = 0

    # What the peer sends

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the library has it
        """Expect a request."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        self.newcomers.discard(self)
        self._stop_asking()
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin to count a request."""
        super().on_message_begin()
        self._head_done = self._message_done = False
        # What arrives with it may be the end of the request before, so it is not counted.
        self._received = -self._arriving
        if self._asking is None:
            self._began = self.loop.time()

    def on_headers_complete(self) -> None:
        """Note that the head is there."""
        self.newcomers.discard(self)
        self._head_done = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that the request is there as a whole."""
        self._message_done = True
        self._stop_asking()
        super().on_message_complete()

    def _stop_asking(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    def data_received(self, data: bytes) -> None:
        """Read, and look at what is still owed then."""
        self._arriving = len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._received += len(data)
        if not self._owed():
            self._stop_asking()
        elif self._received > (MOST_HEAD if not self._head_done else MOST_HEAD + _MOST_FRAMING * self.most_body):
            self._too_much()
        elif self._asking is None:
            self._expect()

    def _owed(self) -> str:
        """Return which part of a request is owed. An idle connection from which anything came owes a head."""
        if not self._message_done:
            return "body" if self._head_done else "head"
        cycle: RequestResponseCycle | None = self.cycle  # the library says that there always is one
        idle = cycle is None or (cycle.response_complete and not self.pipeline)
        return "head" if idle and self.timeout_keep_alive_task is None else ""

    def _expect(self) -> None:
        if self._message_done:
            self._head_done = False
            self._began = self.loop.time()
        self._asking = self.loop.call_at(self._due(), self._check_asking)

    def _due(self) -> float:
        if not self._head_done:
            return self._began + HEAD_S
        return self._began + HEAD_S + BODY_S + self._received / LEAST_RATE

    def _check_asking(self) -> None:
        self._asking = None
        owed = self._owed()
        if not owed or self.transport.is_closing():
            return
        if self.flow.read_paused:  # it is we who do not go on
            self._began = self.loop.time()
        if self._due() > self.loop.time():
            self._expect()
        else:
            self._cut(owed)

    # What the peer takes

    def pause_writing(self) -> None:
        """Expect that the answer is taken."""
        super().pause_writing()
        self._await_taking()

    def resume_writing(self) -> None:
        """Note that much was taken."""
        super().resume_writing()
        self._moves += 1

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Start a request, and note whatever is written for it: that more lies there then is no fault of the peer."""
        send = cycle.send

        async def noted(message: ASGISendEvent) -> None:
            self._moves += 1
            await send(message)

        cycle.send = noted  # type: ignore[method-assign]  # the library passes on what it finds here
        cycle.transport = InOnePiece(self.loop, cycle.transport)  # type: ignore[assignment]  # what the library uses
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Expect that what is left of the answer is taken."""
        super().on_response_complete()
        self._await_taking()

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection, at once if its goodbye would only wait behind an answer that nobody takes."""
        if unsent(self.transport):
            self._cut("answer")
        super().timeout_keep_alive_handler()

    def _await_taking(self) -> None:
        left = unsent(self.transport)
        if left and self._taking is None:
            self._taking = self.loop.call_later(ANSWER_S, self._check_taking, left, self._moves)

    def _check_taking(self, before: int, moves: int) -> None:
        """Look whether enough was taken since ``before``; when more was written meanwhile, that shows the next time.

        No more is written for long to who takes nothing.
        """
        self._taking = None
        taken = before - unsent(self.transport)
        if self._moves == moves and taken < min(before, int(ANSWER_S * LEAST_RATE)):
            self._cut("answer")
        else:
            self._await_taking()

    # The end

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, in the form of every other refusal."""
        self._refuse(problems.Problem("about:blank", "Bad request", 400, msg))

    def _too_much(self) -> None:
        metrics.connection_cut("an end")
        if self._head_done:
            self.transport.abort()
            return
        detail = f"the head of this request is longer than {MOST_HEAD} bytes"
        self._refuse(problems.Problem("about:blank", "Request header fields too large", 431, detail))

    def _refuse(self, problem: problems.Problem) -> None:
        body = msgspec.json.encode(problem)
        fields = {
            **SECURITY,
            **(HSTS if self.scheme == "https" else {}),
            "Content-Type": problems.CONTENT_TYPE,
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()
        self.transport.write(STATUS_LINE[problem.status] + head + b"\r\n" + body)
        self.transport.close()

    def _cut(self, owed: str) -> None:
        log.info("connection_cut", owed=owed, peer=self.client[0] if self.client else "")
        metrics.connection_cut(owed)
        self.transport.abort()


def protocol(max_body_bytes: int) -> type[WatchedProtocol]:
    """Return the protocol of a server that reads bodies of at most so many bytes."""
    return type("BoundedProtocol", (WatchedProtocol,), {"most_body": max_body_bytes, "newcomers": WeakSet()})


def unsent(transport: asyncio.Transport) -> int:
    """Return the bytes that wait in this process. TLS hands them to a transport beneath, which it does not count."""
    tls = getattr(transport, "_ssl_protocol", transport)
    if tls is None:  # closed twice
        return 0
    inner: asyncio.Transport | None = getattr(tls, "_transport", None)
    return transport.get_write_buffer_size() + (inner.get_write_buffer_size() if inner is not None else 0)
