"""One HTTP exchange with the coordinator, bounded in time and size; its errors are ours.

Redirects are answers like any other: nothing is ever sent to where they point. Compression is neither asked for nor
undone, because a short answer could become a long one.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import NamedTuple

import httpx
import trio

from core.errors import DeadlineExceeded, InvalidInput, Transient

CONNECT_S, READ_S = 10.0, 30.0
MOST_BYTES = 4 << 20
"""The longest answer that is read: a full poll holds 64 items with their chains, a few hundred kilobytes."""


class Answer(NamedTuple):
    """What came back, unjudged."""

    status: int
    content_type: str
    content: bytes
    retry_after: str = ""


class Bounds(NamedTuple):
    """How long an answer may take, how long nothing at all may come, and who hears each piece of a good answer."""

    whole_s: float = READ_S
    silence_s: float = READ_S
    alive: Callable[[], None] | None = None


USUAL = Bounds()


def new_client(
    context: ssl.SSLContext,
    base_url: str,
    headers: dict[str, str] | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> httpx.AsyncClient:
    """Return a client for one coordinator that takes nothing from the environment: no proxy, no other trust.

    ``transport`` stands between the client and the network, for a network that is to be worse than the real one.
    """
    identity = {"Accept-Encoding": "identity", **(headers or {})}
    return httpx.AsyncClient(base_url=base_url, verify=context, headers=identity, trust_env=False, transport=transport)


async def exchange(
    http: httpx.AsyncClient,
    method: str,
    path: str,
    *,
    query: dict[str, str] | None = None,
    content: bytes | None = None,
    headers: dict[str, str] | None = None,
    bounds: Bounds = USUAL,
) -> Answer:
    """Send a request and read the answer; raise ``DeadlineExceeded`` or ``Transient`` with a human cause.

    ``InvalidInput`` when ``path`` or ``query`` cannot be sent at all.
    """
    timeout = httpx.Timeout(bounds.silence_s, connect=CONNECT_S)
    try:
        # httpx bounds each read; a server that sends a byte now and then is bounded here.
        with trio.fail_after(CONNECT_S + bounds.whole_s):
            async with http.stream(
                method, path, params=query, content=content, headers=headers, timeout=timeout
            ) as response:
                body = await _body(response, bounds.alive if response.is_success else None)
                fields = response.headers
                return Answer(response.status_code, fields.get("Content-Type", ""), body, fields.get("Retry-After", ""))
    except (trio.TooSlowError, httpx.TimeoutException) as error:
        raise DeadlineExceeded(f"the coordinator did not answer {method} {path} in time") from error
    except httpx.InvalidURL as error:
        # Ids come from the coordinator; one that cannot be sent back does not become better.
        raise InvalidInput.of("path", f"cannot be asked for: {error}") from error
    except httpx.HTTPError as error:
        raise Transient(f"the coordinator is not reachable: {_cause(error)}") from error


async def _body(response: httpx.Response, alive: Callable[[], None] | None) -> bytes:
    content = bytearray()
    with trio.CancelScope() as reading:
        async for chunk in response.aiter_raw():
            content += chunk
            if alive is not None:
                alive()
            if len(content) > MOST_BYTES:
                # Ends the next read from within: httpx's generators stay half-read when they are left from outside.
                reading.cancel()
    if len(content) > MOST_BYTES:
        raise Transient(f"the coordinator's answer is longer than {MOST_BYTES} bytes; it is not read")
    return bytes(content)


def _cause(error: BaseException) -> str:
    """Dig out what happened: the layers in between wrap it, some without a word."""
    text = ""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            remedy = "check CERTCTL_SERVER_CA_BUNDLE_PATH or CERTCTL_SERVER_CA_SHA256, and this host's clock"
            return f"its certificate is not trusted ({seen.verify_message}); {remedy}"
        if isinstance(seen, BaseExceptionGroup):
            seen = seen.exceptions[0]
            continue
        text = str(seen) or text
        seen = seen.__cause__ or seen.__context__
    return text or type(error).__name__
