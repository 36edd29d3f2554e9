"""A typed client of the coordinator's HTTP interface.

Every answer is kept as it came (for ``--json``) beside its decoded value. Foreign exceptions become those of
``console.errors`` here and nowhere else. Nothing is tried again in this module; whoever waits for something does that.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Self, TypeVar

import httpx
import msgspec

from console.answer import Answer, Listing, Parameters, decode
from console.errors import Unreachable, Untrusted, error_of
from console.settings import Settings
from console.trust import context_of, trust_hint
from core.errors import CertctlError, DeadlineExceeded, Unauthenticated

T = TypeVar("T")
MOST_ROWS = 500
_TIMEOUT_S = 30.0
_CONNECT_TIMEOUT_S = 10.0
_FIRST_ERROR = 300
_SILENT_S = 40.0
"""A stream of events has a sign of life every 15 seconds."""


class Client:
    """Speaks to one coordinator as one caller. Close it after use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        headers = {"Accept": "application/json", "User-Agent": "certctl"}
        if settings.api_key is not None:
            headers["Authorization"] = f"Bearer {settings.api_key.reveal()}"
        self._http = httpx.Client(
            base_url=settings.url,
            headers=headers,
            verify=context_of(settings),
            timeout=httpx.Timeout(_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            # A proxy is of no use on the way to this host, and often in the way.
            trust_env=not settings.is_loopback,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, kind: type[T], query: Parameters | None = None, *, wait_s: float = 0) -> Answer[T]:
        """Return one answer; ``wait_s`` is how long the server was asked to hold it back."""
        return self._send("GET", path, kind, query=query, timeout_s=_TIMEOUT_S + wait_s)

    def post(self, path: str, kind: type[T], body: Mapping[str, Any] | None = None) -> Answer[T]:
        """Send a request to change something; without a body when that is None."""
        return self._send("POST", path, kind, content=None if body is None else msgspec.json.encode(body))

    def patch(self, path: str, kind: type[T], body: Mapping[str, Any], etag: str = "") -> Answer[T]:
        """Merge ``body`` into a thing (RFC 7396), if it is still the one with this entity tag."""
        return self._send("PATCH", path, kind, content=msgspec.json.encode(body), etag=etag)

    def put(self, path: str, kind: type[T], body: Mapping[str, Any], etag: str = "") -> Answer[T]:
        """Replace a thing by ``body``, if it is still the one with this entity tag."""
        return self._send("PUT", path, kind, content=msgspec.json.encode(body), etag=etag)

    def delete(self, path: str, query: Parameters | None = None, etag: str = "") -> Answer[msgspec.Raw]:
        """Remove a thing, if it is still the one with this entity tag; mostly there is nothing to answer."""
        return self._send("DELETE", path, msgspec.Raw, query=query, etag=etag)

    def download(self, path: str, query: Parameters | None = None) -> bytes:
        """Return an answer that is a file."""
        return self._request("GET", path, query=query).content

    def collect(self, path: str, query: Parameters | None = None, *, limit: int | None, cursor: str = "") -> Listing:
        """Return ``limit`` rows of a list, or all of them when that is None, from ``cursor`` on."""
        rows: list[msgspec.Raw] = []
        listing = Listing((), 0)
        for listing in self.pages(path, query, limit=limit, cursor=cursor):
            rows.extend(listing.data)
        return msgspec.structs.replace(listing, data=tuple(rows))

    def pages(
        self, path: str, query: Parameters | None = None, *, limit: int | None, cursor: str = ""
    ) -> Iterator[Listing]:
        """Yield the pages of a list until ``limit`` rows were seen."""
        left = sys.maxsize if limit is None else limit
        while left > 0:
            size = min(left, MOST_ROWS)
            asked = {**(query or {}), "page_size": size, "cursor": cursor or None}
            page = self.get(path, Listing, asked).value
            yield page
            left -= len(page.data)
            cursor = page.next_cursor or ""
            if not cursor or not page.data:
                return

    def events(self, path: str, query: Parameters, after: str) -> Iterator[tuple[str, bytes | None]]:
        """Yield a stream of server-sent events: the place that each names, and its data if it has some."""
        params = {name: value for name, value in query.items() if value is not None}
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        timeout = httpx.Timeout(_SILENT_S, connect=_CONNECT_TIMEOUT_S)
        try:
            with self._http.stream("GET", path, params=params, headers=headers, timeout=timeout) as response:
                if response.status_code >= _FIRST_ERROR:
                    response.read()
                    raise self._refusal(response)
                place, data = "", None
                for line in response.iter_lines():
                    name, _, value = line.partition(": ")
                    match name:
                        case "id":
                            place = value
                        case "data":
                            data = value.encode()
                        case "":
                            yield place, data
                            place, data = "", None
        except httpx.TransportError as error:
            raise _foreign(error, self._settings, "GET") from error

    def _send(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        query: Parameters | None = None,
        content: bytes | None = None,
        timeout_s: float = _TIMEOUT_S,
        etag: str = "",
    ) -> Answer[T]:
        response = self._request(method, path, query=query, content=content, timeout_s=timeout_s, etag=etag)
        content_or_null = response.content or b"null"
        return Answer(content_or_null, decode(content_or_null, kind), response.headers.get("ETag", ""))

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Parameters | None = None,
        content: bytes | None = None,
        timeout_s: float = _TIMEOUT_S,
        etag: str = "",
    ) -> httpx.Response:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        if etag:
            headers["If-Match"] = etag
        params = {name: value for name, value in (query or {}).items() if value is not None}
        timeout = httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S)
        try:
            response = self._http.request(
                method, path, params=params, content=content, headers=headers, timeout=timeout
            )
        except httpx.TransportError as error:
            raise _foreign(error, self._settings, method) from error
        except httpx.HTTPError as error:
            raise Unreachable(f"{self._settings.url} gave an answer that is not HTTP: {error}") from error
        if response.status_code >= _FIRST_ERROR:
            raise self._refusal(response)
        return response

    def _refusal(self, response: httpx.Response) -> CertctlError:
        if response.is_redirect:
            detail = f"{self._settings.url} leads elsewhere; set CERTCTL_SERVER_URL to the coordinator's own address"
            return Unreachable(detail)
        error = error_of(response.status_code, response.content)
        if isinstance(error, Unauthenticated) and self._settings.api_key is None:
            hint = f". {self._settings.key_hint}" if self._settings.key_hint else ""
            detail = "an API key is needed: set CERTCTL_API_KEY or give --api-key-file"
            return Unauthenticated(detail + hint)
        return error


def _foreign(error: httpx.TransportError, settings: Settings, method: str) -> CertctlError:
    """Translate what httpx raises, with the remedy."""
    if isinstance(error, httpx.ConnectTimeout):
        return Unreachable(f"{settings.url} does not answer; check the address and what lies between")
    if isinstance(error, httpx.ConnectError):
        return _not_connected(error, settings)
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceeded(f"{settings.url} took too long to answer{_lost(method)}")
    return Unreachable(f"the connection to {settings.url} broke ({str(error) or type(error).__name__}){_lost(method)}")


def _not_connected(error: httpx.ConnectError, settings: Settings) -> CertctlError:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Untrusted(f"{settings.url}: {cause.verify_message}. {trust_hint(settings)}")
        if isinstance(cause, ssl.SSLError):
            return Unreachable(f"no TLS connection to {settings.url} was possible ({error}); check CERTCTL_SERVER_URL")
        if isinstance(cause, ConnectionRefusedError):
            detail = f"nothing listens at {settings.url}; start the coordinator there"
            return Unreachable(f"{detail}, or name another with CERTCTL_SERVER_URL")
    return Unreachable(f"{settings.url} cannot be reached: {error}; check CERTCTL_SERVER_URL")


def _lost(method: str) -> str:
    return "" if method == "GET" else "; the request may have been carried out: look before you repeat it"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
