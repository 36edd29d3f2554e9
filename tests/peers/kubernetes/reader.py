"""What reads a TLS Secret and serves it, as an Ingress controller does: it follows the Secret and takes no command."""

from __future__ import annotations

import base64
import socket
import ssl
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from benchmarks.lab.processes import free_ports
from tests.peers.kubernetes.peer import Peer

_PAUSE_S = 0.03


class Reader:
    """Serves one page over HTTPS with the certificate of a Secret, on a free port, from threads of this process."""

    def __init__(self, peer: Peer, namespace: str, secret: str) -> None:
        (self.port,) = free_ports(1)
        self._peer, self._namespace = peer, namespace
        self.secret = secret
        """Which Secret is read; another one may be named at any time."""
        self._over = threading.Event()
        self._server = _Server(("127.0.0.1", self.port), _Page)
        self._threads = [threading.Thread(target=work) for work in (self._follow, self._serve)]

    def start(self) -> None:
        """Serve what is there, and follow it."""
        self._server.context = self._read("")[0]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._over.set()
        self._server.shutdown()
        for thread in self._threads:
            thread.join()
        self._server.server_close()

    def _serve(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def _follow(self) -> None:
        version = ""
        while not self._over.wait(_PAUSE_S):
            try:
                self._server.context, version = self._read(version)
            except (httpx.HTTPError, ssl.SSLError, KeyError):
                continue

    def _read(self, known: str) -> tuple[ssl.SSLContext | None, str]:
        stored = self._peer.read(self._namespace, self.secret)
        if stored is None:
            return None, ""
        metadata = stored["metadata"]
        version = f"{metadata['uid']} {metadata['resourceVersion']}"
        if version == known:
            return self._server.context, known
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            pair = Path(folder) / "pair.pem"
            pair.write_bytes(b"".join(base64.b64decode(stored["data"][key]) for key in ("tls.key", "tls.crt")))
            context.load_cert_chain(pair)
        return context, version


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    context: ssl.SSLContext | None = None

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection, with the certificate of this moment."""
        connection, address = super().get_request()
        if self.context is None:
            connection.close()
            raise OSError("there is no certificate")
        return self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, *_: Any) -> None:
        """Say nothing: a client that goes away is none of a test's concern."""


class _Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
