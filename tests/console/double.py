"""A coordinator's double: real HTTP over real TLS, answers written by hand.

Every request is held against the coordinator's own route table (method, path, query, body), and every answer against
the route's struct, so that the console is not tested against an interface that only its tests know.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
import trustme

from coordinator.app import ROUTES
from coordinator.web.table import Access, NoBody, Raw, Route

KEY = "certctl-made-up-key-0123456789"
Reply = tuple[int, Any]
Answering = Callable[["Asked"], Reply]


class Asked(msgspec.Struct, frozen=True):
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    authorization: str
    if_match: str = ""


def problem(status: int, kind: str, detail: str, **members: Any) -> Reply:
    """Return a problem document as an answer."""
    document = {"type": f"urn:certctl:problem:{kind}", "title": kind, "status": status, "detail": detail}
    return status, {**document, "request_id": "req-1", **members}


def page(rows: list[Any], *, total: int | None = None, next_cursor: str | None = None) -> dict[str, Any]:
    """Return a list's answer."""
    count = len(rows) if total is None else total
    return {
        "data": rows,
        "total": count,
        "total_exact": True,
        "next_cursor": next_cursor,
        "page": 1,
        "per_page": 50,
    }


class Double:
    """Answers what it was told to; ``asked`` keeps what came."""

    def __init__(self, authority: trustme.CA) -> None:
        self.asked: list[Asked] = []
        self.answers: dict[tuple[str, str], Answering] = {}
        self._authority = authority
        with contextlib.closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def on(self, method: str, path: str, answer: object, status: int = 200) -> None:
        """Answer ``answer``, or what it returns when it is called with the request."""
        self.answers[method, path] = answer if callable(answer) else lambda _asked: (status, answer)

    def paths(self, method: str = "GET") -> list[str]:
        """Return the paths that were asked."""
        return [asked.path for asked in self.asked if asked.method == method]

    def start(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
        server = _Server(("127.0.0.1", self.port), _handler(self), context)
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def restart_in(self, seconds: float) -> None:
        """Stop, and come back later."""
        self.stop()
        threading.Timer(seconds, self.start).start()

    def reply(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        route = _route(asked)
        if route is None:
            return problem(404, "not-found", f"there is no {asked.path} here")
        if route.access is not Access.OPEN and asked.authorization != f"Bearer {KEY}":
            return problem(401, "unauthenticated", "this API key is not known, was switched off or has expired")
        msgspec.convert(asked.query, type=route.query, strict=False)
        if route.request is not NoBody:
            msgspec.convert(asked.body, type=route.request)
        else:
            assert asked.body is None
        answering = self.answers.get((asked.method, asked.path))
        if answering is None:
            return problem(404, "not-found", f"there is no {asked.path.rpartition('/')[2]}")
        status, answer = answering(asked)
        if status < 300 and not isinstance(answer, bytes) and route.response not in {None, Raw}:
            msgspec.convert(answer, type=route.response)
        return status, answer


def _route(asked: Asked) -> Route | None:
    for route in ROUTES:
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route.path))
        if route.method == asked.method and re.fullmatch(pattern, asked.path):
            return route
    return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext
    ) -> None:
        self._context = context
        super().__init__(address, handler)

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the base class has it
        # The handshake belongs into the connection's own thread, and a client that goes away is no error here.
        with contextlib.suppress(OSError, ssl.SSLError), self._context.wrap_socket(request, server_side=True) as tls:
            super().finish_request(tls, client_address)


def _handler(double: Double) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = Asked(
                self.command,
                unquote(parts.path),
                dict(parse_qsl(parts.query)),
                msgspec.json.decode(content) if content else None,
                self.headers.get("Authorization", ""),
                self.headers.get("If-Match", ""),
            )
            try:
                status, answer = double.reply(asked)
            except (msgspec.ValidationError, AssertionError) as error:
                status, answer = problem(500, "test", f"the route table does not fit: {asked} {error}")
            body = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
            if status == 204:
                body = b""
            self.send_response(status)
            if isinstance(answer, dict) and "revision" in answer:
                self.send_header("ETag", f'"{answer["revision"]}"')
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the base class's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            pass

    return Handler


@contextlib.contextmanager
def running(authority: trustme.CA) -> Iterator[Double]:
    """Run a double."""
    double = Double(authority)
    double.start()
    try:
        yield double
    finally:
        double.stop()
