"""The identity provider over HTTP: its discovery document, its keys, the exchange of a code (OpenID Connect Discovery).

What it publishes is kept for an hour; a token under a key that is not known makes the keys be fetched again, at most
twice a minute, so that nobody can make the coordinator hammer it. Answers are bounded in time and size, and redirects
are not followed. What every process keeps for itself here, each could fetch again.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from coordinator.oidc.settings import OIDCSettings
from coordinator.oidc.tokens import Key, read_keys
from core.errors import Misconfigured, Transient, Unauthenticated
from core.secret import Secret

DEADLINE_S = 10.0
MOST_BYTES = 256 * 1024
KEPT_S = 3600.0
_KEYS_AGAIN_S = 30.0
_AT_ONCE = 8
_DISCOVERY = "/.well-known/openid-configuration"


class Metadata(msgspec.Struct):
    """What certctl reads of a discovery document."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""
    token_endpoint_auth_methods_supported: list[str] = msgspec.field(default_factory=lambda: ["client_secret_basic"])
    authorization_response_iss_parameter_supported: bool = False


class TokenAnswer(msgspec.Struct):
    """What certctl reads of the token endpoint's answer."""

    id_token: str
    access_token: str = ""


class Tokens(NamedTuple):
    """What a code was exchanged for."""

    id_token: Secret[str]
    access_token: Secret[str]


class Provider:
    """One identity provider."""

    def __init__(self, settings: OIDCSettings) -> None:
        self.settings = settings
        self._lock = asyncio.Lock()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._metadata: tuple[float, Metadata] | None = None
        self._keys: tuple[float, list[Key]] | None = None

    async def metadata(self) -> Metadata:
        """Return the discovery document; ``Transient`` when there is none, ``Misconfigured`` for another's."""
        async with self._lock:
            if self._metadata is None or time.monotonic() - self._metadata[0] > KEPT_S:
                url = self.settings.issuer.rstrip("/") + _DISCOVERY
                self._metadata = (time.monotonic(), self._checked(await self._get(url)))
            return self._metadata[1]

    async def keys(self, *, again: bool = False) -> list[Key]:
        """Return the provider's keys; ``again`` when a token is signed with one that is not among them."""
        url = (await self.metadata()).jwks_uri
        async with self._lock:
            age = float("inf") if self._keys is None else time.monotonic() - self._keys[0]
            if self._keys is None or age > KEPT_S or (again and age > _KEYS_AGAIN_S):
                self._keys = (time.monotonic(), _read_keys(await self._get(url)))
            return self._keys[1]

    async def exchange(self, code: str, verifier: Secret[str]) -> Tokens:
        """Exchange a code for tokens (RFC 6749 section 4.1.3, RFC 7636 section 4.5)."""
        metadata = await self.metadata()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.settings.redirect_url,
            "code_verifier": verifier.reveal(),
        }
        headers = self._authenticate(metadata, form)
        status, body = await self._send("POST", metadata.token_endpoint, headers, form)
        if status != httpx.codes.OK:
            raise _refusal(status, body)
        try:
            answer = msgspec.json.decode(body, type=TokenAnswer)
        except msgspec.MsgspecError as error:
            raise _strange("token endpoint") from error
        return Tokens(Secret(answer.id_token), Secret(answer.access_token))

    async def userinfo(self, access_token: Secret[str]) -> dict[str, Any]:
        """Return what the userinfo endpoint says; nothing when there is none or it does not answer in JSON."""
        url = (await self.metadata()).userinfo_endpoint
        if not url or not access_token.reveal():
            return {}
        status, body = await self._send("GET", url, {"Authorization": f"Bearer {access_token.reveal()}"})
        try:
            return msgspec.json.decode(body, type=dict[str, Any]) if status == httpx.codes.OK else {}
        except msgspec.MsgspecError:
            return {}

    def _checked(self, document: bytes) -> Metadata:
        try:
            metadata = msgspec.json.decode(document, type=Metadata)
        except msgspec.MsgspecError as error:
            raise _strange("discovery document") from error
        if metadata.issuer != self.settings.issuer:
            said = metadata.issuer[:200]
            detail = (
                f"CERTCTL_OIDC_ISSUER is {self.settings.issuer}, and the provider calls itself {said}: give it exactly"
            )
            raise Misconfigured(detail)
        urls = [getattr(metadata, name) for name in Metadata.__struct_fields__ if name.endswith(("_endpoint", "_uri"))]
        if any(url and urlsplit(url).scheme != "https" for url in urls):
            raise _strange("discovery document, which names an address without TLS,")
        return metadata

    def _authenticate(self, metadata: Metadata, form: dict[str, str]) -> dict[str, str]:
        """Return the headers that show who asks; where the provider wants that in the form, put it there.

        In the header, id and secret are percent-encoded (RFC 6749 section 2.3.1), which not every provider undoes: what
        would look different goes into the form, if it may.
        """
        plain = self.settings.client_id, secret.reveal() if (secret := self.settings.client_secret) else ""
        encoded = tuple(quote(text, safe="") for text in plain)
        ways = metadata.token_endpoint_auth_methods_supported
        if secret and "client_secret_basic" in ways and (encoded == plain or "client_secret_post" not in ways):
            return {"Authorization": f"Basic {base64.b64encode(':'.join(encoded).encode()).decode()}"}
        form["client_id"], form["client_secret"] = plain
        if not secret:
            del form["client_secret"]
        return {}

    async def _get(self, url: str) -> bytes:
        status, body = await self._send("GET", url, {})
        if status != httpx.codes.OK:
            detail = f"the identity provider answers {status} at {url}"
            raise Transient(detail)
        return body

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Return status and body of one request; ``Transient`` when there is no answer that can be read."""
        where = f"the identity provider at {urlsplit(url).netloc}"
        try:
            async with asyncio.timeout(DEADLINE_S), self._slots, self._client() as client:
                wanted = {"Accept": "application/json", **headers}
                async with client.stream(method, url, headers=wanted, data=form) as response:
                    body = b""
                    async for piece in response.aiter_bytes():
                        body += piece
                        if len(body) > MOST_BYTES:
                            raise Transient(f"{where} answers with more than {MOST_BYTES} bytes")
                    return response.status_code, body
        except TimeoutError as error:
            raise Transient(f"{where} does not answer within {DEADLINE_S:.0f} s; try again") from error
        except httpx.HTTPError as error:
            raise Transient(f"{where} cannot be reached ({type(error).__name__}); try again") from error

    def _client(self) -> httpx.AsyncClient:
        # One for each request: logins are rare, and nothing has to be closed at the end.
        context = ssl.create_default_context(cafile=self.settings.ca_path)
        return httpx.AsyncClient(verify=context, timeout=DEADLINE_S, follow_redirects=False)


def _read_keys(document: bytes) -> list[Key]:
    try:
        return read_keys(document)
    except ValueError as error:
        raise _strange("key set") from error


def _refusal(status: int, body: bytes) -> Unauthenticated | Misconfigured | Transient:
    """Return what an error of the token endpoint means (RFC 6749 section 5.2); its own words may not be repeated."""
    try:
        told = str(msgspec.json.decode(body, type=dict[str, Any]).get("error"))
    except msgspec.MsgspecError:
        told = ""
    if told in {"invalid_client", "unauthorized_client"}:
        return Misconfigured(
            f"the identity provider does not take this client ({told}): "
            "compare CERTCTL_OIDC_CLIENT_ID and CERTCTL_OIDC_CLIENT_SECRET with what it knows"
        )
    if told in {"invalid_grant", "invalid_request", "access_denied"}:
        return Unauthenticated(f"the identity provider does not take the code ({told}); sign in again")
    return Transient(f"the identity provider's token endpoint answers {status}; try again")


def _strange(what: str) -> Transient:
    return Transient(f"the identity provider's {what} cannot be read; tell whoever runs it")
