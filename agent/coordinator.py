"""The coordinator as the agent sees it: a typed client that tells errors by their type.

A bearer token is got by signing a nonce, and got anew when it runs out. Only a problem document (RFC 9457) is the
coordinator's own verdict: what a proxy or another server in its place answers is a trouble that may pass.
"""

from __future__ import annotations

import random
import re
import ssl
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec
import trio

from agent.exchange import READ_S, USUAL, Answer, Bounds, exchange, new_client
from agent.identity import Identity
from core import errors, tracing
from core.errors import CertctlError, Permanent, TooManyRequests, Transient, Unauthenticated
from core.identity import nonce_message
from core.problems import KINDS
from core.wire import (
    HEARTBEAT_S,
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
    TIME_HEADER,
    ChallengeReport,
    CSRAnswer,
    CSRSubmission,
    Enrolled,
    Enrollment,
    Findings,
    FindingsTaken,
    LookReport,
    Metadata,
    Nonce,
    Receipt,
    SignedReport,
    Token,
    TokenRequest,
    TrialReport,
    Work,
)

T = TypeVar("T")
_TOKEN_MARGIN_S = 120.0
_FIRST_RENEWAL, _LATER_RENEWAL = 0.1, 0.9
"""The earliest moment at which a token is renewed, as a share of the time that it can be used."""
_MOST_DETAIL = 1000
_FOR_NOW = {408, 425, 429}
_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)
_MOST_RETRY_AFTER_S = 300.0
"""No coordinator, and nothing that stands in its place, silences an agent for longer at a time."""


class _Problem(msgspec.Struct):
    type: str
    detail: str = ""


class Coordinator:
    """One connection pool to the coordinator, used by all of the agent's tasks; an async context manager."""

    def __init__(
        self,
        server_url: str,
        identity: Identity,
        metadata: Metadata,
        context: ssl.SSLContext,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._identity = identity
        self._metadata = metadata
        self._http = new_client(context, server_url, {PROTOCOL_HEADER: str(PROTOCOL_VERSION)}, transport)
        self._clock = clock
        self._token = ""
        self._token_ends = 0.0
        self._signing_in = trio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
            await self._http.aclose()

    def now_ms(self) -> int:
        """Return this host's time in Unix milliseconds, as the coordinator is told it."""
        return int(self._clock() * 1000)

    async def enroll(self, message: Enrollment) -> Enrolled:
        """Register this agent's public keys."""
        return await self._call("POST", "/api/v1/agents", Enrolled, body=message)

    async def poll(self, boot: str, held: list[str], wait_s: float, alive: Callable[[], None] | None = None) -> Work:
        """Wait for work; this is the heartbeat as well. ``alive`` hears each sign of life while it waits."""
        query = {"boot": boot, "held": ",".join(held), "wait": f"{wait_s:g}"}
        bounds = Bounds(wait_s + READ_S, min(wait_s, HEARTBEAT_S) + READ_S, alive)
        return await self._own("GET", "/work", Work, query=query, bounds=bounds)

    async def submit_csr(self, job_id: str, submission: CSRSubmission) -> CSRAnswer:
        """Hand in a CSR; the same one again gets the same answer."""
        return await self._own("POST", f"/jobs/{quote(job_id, safe='')}/csr", CSRAnswer, body=submission)

    async def report(self, job_id: str, report: SignedReport) -> Receipt:
        """Hand in how a job ended."""
        return await self._own("POST", f"/jobs/{quote(job_id, safe='')}/result", Receipt, body=report)

    async def report_trial(self, trial_id: str, report: TrialReport) -> Receipt:
        """Hand in how a trial went."""
        return await self._own("POST", f"/trials/{quote(trial_id, safe='')}/result", Receipt, body=report)

    async def report_challenge(self, challenge_id: str, report: ChallengeReport) -> Receipt:
        """Tell what became of the answer to a challenge."""
        return await self._own("POST", f"/challenges/{quote(challenge_id, safe='')}", Receipt, body=report)

    async def report_look(self, look_id: str, report: LookReport) -> Receipt:
        """Tell how a challenge looked from here."""
        return await self._own("POST", f"/looks/{quote(look_id, safe='')}", Receipt, body=report)

    async def report_findings(self, findings: Findings) -> FindingsTaken:
        """Hand in what was found of earlier installations."""
        return await self._own("POST", "/drift", FindingsTaken, body=findings)

    async def _own(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        body: msgspec.Struct | None = None,
        query: dict[str, str] | None = None,
        bounds: Bounds = USUAL,
    ) -> T:
        """Call one of the agent's own routes; sign in anew once when the token is no longer taken."""
        path = f"/api/v1/agents/{self._identity.agent_id}{path}"
        token = await self._sign_in(stale="")
        try:
            return await self._call(method, path, answer, body=body, query=query, token=token, bounds=bounds)
        except Unauthenticated:
            token = await self._sign_in(stale=token)
            return await self._call(method, path, answer, body=body, query=query, token=token, bounds=bounds)

    async def _sign_in(self, stale: str) -> str:
        """Return a token that has some time left and is not the ``stale`` one."""
        async with self._signing_in:
            if self._token and self._token != stale and trio.current_time() < self._token_ends:
                return self._token
            agent_id = self._identity.agent_id
            nonce = await self._call("POST", f"/api/v1/agents/{agent_id}/nonce", Nonce)
            signature = self._identity.signing.sign(nonce_message(agent_id, nonce.nonce))
            request = TokenRequest(nonce.nonce, signature, self._metadata)
            asked = trio.current_time()
            token = await self._call("POST", f"/api/v1/agents/{agent_id}/token", Token, body=request)
            usable_s = token.expires_in_s - min(_TOKEN_MARGIN_S, token.expires_in_s / 2)
            # A fleet that was switched on together shall not sign in together ever after.
            earliest = _FIRST_RENEWAL if not self._token else _LATER_RENEWAL
            usable_s *= random.uniform(earliest, 1)  # noqa: S311 - spreads a fleet, guards nothing
            self._token, self._token_ends = token.token, asked + usable_s
            return self._token

    async def _call(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        body: msgspec.Struct | None = None,
        query: dict[str, str] | None = None,
        token: str = "",
        bounds: Bounds = USUAL,
    ) -> T:
        headers = {TIME_HEADER: str(self.now_ms())}
        if parent := tracing.current():
            headers[tracing.HEADER] = parent
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        content = None if body is None else msgspec.json.encode(body)
        got = await exchange(self._http, method, path, query=query, content=content, headers=headers, bounds=bounds)
        return _read(got, answer)


def _read(got: Answer, answer: type[T]) -> T:
    if got.status not in range(200, 300):
        raise _error(got)
    try:
        return msgspec.json.decode(got.content, type=answer)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Transient(f"the coordinator's answer cannot be read: {error}; is it of another version?") from error


def _retry_after_s(text: str) -> float:
    """Return the seconds that a ``Retry-After`` asks for, 0 for none or a date (RFC 9110 section 10.2.3)."""
    return min(float(text), _MOST_RETRY_AFTER_S) if _SECONDS.fullmatch(text) else 0.0


def _error(got: Answer) -> CertctlError:
    """Return the error that an answer stands for."""
    pause_s = _retry_after_s(got.retry_after)
    try:
        problem = msgspec.json.decode(got.content, type=_Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Transient(
            f"HTTP status {got.status} from something that is not a coordinator; what does the URL lead to?",
            retry_after_s=pause_s,
        )
    detail = problem.detail[:_MOST_DETAIL] or f"HTTP status {got.status}"
    if got.status in _FOR_NOW or got.status not in range(400, 500):
        kind = TooManyRequests if got.status == HTTPStatus.TOO_MANY_REQUESTS else Transient
        return kind(detail, retry_after_s=pause_s)
    if problem.type.endswith(":stale-lease"):
        return errors.StaleLease(detail)
    return KINDS.get(got.status, Permanent)(detail)
