"""The TLS probe against real listeners under asyncio and Trio."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from hashlib import sha256

import pytest
import trustme

from connectors.probes.tls import probe
from core.errors import DeadlineExceeded, InvalidInput, Transient

pytestmark = pytest.mark.anyio


class Listener:
    """A server in a thread that serves one certificate per name, and notes which names it was asked for."""

    def __init__(self, address: str = "127.0.0.1", *, tls: bool = True, answer: bool = True) -> None:
        authority = trustme.CA()
        self.certificates = {name: authority.issue_cert(name) for name in ("a.test", "b.test")}
        self.asked: list[str | None] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.certificates["a.test"].configure_cert(self._context)
        self._context.sni_callback = self._choose
        self._tls, self._answer = tls, answer
        self._socket = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def fingerprint(self, name: str) -> str:
        pem = self.certificates[name].cert_chain_pems[0].bytes().decode()
        return sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)

    def _choose(self, connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        self.asked.append(name)
        if name == "b.test":
            other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.certificates["b.test"].configure_cert(other)
            connection.context = other

    def _serve(self) -> None:
        open_connections = []
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                break
            connection.settimeout(5)
            if not self._answer:
                open_connections.append(connection)
            elif self._tls:
                self._shake_hands(connection)
            else:
                connection.recv(1)
                connection.close()
        for connection in open_connections:
            connection.close()

    def _shake_hands(self, connection: socket.socket) -> None:
        try:
            with self._context.wrap_socket(connection, server_side=True) as tls:
                tls.recv(1)
        except OSError:
            connection.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


async def test_the_served_leaf_is_returned(listener: Listener) -> None:
    seen = await probe("127.0.0.1", listener.port)
    assert seen.fingerprint == listener.fingerprint("a.test") == sha256(seen.leaf).hexdigest()
    assert seen.tls_version == "TLSv1.3"
    assert 0 < seen.ms < 5000
    assert listener.asked == [None]


async def test_the_server_name_chooses(listener: Listener) -> None:
    seen = await probe("localhost", listener.port, sni="b.test")
    assert seen.fingerprint == listener.fingerprint("b.test")
    assert listener.asked == ["b.test"]


@pytest.mark.parametrize("address", ["127.0.0.1", "2001:db8::1"])
async def test_an_address_is_no_server_name(listener: Listener, address: str) -> None:
    """RFC 6066 section 3: literal addresses are not permitted."""
    await probe("127.0.0.1", listener.port, sni=address)
    assert listener.asked == [None]


async def test_every_look_is_a_fresh_handshake(listener: Listener) -> None:
    for _ in range(3):
        await probe("127.0.0.1", listener.port, sni="a.test")
    assert listener.asked == ["a.test"] * 3


async def test_ipv6() -> None:
    listener = Listener("::1")
    try:
        assert (await probe("::1", listener.port)).fingerprint == listener.fingerprint("a.test")
    finally:
        listener.close()


async def test_nothing_listening_is_said_plainly() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(Transient, match=f"connection refused at 127.0.0.1:{port}: is the server running"):
            await probe("127.0.0.1", port)


async def test_a_plain_port_is_said_plainly() -> None:
    listener = Listener(tls=False)
    try:
        with pytest.raises(Transient, match="is this a TLS port"):
            await probe("127.0.0.1", listener.port)
    finally:
        listener.close()


async def test_a_silent_server_meets_the_deadline() -> None:
    listener = Listener(answer=False)
    try:
        with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
            await probe("127.0.0.1", listener.port, timeout_s=0.2)
    finally:
        listener.close()


async def test_an_unknown_host_is_named() -> None:
    with pytest.raises(Transient, match=r"no-such-host\.invalid is not a known host name"):
        await probe("no-such-host.invalid", 443)


@pytest.mark.parametrize("host, sni", [("127.0.0.1", "a..b"), ("127.0.0.1", "x" * 70), ("a\0b", "")])
async def test_names_that_cannot_be_sent_are_refused(listener: Listener, host: str, sni: str) -> None:
    with pytest.raises(InvalidInput):
        await probe(host, listener.port, sni=sni)
