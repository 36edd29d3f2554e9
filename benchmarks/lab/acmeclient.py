"""An ACME client that does little beside asking, and the small servers that its names lead to: DNS and http-01.

It keeps one connection and one account, and believes every answer. Each request can be watched from outside.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from joserfc import jws
from joserfc.jwk import ECKey
from joserfc.jws import JWSRegistry
from joserfc.registry import HeaderParameter

from benchmarks.lab.fleet import JSON
from core import acme
from core.csr import build_csr
from core.keys import KeyAlgorithm, generate
from core.names import parse_name

_REGISTRY = JWSRegistry({name: HeaderParameter(name, "str") for name in ("nonce", "url")}, ["ES256"])
_WAITS = frozenset({"pending", "processing"})
_POLL_S = 0.01
_DNS_A, _DNS_HEADER = 1, 12
_LOCALHOST = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x7f\x00\x00\x01"
"""An answer's record: the question's name, type A, class IN, 60 s, 127.0.0.1 (RFC 1035 section 4.1.3)."""
Watch = Callable[[str], AbstractContextManager[None]]


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


class Client:
    """An account and its connection; ``requests`` counts what it has asked, ``watch`` is around each request."""

    def __init__(self, directory_url: str, ca: Path, number: int, answers: Answers | None = None) -> None:
        parts = urlsplit(directory_url)
        context = ssl.create_default_context(cafile=ca)
        self._http = http.client.HTTPSConnection(parts.hostname or "", parts.port, context=context, timeout=20)
        self._key, self._kid, self._nonce = ECKey.generate_key("P-256"), "", ""
        self._tls_key, self._number, self._count = generate(KeyAlgorithm.ECDSA_P256), number, 0
        self._answers = answers
        self.requests = 0
        self.watch: Watch = lambda _: nullcontext()
        self._directory = json.loads(self._ask("directory", "GET", directory_url)[1])
        self._ask("newNonce", "HEAD", self._directory["newNonce"])
        agreed = {"termsOfServiceAgreed": True}
        self._kid = self._post("newAccount", self._directory["newAccount"], agreed)[0]["Location"]

    def _ask(self, what: str, method: str, url: str, body: bytes = b"") -> tuple[Any, bytes]:
        self.requests += 1
        headers = {"User-Agent": "certctl-bench", **({"Content-Type": "application/jose+json"} if body else {})}
        with self.watch(what):
            self._http.request(method, urlsplit(url).path, body or None, headers)
            response = self._http.getresponse()
            content = response.read()
        self._nonce = response.headers.get("Replay-Nonce", self._nonce)
        assert response.status < http.client.BAD_REQUEST, content
        return response.headers, content

    def _post(self, what: str, url: str, payload: dict[str, Any] | None = None) -> tuple[Any, bytes]:
        who = {"kid": self._kid} if self._kid else {"jwk": self._key.as_dict(private=False)}
        header = {"alg": "ES256", "nonce": self._nonce, "url": url, **who}
        plain = b"" if payload is None else json.dumps(payload).encode()
        protected, body, signature = jws.serialize_compact(header, plain, self._key, registry=_REGISTRY).split(".")
        signed = json.dumps({"protected": protected, "payload": body, "signature": signature}).encode()
        return self._ask(what, "POST", url, signed)

    def flow(self) -> None:
        """Get one certificate: order, authorization, challenge where it is asked for, finalize, download."""
        self._count += 1
        name = f"n{self._count}.c{self._number}.example.test"
        identifiers = {"identifiers": [{"type": "dns", "value": name}]}
        headers, content = self._post("newOrder", self._directory["newOrder"], identifiers)
        order, url = json.loads(content), headers["Location"]
        for each in order["authorizations"]:
            authorization = json.loads(self._post("authorization", each)[1])
            if authorization["status"] == "pending":
                self._prove(authorization["challenges"])
        order = self._until("order (polled)", url, order, "ready")
        csr = acme.encode(build_csr(self._tls_key, "", (parse_name(name),)))
        order = json.loads(self._post("finalize", order["finalize"], {"csr": csr})[1])
        self._post("certificate", self._until("order (polled)", url, order, "valid")["certificate"])

    def _prove(self, challenges: list[JSON]) -> None:
        challenge = next(each for each in challenges if each["type"] == acme.HTTP_01)
        if self._answers is not None:
            self._answers.tokens[challenge["token"]] = f"{challenge['token']}.{self._key.thumbprint()}"
        self._post("challenge", challenge["url"], {})

    def _until(self, what: str, url: str, order: JSON, wanted: str) -> JSON:
        while order["status"] != wanted:
            assert order["status"] in _WAITS, order
            time.sleep(_POLL_S)
            order = json.loads(self._post(what, url)[1])
        return order
