"""A provider that lies as it is told to: the token endpoint gives out whatever a test wants it to.

Its authorization endpoint is never visited: a test reads state and nonce off the way there, and comes back by itself.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from tests.coordinator.oidc.browser import CLIENT_ID
from tests.coordinator.oidc.conftest import Shown

Key = RSAKey | ECKey | OKPKey


class LyingProvider:
    """What it publishes and gives out can be changed while it runs; ``asked`` counts requests by path."""

    def __init__(self, port: int) -> None:
        self.issuer = f"https://localhost:{port}"
        self.key: Key = _first_key()
        self.algorithm = "RS256"
        self.claims: dict[str, Any] = {}
        self.header: dict[str, Any] = {}
        self.published: list[dict[str, Any]] = [dict(self.key.as_dict(private=False))]
        self.metadata: dict[str, Any] = {}
        self.userinfo: dict[str, Any] = {}
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.token = ""
        self.forms: list[dict[str, str]] = []
        self.asked: list[str] = []

    def document(self) -> dict[str, Any]:
        """Return the discovery document."""
        places = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "jwks"}
        places["userinfo_endpoint"] = "userinfo"
        urls = {name: f"{self.issuer}/{path}" for name, path in places.items()}
        return {"issuer": self.issuer, **urls, **self.metadata}

    def sign(self, nonce: str) -> None:
        """Make the token that is given out next: right, but for what ``claims`` and ``header`` change."""
        now = int(time.time())
        right = {"iss": self.issuer, "sub": "u-1", "aud": CLIENT_ID, "exp": now + 300, "iat": now, "nonce": nonce}
        claims = {**right, "name": "Ada", "groups": ["certctl-ops"], **self.claims}
        claims = {name: value for name, value in claims.items() if value is not None}
        header = {"alg": self.algorithm, "kid": self.key.kid, **self.header}
        header = {name: value for name, value in header.items() if value is not None}
        registry = jws.JWSRegistry(algorithms=[self.algorithm], strict_check_header=False)
        self.token = jws.serialize_compact(header, json.dumps(claims), self.key, registry=registry)

    def forge(self, header: dict[str, Any], secret: bytes | None) -> None:
        """Replace the header of the made token; sign by HMAC with ``secret``, or not at all."""
        head = _b64(json.dumps(header).encode())
        signed = f"{head}.{self.token.split('.')[1]}"
        mac = b"" if secret is None else hmac.digest(secret, signed.encode(), hashlib.sha256)
        self.token = f"{signed}.{_b64(mac)}"

    def answer(self, path: str) -> tuple[int, bytes]:
        """Return status and body for a path."""
        self.asked.append(path)
        if path in self.answers:
            return self.answers[path]
        told: dict[str, Any] = {
            "/.well-known/openid-configuration": self.document(),
            "/jwks": {"keys": self.published},
            "/token": {"id_token": self.token, "access_token": "at-1", "token_type": "Bearer"},
            "/userinfo": self.userinfo,
        }
        return (200, json.dumps(told[path]).encode()) if path in told else (404, b"{}")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    provider: LyingProvider


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self._send(*self.server.provider.answer(urlsplit(self.path).path))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        self.server.provider.forms.append({**form, "Authorization": self.headers.get("Authorization", "")})
        self._send(*self.server.provider.answer(urlsplit(self.path).path))

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 302:
            self.send_header("Location", body.decode())
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def running(shown: Shown) -> Iterator[LyingProvider]:
    """Run one on a free port."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.provider = LyingProvider(server.server_address[1])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.certificate, shown.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@functools.cache
def _first_key() -> RSAKey:
    """Return a key, made once: that takes longer than most tests with it."""
    return RSAKey.generate_key(2048, {"kid": "first", "use": "sig"})


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
