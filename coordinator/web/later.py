"""Answers that come later: the request is read and checked like any other, then only its answer is waited for.

A handler returns a ``Later``. Headers and a first space go out at once and more spaces while it waits, since white
space before a JSON value means nothing (RFC 8259 section 2). The framework is done with the request by then, so that a
waiting caller costs one coroutine and not a request with all that belongs to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
from quart import Quart, Request

from coordinator.web.table import Later

_KEY = "certctl.later"
HEADERS = {
    "Content-Type": "application/json",
    "X-Accel-Buffering": "no",  # nginx would keep the spaces back
}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def keep(request: Request, later: Later) -> None:
    """Have ``later`` answer this request, once the framework has sent status and headers."""
    request.scope[_KEY] = later  # type: ignore[literal-required]  # ASGI lets servers and middleware add keys


def install(app: Quart) -> None:
    """Let the application's handlers return ``Later``."""
    inner = app.asgi_app

    async def outer(scope: Message, receive: Receive, send: Send) -> None:
        await _serve(inner, scope, receive, send)

    app.asgi_app = outer  # type: ignore[method-assign, assignment]  # the framework's own way for middleware


async def _serve(inner: Any, scope: Message, receive: Receive, send: Send) -> None:
    async def pass_on(message: Message) -> None:
        if _KEY not in scope:
            await send(message)
        elif message["type"] == "http.response.start":
            headers = [pair for pair in message["headers"] if pair[0].lower() != b"content-length"]
            await send({**message, "headers": headers})

    try:
        await inner(scope, receive, pass_on)
        if _KEY in scope:
            await _finish(scope[_KEY], receive, send)
    finally:
        if _KEY in scope:
            scope[_KEY].close()


async def _finish(later: Later, receive: Receive, send: Send) -> None:
    async def alive() -> None:
        await send({"type": "http.response.body", "body": b" ", "more_body": True})

    listening = asyncio.create_task(_until_gone(receive))
    listening.add_done_callback(lambda _: later.end())
    try:
        await alive()
        answer = await later.answer(alive)
        await send({"type": "http.response.body", "body": msgspec.json.encode(answer), "more_body": False})
    finally:
        listening.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
