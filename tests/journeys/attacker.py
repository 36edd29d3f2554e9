"""A coordinator in an attacker's hands: it speaks the agent's protocol and gives out whatever work it likes."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from benchmarks.lab.processes import wait_until
from connectors.issuers.base import Order
from connectors.issuers.local import make_root, usage_oids
from core.certificates import new_serial, to_pem
from core.csr import read_csr
from core.errors import CertctlError
from core.names import parse_name
from core.wire import (
    CSRAnswer,
    CSRSubmission,
    DeploymentItem,
    Enrolled,
    IssuanceItem,
    JobReport,
    Nonce,
    Receipt,
    SignedReport,
    Token,
    Work,
)
from tests.journeys.listener import Listener

Item: TypeAlias = IssuanceItem | DeploymentItem
BEARER = "cta_the-bearer-that-must-not-travel"
_POLL_S, _IDLE_S = 0.02, 0.3


@dataclass(frozen=True)
class Request:
    """What an agent asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Trick: TypeAlias = Callable[[Request], AsyncIterator[bytes]]
"""Bytes to send in place of an answer, as they are."""


@dataclass
class Answers:
    """What the attacker is about to do and has been told."""

    items: deque[Item] = field(default_factory=deque)
    reports: dict[str, JobReport] = field(default_factory=dict)
    submissions: dict[str, CSRSubmission] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    tricks: list[tuple[str, Trick]] = field(default_factory=list)


class Attacker(Listener):
    """Enrolls anybody, gives out ``items``, keeps ``reports``; ``trick`` spoils the next answer on a route."""

    def __init__(self, folder: Path, agent_id: str = "ag-0123456789abcdef0123456789") -> None:
        """Play the coordinator; ``agent_id`` is what it calls whoever enrolls."""
        super().__init__(folder)
        self.agent_id = agent_id
        self.authority = make_root("not to be trusted", datetime.now(UTC))
        self.root_pem = to_pem(self.authority.chain[0]).decode()
        self.answers = Answers()

    def enrollment_token(self) -> str:
        """Anything will do."""
        return "cte_anything"

    def give(self, *items: Item) -> None:
        """Give out work with the next poll."""
        self.answers.items.extend(items)

    def trick(self, route: str, trick: Trick) -> None:
        """Answer the next request whose path matches ``route`` in another way."""
        self.answers.tricks.append((route, trick))

    def report(self, job_id: str, deadline_s: float = 30.0) -> JobReport:
        """Wait for the report of a job."""
        wait_until(f"the report of {job_id}", lambda: job_id in self.answers.reports, deadline_s)
        return self.answers.reports[job_id]

    def await_answers(self, job_ids: set[str], deadline_s: float = 60.0) -> None:
        """Wait until each of some jobs was answered, by a report or by a CSR."""
        known = self.answers
        wait_until(
            "every job is answered", lambda: job_ids <= known.reports.keys() | known.submissions.keys(), deadline_s
        )

    def await_polls(self, more: int) -> None:
        """Wait for some more polls."""
        wanted = self._polls() + more
        wait_until("the agent polls on", lambda: self._polls() >= wanted, 60)

    def _polls(self) -> int:
        return sum("/work" in request.path for request in self.answers.requests)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after another."""
        while (request := await _read(reader)) is not None:
            self.answers.requests.append(request)
            trick = next((pair for pair in self.answers.tricks if re.search(pair[0], request.path)), None)
            if trick is None:
                writer.write(await self._answer(request))
            else:
                self.answers.tricks.remove(trick)
                async for data in trick[1](request):
                    writer.write(data)
                    await writer.drain()
            await writer.drain()

    async def _answer(self, request: Request) -> bytes:
        path = request.path.partition("?")[0]
        if path.endswith("/work"):
            return http(200, msgspec.json.encode(await self._work()))
        if path.endswith("/nonce"):
            return http(200, msgspec.json.encode(Nonce(b"n" * 32)))
        if path.endswith("/token"):
            return http(200, msgspec.json.encode(Token(BEARER, 3600)))
        if path.endswith("/csr"):
            return self._certify(path.split("/")[-2], msgspec.json.decode(request.body, type=CSRSubmission))
        if path.endswith("/result"):
            signed = msgspec.json.decode(request.body, type=SignedReport)
            report = msgspec.json.decode(signed.payload, type=JobReport)
            self.answers.reports[report.job_id] = report
            return http(200, msgspec.json.encode(Receipt("Completed")))
        return http(201, msgspec.json.encode(Enrolled(self.agent_id, "victim")))

    def _certify(self, job_id: str, submission: CSRSubmission) -> bytes:
        self.answers.submissions[job_id] = submission
        try:
            leaf = self.sign(submission.csr)
        except CertctlError as error:
            return http(422, msgspec.json.encode({"type": "about:blank", "detail": error.detail}))
        return http(200, msgspec.json.encode(CSRAnswer("issued", "cv-1", (leaf,))))

    async def _work(self) -> Work:
        for _ in range(int(_IDLE_S / _POLL_S)):
            if self.answers.items:
                break
            await asyncio.sleep(_POLL_S)
        items = tuple(self.answers.items)
        self.answers.items.clear()
        return Work(items)

    def sign(self, csr: bytes) -> bytes:
        """Certify a key."""
        facts, key = read_csr(csr)
        now = datetime.now(UTC).replace(microsecond=0)
        names = tuple(sorted(facts.names))
        day, usages = timedelta(days=1), usage_oids(("serverAuth",))
        return self.authority.sign(Order(new_serial(), names[0].value, names, key, now - day, now + day, usages))

    def huge_certificate(self) -> bytes:
        """Return a certificate that is longer than any file which the agent takes for one of its own."""
        genuine = self.authority.certificate
        filling = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), bytes(1 << 20))
        builder = x509.CertificateBuilder(
            issuer_name=genuine.subject,
            subject_name=genuine.subject,
            public_key=self.authority.key.public_key(),
            serial_number=new_serial(),
            not_valid_before=genuine.not_valid_before_utc,
            not_valid_after=genuine.not_valid_after_utc,
        ).add_extension(filling, critical=False)
        return builder.sign(self.authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def issue(self, certificate_id: str, site: str, job_id: str) -> tuple[bytes, str]:
        """Have the agent make a key, as an honest coordinator would; return its certificate and the key's name."""
        self.give(IssuanceItem(job_id, 1, certificate_id, site, (parse_name(site),), "ecdsa-p256"))
        wait_until(f"the CSR of {job_id}", lambda: job_id in self.answers.submissions)
        csr = self.answers.submissions[job_id].csr
        return self.sign(csr), read_csr(csr)[0].spki_sha256


def http(status: int, body: bytes, headers: str = "Content-Type: application/json") -> bytes:
    """Return a whole answer."""
    return f"HTTP/1.1 {status} x\r\n{headers}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def saying(data: bytes) -> Trick:
    """Return a trick that sends these bytes."""

    async def trick(_request: Request) -> AsyncIterator[bytes]:
        yield data

    return trick


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    method, path, _ = first.split(" ", 2)
    return Request(method, path, headers, body)
