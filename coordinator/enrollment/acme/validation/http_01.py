"""http-01 (RFC 8555 section 8.3): the key authorization lies at a well-known path on port 80."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

import httpcore

from coordinator.enrollment.acme.validation.dialing import Dialler, unverified
from coordinator.enrollment.acme.validation.outcome import Evidence, Failed, printable

MOST_REDIRECTS = 10
MOST_BODY = 16 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TIMES = {"connect": 5.0, "read": 10.0, "write": 5.0, "pool": 5.0}


class _Answer(NamedTuple):
    status: int
    location: str
    body: bytes


async def validate(
    host: str, token: str, expected: str, dialler: Dialler, ports: tuple[int, int], evidence: Evidence
) -> None:
    """Raise ``Failed`` unless ``host`` serves the key authorization; ``ports`` are those of HTTP and HTTPS."""
    http, https = ports
    where = f"[{host}]" if ":" in host else host
    url = f"http://{where}:{http}/.well-known/acme-challenge/{token}"
    for _ in range(MOST_REDIRECTS + 1):
        answer = await _get(url, dialler, evidence)
        if answer.status not in _REDIRECTS:
            _check(answer, url, expected, evidence)
            return
        url = _followed(url, answer.location, {"http": http, "https": https}, evidence)
    raise Failed("connection", f"{host} redirects more than {MOST_REDIRECTS} times", evidence)


def _followed(url: str, location: str, ports: dict[str, int], evidence: Evidence) -> str:
    """Return where a redirect leads; raise ``Failed`` for anywhere but the two ports of the web."""
    target = urljoin(url, location)
    try:
        parts = urlsplit(target)
        port = parts.port
    except ValueError:
        parts, port = SplitResult("", "", "", "", ""), None
    usual = {"http": 80, "https": 443}
    if parts.scheme not in ports or not parts.hostname or "@" in parts.netloc:
        raise Failed("connection", f"the redirect to {printable(target)} leads to no page of the web", evidence)
    allowed = {None, usual[parts.scheme], *ports.values()}
    if port not in allowed:
        raise Failed("connection", f"the redirect to {printable(target)} leads to port {port}; use 80 or 443", evidence)
    if port in {None, usual[parts.scheme]}:
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        parts = parts._replace(netloc=f"{host}:{ports[parts.scheme]}")
    return parts._replace(fragment="").geturl()


async def _get(url: str, dialler: Dialler, evidence: Evidence) -> _Answer:
    parts = urlsplit(url)
    host = (parts.hostname or "") if parts.port in {80, 443} else parts.netloc
    headers: dict[bytes | str, bytes | str] = {
        "Host": f"[{host}]" if ":" in host and "]" not in host and host.count(":") > 1 else host
    }
    headers |= {"User-Agent": "certctl-acme-validation", "Accept": "*/*", "Connection": "close"}
    try:
        async with (
            httpcore.AsyncConnectionPool(ssl_context=unverified(), network_backend=dialler) as pool,
            pool.stream("GET", url, headers=headers, extensions={"timeout": _TIMES}) as response,
        ):
            fields = {name.lower(): value for name, value in response.headers}
            body = b""
            if response.status not in _REDIRECTS:
                async for piece in response.aiter_stream():
                    body += piece
                    if len(body) > MOST_BODY:
                        break
            answer = _Answer(response.status, fields.get(b"location", b"").decode("latin1"), body)
            evidence.note(f"GET {url}", _peer(response), _told(answer))
            return answer
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError, ValueError) as error:
        why = str(error) or type(error).__name__
        evidence.note(f"GET {url}", parts.hostname or "", why)
        detail = f"{printable(url)} could not be read: {printable(why)}"
        raise Failed("connection", detail, evidence) from error


def _peer(response: httpcore.Response) -> str:
    stream = response.extensions.get("network_stream")
    address = stream.get_extra_info("server_addr") if stream is not None else None
    return f"{address[0]} port {address[1]}" if address else "?"


def _told(answer: _Answer) -> str:
    if answer.status in _REDIRECTS:
        return f"{answer.status}, Location: {answer.location}"
    return f"{answer.status}, {answer.body[:400].decode(errors='replace')}"


def _check(answer: _Answer, url: str, expected: str, evidence: Evidence) -> None:
    if answer.status != 200:  # noqa: PLR2004 - RFC 8555 section 8.3 asks for it
        raise Failed(
            "unauthorized", f"{printable(url)} answered {answer.status}; put the key authorization there", evidence
        )
    if len(answer.body) > MOST_BODY:
        raise Failed("unauthorized", f"{printable(url)} is longer than {MOST_BODY} bytes", evidence)
    if answer.body.rstrip() != expected.encode():
        found = printable(answer.body[:400].decode(errors="replace"))
        detail = f"{printable(url)} holds {found!r} instead of the key authorization {expected[:20]}…"
        raise Failed("incorrectResponse", detail, evidence)
