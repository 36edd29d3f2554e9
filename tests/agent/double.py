"""A coordinator's double: real HTTP over real TLS in the test's own event loop, speaking the agents' protocol.

It enrolls, gives nonces and tokens, hands out ``items``, signs CSRs and takes reports, and checks every signature.
``instead`` holds answers that are given first, by the route's name; ``asked`` keeps what came, ``signed`` the leaves
with the names of their keys.
"""

from __future__ import annotations

import re
import ssl
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import h11
import msgspec
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from core.certificates import read_certificate
from core.identity import nonce_message, verify
from core.wire import (
    REPORT_CONTEXT,
    AuditHead,
    CSRAnswer,
    CSRSubmission,
    DeploymentItem,
    Enrolled,
    Enrollment,
    Finding,
    Findings,
    FindingsTaken,
    IssuanceItem,
    JobReport,
    Nonce,
    Receipt,
    SignedReport,
    Token,
    TokenRequest,
    Work,
)

T = TypeVar("T")
ONE_TIME = "cte_made-up-enrollment-token"
_ROUTES = {
    ("POST", r"/api/v1/agents"): "enroll",
    ("POST", r"/api/v1/agents/(ag-[a-z0-9]+)/nonce"): "nonce",
    ("POST", r"/api/v1/agents/(ag-[a-z0-9]+)/token"): "token",
    ("GET", r"/api/v1/agents/(ag-[a-z0-9]+)/work"): "work",
    ("POST", r"/api/v1/agents/(ag-[a-z0-9]+)/jobs/([^/]+)/csr"): "csr",
    ("POST", r"/api/v1/agents/(ag-[a-z0-9]+)/jobs/([^/]+)/result"): "result",
    ("POST", r"/api/v1/agents/(ag-[a-z0-9]+)/drift"): "drift",
    ("GET", r"/api/v1/server-root"): "root",
}


class Asked(msgspec.Struct, frozen=True):
    """One request as it came."""

    route: str
    parts: tuple[str, ...]
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def read(self, kind: type[T]) -> T:
        return msgspec.json.decode(self.body, type=kind)


class Reply(msgspec.Struct, frozen=True):
    """One answer; ``after`` is waited for first, ``slowly`` never ends the body."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    after: trio.Event | None = None
    slowly: bool = False


def problem(status: int, kind: str, detail: str = "these are the words") -> Reply:
    """Return a problem document as an answer."""
    document = {"type": f"urn:certctl:problem:{kind}", "title": kind, "status": status, "detail": detail}
    return Reply(status, msgspec.json.encode(document), (("Content-Type", "application/problem+json"),))


class Double:
    """See the module. ``agents`` maps ids to raw identity keys; ``sessions`` are the tokens that are still taken."""

    def __init__(self) -> None:
        self.authority = trustme.CA()
        self.port = 0
        self.agents: dict[str, bytes] = {}
        self.sessions: set[str] = set()
        self.expires_in_s = 3600
        self.asked: list[Asked] = []
        self.instead: defaultdict[str, list[Reply]] = defaultdict(list)
        self.reports: list[JobReport] = []
        self.signed: list[tuple[bytes, str]] = []
        self.answer_state: str = "issued"
        self.audit_head: AuditHead | None = None
        self.findings: list[Finding] = []
        self.unwanted: tuple[str, ...] = ()
        self._items: list[IssuanceItem | DeploymentItem] = []
        self._changed = trio.Event()
        self._nonces: set[bytes] = set()
        self._issuer_key = ec.generate_private_key(ec.SECP256R1())

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def root_pem(self) -> bytes:
        return self.authority.cert_pem.bytes()

    def offer(self, *items: IssuanceItem | DeploymentItem) -> None:
        """Hand these out with the next poll, or the one that waits."""
        self._items.extend(items)
        self._notify()

    def of(self, route: str) -> list[Asked]:
        """Return the requests to a route."""
        return [asked for asked in self.asked if asked.route == route]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until ``condition`` holds; it is looked at after every request, and often between them."""
        with trio.fail_after(20):
            while not condition():
                with trio.move_on_after(0.005):
                    await self._changed.wait()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("127.0.0.1").configure_cert(context)
        (tcp,) = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = tcp.socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._converse, [trio.SSLListener(tcp, context)])
            task_status.started()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _converse(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        """Answer the requests of one connection."""
        http = h11.Connection(h11.SERVER)
        try:
            async with stream:
                while (request := await _receive(http, stream)) is not None:
                    reply = await self._answer_unless_gone(stream, *request)
                    if reply is None:
                        return
                    await _send(http, stream, reply)
                    if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                        return
                    http.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            return

    async def _answer_unless_gone(self, stream: trio.abc.Stream, request: h11.Request, body: bytes) -> Reply | None:
        """Return the answer, None when the agent hung up before there was one."""
        reply: Reply | None = None
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def watch() -> None:
                with suppress(trio.BrokenResourceError):
                    assert not await stream.receive_some(), "the agent sent a request before it had its answer"
                nursery.cancel_scope.cancel()

            reply = await self._answer(request, body)
            nursery.cancel_scope.cancel()
        return reply

    async def _answer(self, request: h11.Request, body: bytes) -> Reply:
        headers = {name.decode(): value.decode() for name, value in request.headers}
        return await self.hear(read_request(request.method.decode(), request.target.decode(), headers, body))

    async def hear(self, asked: Asked) -> Reply:
        """Take a request, however it came, and return its answer."""
        self.asked.append(asked)
        self._notify()
        if self.instead[asked.route]:
            reply = self.instead[asked.route].pop(0)
            if reply.after is not None:
                await reply.after.wait()
            return reply
        handler: Callable[[Asked], Awaitable[Any]] = getattr(self, f"_on_{asked.route}")
        if asked.route in {"work", "csr", "result", "drift"}:
            token = asked.headers.get("authorization", "").removeprefix("Bearer ")
            if token not in self.sessions:
                return problem(401, "unauthenticated")
        answer = await handler(asked)
        self._notify()
        return answer if isinstance(answer, Reply) else Reply(body=msgspec.json.encode(answer))

    async def _on_enroll(self, asked: Asked) -> Enrolled | Reply:
        message = asked.read(Enrollment)
        if message.token != ONE_TIME:
            return problem(401, "unauthenticated", "this enrollment token is not known or was used")
        for agent_id, key in self.agents.items():
            if key == message.identity_key:
                return Enrolled(agent_id, message.name)
        agent_id = f"ag-{len(self.agents) + 1}"
        self.agents[agent_id] = message.identity_key
        return Enrolled(agent_id, message.name)

    async def _on_nonce(self, asked: Asked) -> Nonce:
        nonce = len(self.asked).to_bytes(32)
        self._nonces.add(nonce)
        return Nonce(nonce)

    async def _on_token(self, asked: Asked) -> Token:
        agent_id, request = asked.parts[0], asked.read(TokenRequest)
        self._nonces.remove(request.nonce)
        verify(self.agents[agent_id], request.signature, nonce_message(agent_id, request.nonce))
        token = f"cts_made-up-{len(self.asked)}"
        self.sessions.add(token)
        return Token(token, self.expires_in_s)

    async def _on_work(self, asked: Asked) -> Work:
        with trio.move_on_after(float(asked.query["wait"])):
            while not self._items:
                await self._changed.wait()
        items, self._items = tuple(self._items), []
        return Work(items, audit_head=self.audit_head)

    async def _on_csr(self, asked: Asked) -> CSRAnswer:
        if self.answer_state == "pending":
            return CSRAnswer("pending")
        leaf = self.sign(asked.read(CSRSubmission).csr)
        self.signed.append((leaf, read_certificate(leaf).spki_sha256))
        return CSRAnswer("issued", "cv-1", (leaf,))

    async def _on_result(self, asked: Asked) -> Receipt:
        signed = asked.read(SignedReport)
        verify(self.agents[asked.parts[0]], signed.signature, REPORT_CONTEXT + signed.payload)
        report = msgspec.json.decode(signed.payload, type=JobReport)
        assert (report.agent_id, report.job_id) == asked.parts
        self.reports.append(report)
        return Receipt("Completed")

    async def _on_drift(self, asked: Asked) -> FindingsTaken:
        self.findings += asked.read(Findings).findings
        return FindingsTaken(self.unwanted)

    async def _on_root(self, asked: Asked) -> Reply:
        return Reply(body=self.root_pem)

    def sign(self, csr: bytes) -> bytes:
        """Return a leaf for a CSR, both in DER."""
        request = x509.load_der_x509_csr(csr)
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            subject_name=request.subject, issuer_name=x509.Name([]), public_key=request.public_key()
        )
        return (
            builder.serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=1))
            .sign(self._issuer_key, hashes.SHA256())
            .public_bytes(serialization.Encoding.DER)
        )


def read_request(method: str, target: str, headers: dict[str, str], body: bytes) -> Asked:
    """Find the route of a request."""
    url = urlsplit(target)
    for (route_method, pattern), route in _ROUTES.items():
        match = re.fullmatch(pattern, url.path)
        if match and method == route_method:
            return Asked(route, match.groups(), dict(parse_qsl(url.query, keep_blank_values=True)), headers, body)
    raise AssertionError(f"the agent asked for {method} {url.path}")


async def _receive(http: h11.Connection, stream: trio.abc.Stream) -> tuple[h11.Request, bytes] | None:
    """Return the next request with its body, None when the other side is gone."""
    request, body = None, b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some()))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and request is not None:
            return request, body
        else:
            return None


async def _send(http: h11.Connection, stream: trio.abc.Stream, reply: Reply) -> None:
    length = () if reply.slowly else (("Content-Length", str(len(reply.body))),)
    head = h11.Response(status_code=reply.status, headers=[*reply.headers, *length])
    await stream.send_all(http.send(head) or b"")
    if reply.body:
        await stream.send_all(http.send(h11.Data(data=reply.body)) or b"")
    while reply.slowly:
        await trio.sleep(5)
        await stream.send_all(http.send(h11.Data(data=b" ")) or b"")
    await stream.send_all(http.send(h11.EndOfMessage()) or b"")
