"""A plain TCP balancer that gives every new connection to the next of its backends, and passes bytes on untouched.

HAProxy in benchmarks/lab gives a connection to the least busy; here two replicas get connections strictly in turn, so
that an order that began at one has to go on at the other. TLS goes through to the backend.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator, Sequence

_CHUNK = 65_536
_CONNECT_S = 5.0
Where = tuple[str, int]
"""Host and port."""


class Balancer:
    """One listener; ``given`` counts the connections that each backend was given."""

    def __init__(self, where: Where, backends: Sequence[Where]) -> None:
        self.where = where
        self.given = [0] * len(backends)
        self._backends = list(backends)
        self._turn = itertools.cycle(range(len(backends)))
        self._listener = socket.create_server(where, backlog=128)
        self._lock = threading.Lock()
        self._over = False
        self._open = set[socket.socket]()
        self._threads = [threading.Thread(target=self._accept, name="balancer")]

    def start(self) -> None:
        """Take connections."""
        self._threads[0].start()

    def stop(self) -> None:
        """Take no more, end those that are there, and wait for the threads."""
        with self._lock:
            self._over = True
            _end(self._listener, *self._open)
        self._threads[0].join()
        for thread in self._threads[1:]:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        # Ended by ``stop``, which shuts the listener down.
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                number = next(self._turn)
                self.given[number] += 1
                thread = threading.Thread(target=self._serve, args=(client, number), name="balanced")
                self._threads.append(thread)
                self._enter(client)
                thread.start()

    def _enter(self, connection: socket.socket) -> None:
        """Let ``stop`` know of it, or end it when that has come before."""
        with self._lock:
            self._open.add(connection)
            if self._over:
                _end(connection)

    def _serve(self, client: socket.socket, number: int) -> None:
        with (
            client,
            contextlib.suppress(OSError),
            socket.create_connection(self._backends[number], _CONNECT_S) as inner,
        ):
            inner.settimeout(None)
            self._enter(inner)
            back = threading.Thread(target=_pass_on, args=(inner, client))
            back.start()
            _pass_on(client, inner)
            back.join()
            with self._lock:
                self._open -= {client, inner}


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Pass on until the end, and the end too; when something broke, end both."""
    try:
        while data := source.recv(_CHUNK):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        _end(source, sink)


def _end(*connections: socket.socket) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def balancing(where: Where, backends: Sequence[Where]) -> Iterator[Balancer]:
    """Run a balancer."""
    balancer = Balancer(where, backends)
    balancer.start()
    try:
        yield balancer
    finally:
        balancer.stop()
