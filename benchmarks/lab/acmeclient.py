"""An ACME client that does little beside asking, and the small servers that its names lead to: DNS and http-01.

It keeps one connection and one account, and believes every answer. Each request can be watched from outside.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httptools
from joserfc import jws
from joserfc.jwk import ECKey, OctKey
from joserfc.jws import JWSRegistry
from joserfc.registry import HeaderParameter

from benchmarks.lab.fleet import JSON
from core import acme
from core.csr import build_csr
from core.keys import KeyAlgorithm, generate, to_pem
from core.names import parse_name

_REGISTRY = JWSRegistry({name: HeaderParameter(name, "str") for name in ("nonce", "url")}, ["ES256", "HS256"])
_WAITS = frozenset({"pending", "processing"})
_POLL_S = 0.01
_DNS_A, _DNS_HEADER = 1, 12
_LOCALHOST = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x7f\x00\x00\x01"
"""An answer's record: the question's name, type A, class IN, 60 s, 127.0.0.1 (RFC 1035 section 4.1.3)."""
Watch = Callable[[str], AbstractContextManager[None]]


class EAB(NamedTuple):
    """An external account (RFC 8555 section 7.3.4): its key identifier, and its HMAC key in base64url."""

    kid: str
    hmac_key: str


class Answers:
    """Every name leads to this host, and every token that is known here is answered, one after another."""

    def __init__(self) -> None:
        self.tokens = dict[str, str]()
        self._http, self._dns_tcp = (socket.create_server(("127.0.0.1", 0), backlog=256) for _ in range(2))
        self.http_port, self.dns_port = self._http.getsockname()[1], self._dns_tcp.getsockname()[1]
        self._dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._dns.bind(("127.0.0.1", self.dns_port))

    @contextlib.contextmanager
    def running(self) -> Iterator[Answers]:
        """Answer until the block ends."""
        for answer in (self._answer_dns, self._answer_dns_tcp, self._answer_http):
            threading.Thread(target=answer, daemon=True).start()
        try:
            yield self
        finally:
            for each in (self._dns, self._dns_tcp, self._http):
                each.close()

    def _answer_dns(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                query, peer = self._dns.recvfrom(4096)
                self._dns.sendto(_dns_answer(query), peer)

    def _answer_dns_tcp(self) -> None:
        def answer(connection: socket.socket) -> None:
            found = _dns_answer(connection.recv(4096)[2:])
            connection.sendall(len(found).to_bytes(2, "big") + found)

        _serve(self._dns_tcp, answer)

    def _answer_http(self) -> None:
        def answer(connection: socket.socket) -> None:
            token = connection.recv(4096).split(b" ", 2)[1].rpartition(b"/")[2].decode()
            body = self.tokens.get(token, "").encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode() + body)

        _serve(self._http, answer)


def _serve(listener: socket.socket, answer: Callable[[socket.socket], None]) -> None:
    """Answer connections, one after another, until the listener is closed; what goes wrong with one ends that one."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError, ValueError, IndexError):
                connection.settimeout(1)
                answer(connection)


def _dns_answer(query: bytes) -> bytes:
    """Return this host's address for a question of type A, and no record of any other type."""
    end = query.index(0, _DNS_HEADER) + 5
    is_a = int.from_bytes(query[end - 4 : end - 2], "big") == _DNS_A
    counts = b"\x00\x01" + (b"\x00\x01" if is_a else b"\x00\x00") + bytes(4)
    return query[:2] + b"\x81\x80" + counts + query[_DNS_HEADER:end] + (_LOCALHOST if is_a else b"")


class Response:
    """One response as httptools tells of it."""

    def __init__(self) -> None:
        self.headers, self.body, self.is_whole = dict[str, str](), b"", False
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, piece: bytes) -> None:
        """Keep a piece of the body."""
        self.body += piece

    def on_message_complete(self) -> None:
        """Note the end."""
        self.is_whole = True


class _Connection:
    """One connection that is kept; each request is one write, so that a server need not read it in pieces."""

    def __init__(self, host: str, port: int, ca: Path) -> None:
        self._host = f"{host}:{port}"
        raw = socket.create_connection((host, port), timeout=20)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tls = ssl.create_default_context(cafile=ca).wrap_socket(raw, server_hostname=host)

    def ask(self, method: str, path: str, body: bytes) -> Response:
        """Return the response; ``HEAD`` has no body whatever its headers say."""
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nUser-Agent: certctl-bench\r\n"
        if body:
            head += f"Content-Type: application/jose+json\r\nContent-Length: {len(body)}\r\n"
        self._tls.sendall(f"{head}\r\n".encode() + body)
        response = Response()
        while not response.is_whole:
            piece = self._tls.recv(65536)
            assert piece, "the server has closed the connection"
            response.parser.feed_data(piece)
            response.is_whole |= method == "HEAD" and piece.endswith(b"\r\n\r\n")
        return response

    def close(self) -> None:
        """Close it."""
        self._tls.close()


def _signed(header: dict[str, Any], payload: bytes, key: ECKey | OctKey) -> dict[str, str]:
    """Return a JWS in flattened JSON (RFC 7515 section 7.2.2)."""
    parts = jws.serialize_compact(header, payload, key, registry=_REGISTRY).split(".")
    return dict(zip(("protected", "payload", "signature"), parts, strict=True))


class Client:
    """An account and its connection; ``requests`` counts what it has asked, ``watch`` is around each request."""

    def __init__(
        self, directory_url: str, ca: Path, number: int, answers: Answers | None = None, eab: EAB | None = None
    ) -> None:
        parts = urlsplit(directory_url)
        self._connection = _Connection(parts.hostname or "", parts.port or 443, ca)
        self._key, self._kid, self._nonce = ECKey.generate_key("P-256"), "", ""
        self._tls_key, self._number, self._count = generate(KeyAlgorithm.ECDSA_P256), number, 0
        self._answers = answers
        self.requests = 0
        self.watch: Watch = lambda _: nullcontext()
        self.directory = json.loads(self._ask("directory", "GET", directory_url).body)
        self._ask("newNonce", "HEAD", self.directory["newNonce"])
        account = {"termsOfServiceAgreed": True, **({"externalAccountBinding": self._bound(eab)} if eab else {})}
        self._kid = self.post("newAccount", self.directory["newAccount"], account).headers["location"]

    def close(self) -> None:
        """Close its connection."""
        self._connection.close()

    @property
    def key(self) -> bytes:
        """Return the key of its certificates in PEM."""
        return to_pem(self._tls_key).reveal()

    def _bound(self, eab: EAB) -> dict[str, str]:
        header = {"alg": "HS256", "kid": eab.kid, "url": self.directory["newAccount"]}
        secret = OctKey.import_key({"kty": "oct", "k": eab.hmac_key})
        return _signed(header, json.dumps(self._key.as_dict(private=False)).encode(), secret)

    def _ask(self, what: str, method: str, url: str, body: bytes = b"") -> Response:
        self.requests += 1
        with self.watch(what):
            response = self._connection.ask(method, urlsplit(url).path, body)
        self._nonce = response.headers.get("replay-nonce", self._nonce)
        assert response.parser.get_status_code() < HTTPStatus.BAD_REQUEST, response.body
        return response

    @property
    def thumbprint(self) -> str:
        """Return that of its account's key (RFC 7638)."""
        return str(self._key.thumbprint())

    def post(self, what: str, url: str, payload: dict[str, Any] | None = None) -> Response:
        """Send a signed request, without a payload POST-as-GET; ``what`` is what it is watched as."""
        who = {"kid": self._kid} if self._kid else {"jwk": self._key.as_dict(private=False)}
        header = {"alg": "ES256", "nonce": self._nonce, "url": url, **who}
        plain = b"" if payload is None else json.dumps(payload).encode()
        return self._ask(what, "POST", url, json.dumps(_signed(header, plain, self._key)).encode())

    def flow(self) -> None:
        """Get one certificate for a name of its own."""
        self._count += 1
        self.obtain(f"n{self._count}.c{self._number}.example.test")

    def obtain(self, name: str) -> bytes:
        """Order, authorization, challenge where it is asked for, finalize, download; return the chain in PEM."""
        identifiers = {"identifiers": [{"type": "dns", "value": name}]}
        made = self.post("newOrder", self.directory["newOrder"], identifiers)
        order, url = json.loads(made.body), made.headers["location"]
        for each in order["authorizations"]:
            authorization = json.loads(self.post("authorization", each).body)
            if authorization["status"] == "pending":
                self._prove(authorization["challenges"])
        order = self._until("order (polled)", url, order, "ready")
        csr = acme.encode(build_csr(self._tls_key, "", (parse_name(name),)))
        order = json.loads(self.post("finalize", order["finalize"], {"csr": csr}).body)
        return self.post("certificate", self._until("order (polled)", url, order, "valid")["certificate"]).body

    def _prove(self, challenges: list[JSON]) -> None:
        challenge = next(each for each in challenges if each["type"] == acme.HTTP_01)
        if self._answers is not None:
            self._answers.tokens[challenge["token"]] = f"{challenge['token']}.{self.thumbprint}"
        self.post("challenge", challenge["url"], {})

    def _until(self, what: str, url: str, order: JSON, wanted: str) -> JSON:
        while order["status"] != wanted:
            assert order["status"] in _WAITS, order
            time.sleep(_POLL_S)
            order = json.loads(self.post(what, url).body)
        return order
