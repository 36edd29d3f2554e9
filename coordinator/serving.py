"""The listeners: HTTPS for everybody with a credential, plain HTTP for relying parties, metrics for Prometheus.

Sockets are bound before anything else happens, so that a port that is taken stops the start at once and by its name.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import contextlib
import resource
import select
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from coordinator import slowness
from coordinator.metrics import state
from coordinator.settings import Settings
from coordinator.web.headers import SECURITY
from core.errors import Misconfigured

if TYPE_CHECKING:
    from coordinator.context import Context

GRACE_S = 25
_GOODBYE_S = 0.5
_CHANCE_S = 5.0
"""For who has connected and not asked yet when the end comes: a handshake takes its time on a busy host."""
_CALM = 3
_LOOK_S = 0.02
_BACKLOG = 4096
_ACCEPTED_AT_ONCE = 16
"""Connections that are taken in one turn of the loop. A fleet that comes back at once waits in the kernel's queue, and
those who were taken get their handshakes done; with all of them taken at once every handshake would take too long."""
_UNACKNOWLEDGED_MS = 40_000
"""How long sent bytes may stay unacknowledged: less than the pause between two signs of life (``HEARTBEAT_S``), so that
an agent that is still connected when the next one is sent has got the one before."""
_TLS_BUFFER_BYTES = 4096
"""What each TLS connection reads into. The library's own 256 KiB, held for every idle agent, are most of its memory."""


@dataclass(frozen=True)
class Sockets:
    """Bound listeners; a listener that is switched off is None."""

    https: socket.socket
    pki: socket.socket | None
    metrics: socket.socket | None


def bind_all(settings: Settings) -> Sockets:
    """Bind every listener; raise ``Misconfigured`` that names the variable of the one that cannot be had."""
    _allow_connections()
    https = _bind(settings.host, settings.port, "CERTCTL_SERVER_HOST/CERTCTL_SERVER_PORT")
    pki = (
        _bind(settings.pki_host, settings.pki_port, "CERTCTL_PKI_HOST/CERTCTL_PKI_PORT") if settings.pki_port else None
    )
    listen = settings.metrics_listen
    return Sockets(https, pki, _bind(*listen, "CERTCTL_METRICS_LISTEN") if listen else None)


def _allow_connections() -> None:
    """Take as many open files as the system grants: each agent holds a connection, and the usual limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _bind(host: str, port: int, variable: str) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError as error:
        message = (
            f"{variable}: cannot listen on {host}:{port}: {error.strerror}; stop what listens there or choose another"
        )
        raise Misconfigured(message) from error
    bound.settimeout(0)  # asyncio takes sockets that do not block
    return bound


class Server(uvicorn.Server):
    """A server that leaves signals to ``main``, since several of them share one process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, with a long queue in the kernel behind a short one here; the library knows one number for both."""
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(_BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish requests in hand, then end; connections without one do not hold the end up.

        Who has just connected is in the middle of asking: these are heard first, so that a replica which is replaced
        refuses nobody.
        """
        await self._take_who_waits()
        await self._hear_newcomers()
        self._cut_idle_connections(closing=True)
        ending = asyncio.create_task(self._end_idle_connections())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _take_who_waits(self) -> None:
        """Take the connections that the kernel has, then no more; it would reset those that it still had."""
        waiting, calm = select.poll(), 0
        for listener in (listener for each in self.servers for listener in each.sockets):
            waiting.register(listener, select.POLLIN)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CHANCE_S):
                # The loop needs a turn to take one, and the next to make something of it.
                while (calm := 0 if waiting.poll(0) else calm + 1) < _CALM and not self.force_exit:  # noqa: ASYNC110
                    await asyncio.sleep(0)
        for each in self.servers:
            each.close()

    async def _hear_newcomers(self) -> None:
        """Let those send their request who are connected and have sent none, for a moment."""
        newcomers = cast("type[slowness.WatchedProtocol]", self.config.http_protocol_class).newcomers
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CHANCE_S):
                while newcomers and not self.force_exit:  # noqa: ASYNC110 - garbage collection tells of nothing
                    await asyncio.sleep(_LOOK_S)

    async def _end_idle_connections(self) -> None:
        """Cut connections whose peer does not answer TLS's goodbye, which would be waited for half a minute."""
        while True:
            await asyncio.sleep(_GOODBYE_S)
            self._cut_idle_connections(closing=False)

    def _cut_idle_connections(self, *, closing: bool) -> None:
        """Cut idle connections; with ``closing`` only those that say goodbye already.

        These must go first: closing a TLS transport a second time, as the server's own shutdown does, leaves it deaf to
        ``abort`` (CPython 3.11).
        """
        for connection in list(self.server_state.connections):
            cycle, transport = getattr(connection, "cycle", None), getattr(connection, "transport", None)
            idle = cycle is None or cycle.response_complete
            if transport is not None and idle and (transport.is_closing() or not closing):
                transport.abort()


def server(app: Any, context: ssl.SSLContext | None = None, *, max_body_bytes: int = 1024 * 1024) -> Server:
    """Return a server for an ASGI application; with ``context`` it speaks TLS."""
    asyncio.sslproto.SSLProtocol.max_size = _TLS_BUFFER_BYTES
    config = uvicorn.Config(
        app,
        http=slowness.protocol(max_body_bytes),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_ACCEPTED_AT_ONCE,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE_S,
        ssl_context_factory=(lambda _config, _default: context) if context else None,
    )
    return Server(config)


def metrics_app(ctx: Context) -> Any:
    """Return what answers ``GET /metrics``, as a plain ASGI function."""

    async def app(scope: dict[str, Any], _receive: Any, send: Any) -> None:
        known = scope["type"] == "http" and scope["path"] == "/metrics" and scope["method"] in {"GET", "HEAD"}
        body = await state.listener_text(ctx) if known else b"only /metrics is here\n"
        fields = {**SECURITY, "Content-Type": state.CONTENT_TYPE}
        headers = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
        start = {"type": "http.response.start", "status": 200 if known else 404, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": b"" if scope.get("method") == "HEAD" else body})

    return app


async def serve_until_stopped(
    servers: list[tuple[Server, socket.socket]], *, on_stop: Callable[[], None], on_reload: Callable[[], object]
) -> None:
    """Run the servers until SIGTERM or SIGINT; SIGHUP calls ``on_reload``. A second signal stops without grace."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        on_stop()
        for each, _ in servers:
            each.force_exit = each.should_exit
            each.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, on_reload)
    try:
        async with asyncio.TaskGroup() as group:
            for each, bound in servers:
                group.create_task(each.serve(sockets=[bound]))
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
