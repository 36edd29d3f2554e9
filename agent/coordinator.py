"""The coordinator as the agent sees it: a typed client that tells errors by their type.

Trust is pinned: by a file, or by the SHA-256 of the coordinator's root, which is then fetched once and kept. A bearer
token is got by signing a nonce, and got anew when it runs out.
"""

from __future__ import annotations

import hashlib
import ssl
import time
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.files import write_private
from agent.identity import Identity
from agent.settings import Settings
from core import errors
from core.errors import CertctlError, DeadlineExceeded, Misconfigured, Transient, Unauthenticated
from core.identity import nonce_message
from core.wire import (
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
    TIME_HEADER,
    CSRAnswer,
    CSRSubmission,
    Enrolled,
    Enrollment,
    Metadata,
    Nonce,
    Receipt,
    SignedReport,
    Token,
    TokenRequest,
    Work,
)

T = TypeVar("T")
_CONNECT_S, _READ_S = 10.0, 30.0
_TOKEN_MARGIN_S = 120.0
_BY_STATUS: dict[int, type[CertctlError]] = {
    400: errors.InvalidInput,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    410: errors.Gone,
    413: errors.TooLarge,
    415: errors.UnsupportedMedia,
    422: errors.Refused,
}


class _Problem(msgspec.Struct):
    type: str = ""
    detail: str = ""


class Coordinator:
    """One connection pool to the coordinator, used by all of the agent's tasks."""

    def __init__(self, settings: Settings, identity: Identity, metadata: Metadata, context: ssl.SSLContext) -> None:
        self._identity = identity
        self._metadata = metadata
        self._http = httpx.AsyncClient(
            base_url=settings.server_url,
            verify=context,
            timeout=httpx.Timeout(_READ_S, connect=_CONNECT_S),
            headers={PROTOCOL_HEADER: str(PROTOCOL_VERSION)},
            trust_env=False,
        )
        self._token = ""
        self._token_ends = 0.0
        self._signing_in = trio.Lock()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def enroll(self, message: Enrollment) -> Enrolled:
        """Register this agent's public keys."""
        return await self._call("POST", "/api/v1/agents", Enrolled, body=message)

    async def poll(self, boot: str, held: list[str], wait_s: float) -> Work:
        """Wait for work; this is the heartbeat as well."""
        query = {"boot": boot, "held": ",".join(held), "wait": f"{wait_s:g}"}
        return await self._own("GET", "/work", Work, query=query, timeout_s=wait_s + _READ_S)

    async def submit_csr(self, job_id: str, submission: CSRSubmission) -> CSRAnswer:
        """Hand in a CSR; the same one again gets the same answer."""
        return await self._own("POST", f"/jobs/{job_id}/csr", CSRAnswer, body=submission)

    async def report(self, job_id: str, report: SignedReport) -> Receipt:
        """Hand in how a job ended."""
        return await self._own("POST", f"/jobs/{job_id}/result", Receipt, body=report)

    async def _own(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        body: msgspec.Struct | None = None,
        query: dict[str, str] | None = None,
        timeout_s: float = _READ_S,
    ) -> T:
        """Call one of the agent's own routes; sign in anew once when the token has run out."""
        path = f"/api/v1/agents/{self._identity.agent_id}{path}"
        token = await self._sign_in(stale="")
        try:
            return await self._call(method, path, answer, body=body, query=query, token=token, timeout_s=timeout_s)
        except Unauthenticated:
            token = await self._sign_in(stale=token)
            return await self._call(method, path, answer, body=body, query=query, token=token, timeout_s=timeout_s)

    async def _sign_in(self, stale: str) -> str:
        """Return a token that has some time left and is not the ``stale`` one."""
        async with self._signing_in:
            if self._token and self._token != stale and time.monotonic() < self._token_ends:
                return self._token
            agent_id = self._identity.agent_id
            nonce = await self._call("POST", f"/api/v1/agents/{agent_id}/nonce", Nonce)
            signature = self._identity.signing.sign(nonce_message(agent_id, nonce.nonce))
            request = TokenRequest(nonce.nonce, signature, self._metadata)
            token = await self._call("POST", f"/api/v1/agents/{agent_id}/token", Token, body=request)
            self._token, self._token_ends = token.token, time.monotonic() + token.expires_in_s - _TOKEN_MARGIN_S
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
        timeout_s: float = _READ_S,
    ) -> T:
        headers = {TIME_HEADER: str(int(time.time() * 1000))}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        content = None if body is None else msgspec.json.encode(body)
        if content is not None:
            headers["Content-Type"] = "application/json"
        timeout = httpx.Timeout(timeout_s, connect=_CONNECT_S)
        try:
            response = await self._http.request(
                method, path, params=query, content=content, headers=headers, timeout=timeout
            )
        except httpx.TimeoutException as error:
            raise DeadlineExceeded(f"the coordinator did not answer {method} {path} in time") from error
        except httpx.HTTPError as error:
            raise Transient(f"the coordinator is not reachable: {str(error) or type(error).__name__}") from error
        return _read(response, answer)


def _read(response: httpx.Response, answer: type[T]) -> T:
    if response.is_success:
        try:
            return msgspec.json.decode(response.content, type=answer)
        except msgspec.MsgspecError as error:
            raise Transient(f"the coordinator's answer cannot be read: {error}; is it of another version?") from error
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except msgspec.MsgspecError:
        problem = _Problem(detail=f"HTTP status {response.status_code} from something that is not a coordinator")
    kind = _BY_STATUS.get(response.status_code, Transient)
    if problem.type.endswith(":stale-lease"):
        kind = errors.StaleLease
    raise kind(problem.detail or f"HTTP status {response.status_code}")


async def trust(settings: Settings) -> ssl.SSLContext:
    """Return the TLS context that the coordinator is checked with; fetch its root first when only its hash is known."""
    bundle = settings.ca_bundle
    if settings.ca_sha256:
        bundle = settings.state_dir / "coordinator-ca.crt"
        if not _is_pinned(bundle, settings.ca_sha256):
            await trio.to_thread.run_sync(write_private, bundle, await _fetch_root(settings))
    try:
        context = ssl.create_default_context(cafile=bundle)
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"CERTCTL_SERVER_CA_BUNDLE_PATH: {bundle} cannot be read as PEM: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _is_pinned(path: Path, sha256: str) -> bool:
    return path.exists() and _sha256(path.read_bytes()) == sha256


def _sha256(pem: bytes) -> str:
    try:
        der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    except ValueError:
        return ""
    return hashlib.sha256(der).hexdigest()


async def _fetch_root(settings: Settings) -> bytes:
    """Fetch the coordinator's root over an unchecked connection; nothing secret is sent, and the hash decides."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with httpx.AsyncClient(verify=context, timeout=_READ_S, trust_env=False) as http:
            response = await http.get(f"{settings.server_url}/api/v1/server-root")
    except httpx.HTTPError as error:
        raise Transient(f"the coordinator is not reachable: {str(error) or type(error).__name__}") from error
    if not response.is_success or _sha256(response.content) != settings.ca_sha256:
        raise Misconfigured(
            "CERTCTL_SERVER_CA_SHA256 is not the hash of the root that the coordinator shows: either the hash is "
            "wrong, or something between here and the coordinator answers in its place"
        )
    return response.content
