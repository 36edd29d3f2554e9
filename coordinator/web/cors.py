"""Pages of other origins that may call this interface from a browser (Fetch standard, "CORS protocol").

Nobody, unless CERTCTL_CORS_ORIGINS names them. Others get the answer that everybody gets, without the fields that would
let a browser show it to the page. Nothing here reads cookies or client certificates, so no answer ever allows a browser
to send them (Access-Control-Allow-Credentials): a page has to have a key of its own. That is why "*" is bearable.
"""

from __future__ import annotations

from typing import Any

from quart import Quart

from coordinator.web.headers import HSTS, SECURITY
from coordinator.web.later import Message, Receive, Send
from core.ids import new_id

METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
ALLOWED = "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match"
EXPOSED = "ETag, Idempotency-Replayed, Link, Location, RateLimit, RateLimit-Policy, Retry-After, X-Request-ID"
_PREFLIGHT_S = 600


def install(app: Quart, origins: tuple[str, ...]) -> None:
    """Let pages of these origins read the application's answers; with ``*``, of every origin."""
    if not origins:
        return
    inner = app.asgi_app
    allowed = frozenset(origin.encode() for origin in origins)

    async def outer(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _serve(allowed, inner, scope, receive, send)
        else:
            await inner(scope, receive, send)  # type: ignore[arg-type]  # plain ASGI, see ``later``

    app.asgi_app = outer  # type: ignore[method-assign, assignment]  # the framework's own way for middleware


async def _serve(allowed: frozenset[bytes], inner: Any, scope: Message, receive: Receive, send: Send) -> None:
    headers = dict(scope["headers"])
    fields = _fields(allowed, headers.get(b"origin", b""))
    granted = any(name == b"access-control-allow-origin" for name, _ in fields)
    if granted and scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
        await _preflight(scope["scheme"], fields, send)
        return

    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *fields]}
        await send(message)

    await inner(scope, receive, add)


def _fields(allowed: frozenset[bytes], origin: bytes) -> list[tuple[bytes, bytes]]:
    exposed = (b"access-control-expose-headers", EXPOSED.encode())
    if b"*" in allowed:
        return [(b"access-control-allow-origin", b"*"), exposed]
    # Also where it is not allowed: a cache must not give one origin what another one got.
    vary = (b"vary", b"Origin")
    return [vary, (b"access-control-allow-origin", origin), exposed] if origin in allowed else [vary]


async def _preflight(scheme: str, fields: list[tuple[bytes, bytes]], send: Send) -> None:
    """Answer the browser's question whether the page may ask."""
    plain = {
        **SECURITY,
        **(HSTS if scheme == "https" else {}),
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": ALLOWED,
        "Access-Control-Max-Age": str(_PREFLIGHT_S),
        "X-Request-ID": new_id("req"),
    }
    own = [(name.lower().encode(), value.encode()) for name, value in plain.items()]
    await send({"type": "http.response.start", "status": 204, "headers": [*fields, *own]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
