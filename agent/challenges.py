"""Answers to ACME challenges for names that lead to this host: http-01 (RFC 8555 section 8.3), tls-alpn-01 (RFC 8737).

A port is open only while an answer is shown there. Nothing is kept on the disk: what a process showed that has ended,
its successor is told to show again.
"""

from __future__ import annotations

import errno
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import h11
import structlog
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.backoff import until_answered
from agent.coordinator import Coordinator
from agent.policy import Challenges, HostPolicy
from core import acme
from core.crash import crash_point
from core.errors import CertctlError, Refused
from core.wire import ChallengeItem, ChallengeReport

log = structlog.get_logger(__name__)
PATH = "/.well-known/acme-challenge/"
_EXCHANGE_S = 10.0
_MOST_BYTES = 16 * 1024
_AT_ONCE = 64
Handler = Callable[[trio.SocketStream], Awaitable[None]]


class Answers:
    """What is shown just now."""

    def __init__(self, client: Coordinator, policy: Callable[[], HostPolicy], stopping: trio.Event) -> None:
        self._client, self._policy, self._stopping = client, policy, stopping
        self._http = _Port(self._answer_http)
        self._tls = _Port(self._answer_tls)
        self._in_hand: set[str] = set()
        self._tokens: dict[str, ChallengeItem] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._connections = trio.CapacityLimiter(_AT_ONCE)

    def take(self, item: ChallengeItem, nursery: trio.Nursery) -> None:
        """Show an answer, or take it away, and tell of it; ``nursery`` lives as long as answers may be shown."""
        if item.challenge_id not in self._in_hand:
            self._in_hand.add(item.challenge_id)
            nursery.start_soon(self._do, item, nursery)

    async def _do(self, item: ChallengeItem, nursery: trio.Nursery) -> None:
        try:
            report = await self._done(item, nursery)
            crash_point("challenge.shown")
            await until_answered(
                "challenge", lambda: self._client.report_challenge(item.challenge_id, report), stopping=self._stopping
            )
        except CertctlError as error:
            log.warning("challenge_not_taken", detail=error.detail)
        finally:
            self._in_hand.discard(item.challenge_id)

    async def _done(self, item: ChallengeItem, nursery: trio.Nursery) -> ChallengeReport:
        if item.over:
            self._take_away(item)
            return ChallengeReport("gone")
        try:
            where = await self._show(item, nursery)
        except CertctlError as error:
            log.warning("challenge_not_shown", name=str(item.name), challenge=item.type, detail=error.detail)
            return ChallengeReport("failed", problem=error.detail)
        log.info("challenge_shown", name=str(item.name), challenge=item.type, where=where)
        return ChallengeReport("shown", where=where)

    async def _show(self, item: ChallengeItem, nursery: trio.Nursery) -> str:
        policy = self._policy()
        allowed = policy.challenges
        if not allowed.allow(item.name):
            remedy = f"to allow it, add the name to allowed_names of [challenges] in {policy.source}"
            raise Refused(f"this host answers no challenges for {item.name}; {remedy}")
        if item.type == acme.HTTP_01:
            await self._http.open(allowed.http, "http", nursery)
            self._tokens[item.token] = item
            return f"http at {allowed.http}"
        if item.type == acme.TLS_ALPN_01:
            await self._tls.open(allowed.tls, "tls", nursery)
            name = acme.alpn_server_name(item.name)
            self._contexts[name] = await trio.to_thread.run_sync(_context, item)
            return f"tls at {allowed.tls}"
        raise Refused(f"this agent does not know the challenge {item.type}; install a newer one")

    def _take_away(self, item: ChallengeItem) -> None:
        self._tokens.pop(item.token, None)
        self._contexts.pop(acme.alpn_server_name(item.name), None)
        if not self._tokens:
            self._http.close()
        if not self._contexts:
            self._tls.close()

    async def _answer_http(self, stream: trio.SocketStream) -> None:
        """Answer one request and close: only what was asked for is shown, to whoever asks."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_BYTES)
        async with stream, self._connections:
            with trio.move_on_after(_EXCHANGE_S):
                request = await _request(stream, connection)
                if request is None:
                    return
                path = request.target.decode("ascii", "replace").partition("?")[0]
                item = self._tokens.get(path.removeprefix(PATH)) if path.startswith(PATH) else None
                found = item is not None and request.method in {b"GET", b"HEAD"}
                body = item.key_authorization.encode() if found and item is not None else b"not found\n"
                headers = [
                    ("content-type", "application/octet-stream" if found else "text/plain"),
                    ("content-length", str(len(body))),
                    ("connection", "close"),
                ]
                log.info("challenge_asked_for", path=path[:200], found=found)
                sent = connection.send(h11.Response(status_code=200 if found else 404, headers=headers))
                if request.method != b"HEAD":
                    sent = (sent or b"") + (connection.send(h11.Data(data=body)) or b"")
                await stream.send_all(sent or b"")

    async def _answer_tls(self, stream: trio.SocketStream) -> None:
        """Shake hands with a client that speaks ``acme-tls/1`` and names a name that is shown here, and close."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols([acme.ALPN_PROTOCOL])

        def choose(tls: ssl.SSLObject, name: str | None, _first: ssl.SSLContext) -> int | None:
            chosen = self._contexts.get((name or "").lower())
            log.info("challenge_asked_for", server_name=(name or "")[:200], found=chosen is not None)
            if chosen is None:
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            tls.context = chosen
            return None

        context.sni_callback = choose
        async with self._connections:
            tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            with trio.move_on_after(_EXCHANGE_S):
                try:
                    await tls.do_handshake()
                    await tls.receive_some(1)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
            await trio.aclose_forcefully(tls)


class _Port:
    """A port that is open while something is shown there."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._address, self._scope = "", trio.CancelScope()
        self._opening = trio.Lock()

    async def open(self, address: str, field: str, nursery: trio.Nursery) -> None:
        """Open the port unless it is; raise ``Refused`` when another program has it, or it may not be opened."""
        async with self._opening:
            if self._address == address:
                return
            self.close()
            host, port = Challenges.parts(address)
            try:
                listeners = await trio.open_tcp_listeners(port, host=host)
            except OSError as error:
                raise Refused(_remedy(address, field, error)) from error
            self._address, self._scope = address, trio.CancelScope()
            nursery.start_soon(self._serve, listeners, self._scope)

    def close(self) -> None:
        """Close the port if it is open."""
        self._scope.cancel()
        self._address = ""

    async def _serve(self, listeners: list[trio.SocketListener], scope: trio.CancelScope) -> None:
        with scope:
            await trio.serve_listeners(self._one, listeners)

    async def _one(self, stream: trio.SocketStream) -> None:
        try:
            await self._handler(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError, ssl.SSLError) as error:
            log.debug("challenge_connection_ended", detail=str(error))
        finally:
            await trio.aclose_forcefully(stream)


async def _request(stream: trio.SocketStream, connection: h11.Connection) -> h11.Request | None:
    """Return the head of a request, None when the other side went away."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(await stream.receive_some(_MOST_BYTES))


def _context(item: ChallengeItem) -> ssl.SSLContext:
    """Return what TLS shows for a name; the key is of this certificate alone and ends with it."""
    made = acme.alpn_certificate(item.name, item.key_authorization)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols([acme.ALPN_PROTOCOL])
    certificate = x509.load_der_x509_certificate(made.certificate).public_bytes(serialization.Encoding.PEM)
    with tempfile.TemporaryDirectory() as folder:  # ssl reads certificates from files only
        path = Path(folder, "challenge.pem")
        path.touch(mode=0o600)
        path.write_bytes(made.key.reveal() + certificate)
        context.load_cert_chain(path)
    return context


def _remedy(address: str, field: str, error: OSError) -> str:
    reason = error.strerror or str(error)
    causes = {error.errno, *(getattr(each, "errno", None) for each in getattr(error, "exceptions", ()))}
    if isinstance(error.__cause__, OSError):
        causes.add(error.__cause__.errno)
    if errno.EADDRINUSE in causes:
        reason = "another program listens there"
    elif errno.EACCES in causes:
        reason = "this agent may not open that port"
    return (
        f"{address} cannot be opened: {reason}; let the web server hand challenges on to an address of this host and "
        f"set [challenges] {field} to that in the agent's configuration"
    )
