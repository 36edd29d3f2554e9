"""HTTP to an authority: one client with deadlines, a limit on what is read, and the trust that was chosen.

Redirects are not followed (RFC 8555 names every address in full) and proxies of the environment are not asked; one can
be set. Only HTTPS is spoken (section 6.1).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, TypeVar
from urllib.parse import urljoin

import anyio
import httpx
import msgspec

from connectors.issuers.acme import problems
from core.clock import Clock, SystemClock
from core.errors import CertctlError, DeadlineExceeded, Misconfigured, Refused, Transient

T = TypeVar("T")
_MOST_BYTES = 1024 * 1024
_LONGEST_WAIT_S = 7 * 86400.0
_LINK = re.compile(r'<([^>]{1,2000})>((?:\s*;\s*[\w-]+\s*=\s*(?:"[^"]*"|[^",;\s]+))*)')
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^",;\s]+))', re.IGNORECASE)
_BAD = 400
_REDIRECTED = 300


class Connection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an authority is reached."""

    ca_bundle: Annotated[
        str,
        msgspec.Meta(description="PEM certificates that its server is checked against; default: those of the system."),
    ] = ""
    insecure: Annotated[
        bool,
        msgspec.Meta(
            description="DANGER: do not check its server's certificate at all. Whoever is on the way can then give you "
            "certificates of their own and answer everything in the authority's place. For a test server only; "
            "give its root in ca_bundle instead."
        ),
    ] = False
    proxy: Annotated[
        str, msgspec.Meta(description="Address of an HTTP proxy on the way there; variables of the host do not count.")
    ] = ""
    timeout_s: Annotated[float, msgspec.Meta(description="Seconds that one request may take.", gt=0, le=600)] = 30.0

    def context(self) -> ssl.SSLContext:
        """Return what TLS is spoken with; raise ``Misconfigured`` when the bundle cannot be read."""
        try:
            context = ssl.create_default_context(cadata=self.ca_bundle or None)
        except (ssl.SSLError, ValueError) as error:
            raise Misconfigured(f"ca_bundle holds no readable PEM certificate: {error}") from error
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class Answer(msgspec.Struct, frozen=True):
    """What came back: ``retry_after_s`` is 0 and ``location`` empty where nothing was said; links are by relation."""

    status: int
    url: str
    headers: dict[str, str]
    body: bytes
    retry_after_s: float

    @property
    def location(self) -> str:
        """Return where the thing asked for is."""
        return urljoin(self.url, self.headers["location"]) if "location" in self.headers else ""

    def links(self, relation: str) -> tuple[str, ...]:
        """Return the addresses of a relation (RFC 8288)."""
        found = _LINK.findall(self.headers.get("link", ""))
        return tuple(urljoin(self.url, target) for target, rest in found if relation in _relations(rest))

    def read(self, kind: type[T], what: str) -> T:
        """Return its JSON; raise ``Transient`` when it is not what ACME has there."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Transient(f"{what}: the answer of {self.url} is not as RFC 8555 has it: {error}") from error

    def error(self, what: str) -> CertctlError | None:
        """Return the error that it tells, if it does."""
        if self.status < _REDIRECTED:
            return None
        if self.status < _BAD:
            return Refused(f"{what}: {self.url} leads on to {self.location or 'nowhere'}; set the address to that")
        help_page = {"help": " ".join(self.links("help"))}
        problem = problems.read(self.body)
        return problems.error_of(
            problem, status=self.status, what=what, retry_after_s=self.retry_after_s, links=help_page
        )


class Transport:
    """Sends requests."""

    def __init__(self, client: httpx.AsyncClient, *, timeout_s: float, clock: Clock) -> None:
        self._client, self._timeout_s, self._clock = client, timeout_s, clock

    async def send(
        self, method: str, url: str, *, content: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request and read its answer whatever its status; raise ``Transient`` when there was none in time."""
        if not url.startswith("https://"):
            raise Misconfigured(f"{url!r} is no https address; give one")
        try:
            with anyio.fail_after(self._timeout_s):
                return await self._exchange(method, url, content, dict(headers or {}))
        except (TimeoutError, httpx.TimeoutException) as error:
            raise DeadlineExceeded(f"{url} did not answer within {self._timeout_s:.0f} s") from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise Misconfigured(f"{url!r} is no address: {error}") from error
        except (httpx.HTTPError, OSError, ssl.SSLError) as error:
            raise _unreachable(url, error) from error

    async def _exchange(self, method: str, url: str, content: bytes | None, headers: dict[str, str]) -> Answer:
        body, size = bytearray(), 0
        async with self._client.stream(method, url, content=content, headers=headers) as response:
            # An iterator that is left early is left to the garbage collector, so the rest goes by, until the deadline.
            async for part in response.aiter_bytes():
                size += len(part)
                body += part if size <= _MOST_BYTES else b""
        if size > _MOST_BYTES:
            raise Refused(f"{url} answers with more than {_MOST_BYTES} bytes, which nothing here needs")
        named = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status_code, url, named, bytes(body), self._retry_after(named.get("retry-after", "")))

    def _retry_after(self, text: str) -> float:
        """Return the seconds to wait (RFC 9110 section 10.2.3), a week at most; 0 for what is not understood."""
        if text.isascii() and text.isdigit():
            return min(float(text[:12]), _LONGEST_WAIT_S)
        try:
            moment: datetime = parsedate_to_datetime(text)
            left = (moment - self._clock.now()).total_seconds()
        except (ValueError, TypeError):
            return 0.0
        return min(max(0.0, left), _LONGEST_WAIT_S)


@asynccontextmanager
async def connected(connection: Connection, clock: Clock | None = None) -> AsyncIterator[Transport]:
    """Give a transport with a pool of connections that are closed at the end."""
    options: dict[str, Any] = {"proxy": connection.proxy} if connection.proxy else {}
    async with httpx.AsyncClient(
        verify=connection.context(),
        timeout=connection.timeout_s,
        trust_env=False,
        headers={"User-Agent": "certctl", "Accept-Language": "en", "Accept-Encoding": "identity"},
        **options,
    ) as client:
        yield Transport(client, timeout_s=connection.timeout_s, clock=clock or SystemClock())


def _unreachable(url: str, error: Exception) -> Transient:
    text = next(filter(None, map(str, _causes(error))), type(error).__name__)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        # An operator's mistake mostly, yet also a server's that is mended there: it is tried again.
        return Transient(f"{url} shows a certificate that is not trusted; set ca_bundle to its root: {text}")
    return Transient(f"{url} cannot be reached: {text}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give an error and what it was made of; on Trio the words stand in the latter."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _relations(parameters: str) -> list[str]:
    found = _REL.search(parameters)
    return (found[1] or found[2] or "").lower().split() if found else []
