"""What stands beside clients that only write files: a web server for http-01, a TLS server for tls-alpn-01."""

from __future__ import annotations

import contextlib
import functools
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

ALPN = "acme-tls/1"
_HANDSHAKE_S = 10.0


@contextlib.contextmanager
def webroot(root: Path, address: str, port: int) -> Iterator[None]:
    """Serve the files below ``root`` as a web server would that is there anyway."""
    handler = functools.partial(_Quiet, directory=str(root))
    with ThreadingHTTPServer((address, port), handler) as server, _serving(server):
        yield


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_words: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


class ALPNResponder(contextlib.AbstractContextManager["ALPNResponder"]):
    """Serves ``NAME.crt.pem`` and ``NAME.key.pem`` of a folder to whom asks for ``NAME`` and acme-tls/1 (RFC 8737)."""

    def __init__(self, folder: Path, address: str, port: int) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._where = (address, port)

    def __enter__(self) -> Self:
        shake = self._shake

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                """Shake hands; the handshake is all there is."""
                shake(self.request)

        server = self._stack.enter_context(_Threading(self._where, Handler))
        self._stack.enter_context(_serving(server))
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def _shake(self, raw: socket.socket) -> None:
        raw.settimeout(_HANDSHAKE_S)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols([ALPN])
        context.sni_callback = self._choose
        with contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True) as tls:
            tls.recv(1)

    def _choose(self, tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
        certificate, key = (self._folder / f"{name}.{kind}.pem" for kind in ("crt", "key"))
        if not (certificate.exists() and key.exists()):
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        chosen = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        chosen.set_alpn_protocols([ALPN])
        chosen.load_cert_chain(certificate, key)
        tls.context = chosen
        return None


class _Threading(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
