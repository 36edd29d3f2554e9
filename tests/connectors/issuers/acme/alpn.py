"""A TLS server that shows a challenge's certificate where ``acme-tls/1`` is asked for (RFC 8737)."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from connectors.issuers.acme.challenges import Challenge
from core.acme import ALPN_PROTOCOL
from core.certificates import to_pem


class ALPNServer:
    """Answers tls-alpn-01 for one challenge at a time; ``asked`` are the names that were asked for."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.asked: list[str | None] = []
        self.expected = ""
        self._context: ssl.SSLContext | None = None

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    async def present(self, challenge: Challenge) -> None:
        """Show it."""
        self.expected = challenge.alpn_server_name
        certificate, key = challenge.alpn_certificate()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols([ALPN_PROTOCOL])
        context.sni_callback = self._note
        with tempfile.TemporaryDirectory() as folder:
            pem = Path(folder) / "both.pem"
            pem.write_bytes(to_pem(certificate) + key.reveal())
            context.load_cert_chain(pem)
        self._context = context

    async def clean_up(self, challenge: Challenge) -> None:
        """Show nothing any more."""
        del challenge
        self._context = None

    def _note(self, _server: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        self.asked.append(name)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                assert self._context is not None
                with self._context.wrap_socket(connection, server_side=True) as tls:
                    tls.unwrap()
