"""The balancer: each connection to the next backend, bytes untouched in both directions, and nothing left behind."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from benchmarks.lab.processes import free_ports, wait_until
from tests.journeys.acme.balancer import Balancer, Where, balancing

LOOPBACK = "127.0.0.1"


class Echo(socketserver.ThreadingTCPServer):
    """Answers with its name and with what it was sent, once the other side has no more."""

    allow_reuse_address = True

    def __init__(self, port: int) -> None:
        super().__init__((LOOPBACK, port), Answer)
        self.name = f"{port}:".encode()


class Answer(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Echo)
        received = b"".join(iter(lambda: self.request.recv(65_536), b""))
        self.request.sendall(self.server.name + received)


@contextmanager
def echo(port: int) -> Iterator[Where]:
    with Echo(port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield (LOOPBACK, port)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def balanced() -> Iterator[tuple[Balancer, list[int]]]:
    """A balancer in front of two echoes, and their ports."""
    front, *backends = free_ports(3)
    with ExitStack() as stack:
        places = [stack.enter_context(echo(port)) for port in backends]
        yield stack.enter_context(balancing((LOOPBACK, front), places)), backends


def ask(where: Where, sent: bytes) -> bytes:
    with socket.create_connection(where, timeout=10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_connections_go_to_each_backend_in_turn(balanced: tuple[Balancer, list[int]]) -> None:
    """Neither is asked twice in a row."""
    balancer, ports = balanced
    told = [int(ask(balancer.where, b"x").partition(b":")[0]) for _ in range(6)]
    assert told == ports * 3
    assert balancer.given == [3, 3]


def test_what_passes_through_is_untouched(balanced: tuple[Balancer, list[int]]) -> None:
    """Also when it is more than any buffer holds."""
    balancer, _ = balanced
    sent = bytes(range(256)) * 20_000
    assert ask(balancer.where, sent).partition(b":")[2] == sent


def test_a_backend_that_is_away_costs_one_connection(balanced: tuple[Balancer, list[int]]) -> None:
    """The client is told by the end of its connection, and the next one is served."""
    _, ports = balanced
    front, nobody = free_ports(2)
    with balancing((LOOPBACK, front), [(LOOPBACK, nobody), (LOOPBACK, ports[0])]) as balancer:
        with socket.create_connection(balancer.where, timeout=10) as connection:
            assert connection.recv(1) == b""
        assert ask(balancer.where, b"x").endswith(b":x")


def test_it_ends_while_a_connection_is_open(balanced: tuple[Balancer, list[int]]) -> None:
    """Whoever is connected then sees the end."""
    _, ports = balanced
    (front,) = free_ports(1)
    with socket.socket() as connection:
        connection.settimeout(10)
        with balancing((LOOPBACK, front), [(LOOPBACK, ports[0])]) as balancer:
            connection.connect(balancer.where)
            connection.sendall(b"x")
            wait_until("the connection is passed on", lambda: balancer.given == [1])
        assert connection.recv(1) == b""
