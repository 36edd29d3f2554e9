"""An HTTPS service in a thread that answers as a test tells it to."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import trustme

from connectors.issuers.acme.transport import Connection


@dataclass
class Asked:
    """A request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401 - a test knows what it sent
        return json.loads(self.body)


@dataclass
class Reply:
    """An answer; ``body`` is JSON unless it is bytes."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


@dataclass
class Service:
    """Where it is, what it was asked, and who answers."""

    answer: Callable[[Asked], Reply]
    url: str = ""
    root: str = ""
    asked: list[Asked] = field(default_factory=list)

    @property
    def connection(self) -> Connection:
        return Connection(ca_bundle=self.root, timeout_s=10)


@contextmanager
def serving(answer: Callable[[Asked], Reply]) -> Iterator[Service]:
    """Run a service."""
    authority = trustme.CA()
    service = Service(answer, root=authority.cert_pem.bytes().decode())

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply()

        do_POST = do_PUT = do_HEAD = do_DELETE = do_GET  # noqa: N815 - names of the standard library

        def _reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, self.rfile.read(length))
            service.asked.append(asked)
            reply = service.answer(asked)
            time.sleep(reply.delay_s)
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    # A client that goes away in the midst of its handshake holds up its own thread, not all others and the end.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    service.url = f"https://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
