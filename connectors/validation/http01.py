"""http-01: the key authorization under a path of the name's web server (RFC 8555 section 8.3, RFC 8738 section 4).

Each hop is resolved, checked and dialled for itself. The request names an address; the host's name is in the header
``Host`` and in TLS's SNI only, so that nothing below can resolve it again.
"""

from __future__ import annotations

import ssl
from typing import NamedTuple

import anyio
import httpx

from connectors.validation.addresses import Address
from connectors.validation.hosts import dialled
from connectors.validation.lookups import Resolvers
from connectors.validation.model import Asked, Record, Settings, printable, reason
from core.acme import key_authorization
from core.errors import InvalidInput
from core.names import NameKind, parse_name

MOST_REDIRECTS = 10
MOST_BYTES = 16 * 1024
PATH = "/.well-known/acme-challenge/"
_REDIRECTS = {301, 302, 303, 307, 308}
_NEXT = "answer with status 200 and the key authorization alone"


class Hop(NamedTuple):
    """One request: where to, and for what."""

    scheme: str
    host: str
    port: int
    target: str

    def __str__(self) -> str:
        return f"{self.scheme}://{bracketed(self.host)}:{self.port}{self.target}"


class Answer(NamedTuple):
    """What came back: the status, the place that a redirect names, the body up to its limit."""

    status: int
    location: str
    body: bytes


def bracketed(host: str) -> str:
    """Return a host as URLs and the header ``Host`` hold it (RFC 3986 section 3.2.2)."""
    return f"[{host}]" if ":" in host else host


async def validate(asked: Asked, settings: Settings, resolvers: Resolvers, record: Record) -> None:
    """Look whether the web server shows the key authorization; raises ``Failed``."""
    hop = Hop("http", asked.name.value, settings.http_port, PATH + asked.token)
    record.asked = str(hop)
    for _ in range(MOST_REDIRECTS + 1):
        answer = await _fetch(hop, settings, resolvers, record)
        if answer.status not in _REDIRECTS:
            return _judge(answer, hop, key_authorization(asked.token, asked.thumbprint), record)
        record.redirects.append(printable(answer.location, 100))
        hop = _next_hop(hop, answer, settings, record)
    raise record.failed("connection", f"{record.asked} was redirected more than {MOST_REDIRECTS} times; {_NEXT}")


def _judge(answer: Answer, hop: Hop, expected: str, record: Record) -> None:
    record.answer = printable(answer.body)
    where = printable(str(hop))
    if answer.status != httpx.codes.OK:
        detail = f"{where} answered with status {answer.status}; {_NEXT}"
        raise record.failed("incorrectResponse", detail)
    if len(answer.body) > MOST_BYTES:
        detail = f"{where} answered with more than {MOST_BYTES} bytes; {_NEXT}"
        raise record.failed("incorrectResponse", detail)
    if answer.body.rstrip() != expected.encode():
        detail = f"{where} answered {record.answer!r} and not {expected!r}; {_NEXT}"
        raise record.failed("incorrectResponse", detail)


def _next_hop(hop: Hop, answer: Answer, settings: Settings, record: Record) -> Hop:
    """Return where a redirect leads, if that is a place to go to."""
    shown = printable(answer.location)
    try:
        url = httpx.URL(str(hop)).join(answer.location)
        host = _host(url.raw_host.decode("ascii").strip("[]"))
    except (httpx.InvalidURL, InvalidInput, ValueError, TypeError) as error:
        detail = f"{printable(str(hop))} redirects to {shown!r}, which is no place to go to; {_NEXT}"
        raise record.failed("connection", detail) from error
    ports = {"http": settings.http_port, "https": settings.tls_port}
    if url.scheme not in ports:
        detail = f"{printable(str(hop))} redirects to {shown!r}; only http and https are followed: redirect there"
        raise record.failed("connection", detail)
    port = url.port or ports[url.scheme]
    if port not in ports.values():
        allowed = " and ".join(map(str, ports.values()))
        detail = f"{printable(str(hop))} redirects to {shown!r}; only ports {allowed} are followed: redirect there"
        raise record.failed("connection", detail)
    return Hop(url.scheme, host, port, url.raw_path.decode("ascii"))


def _host(text: str) -> str:
    """Return an address, without a zone, or a DNS name in its one form; raise ``InvalidInput`` for neither."""
    name = parse_name(text, field="redirect")
    if name.kind not in {NameKind.DNS, NameKind.IP}:
        raise InvalidInput.of("redirect", f"{text!r} is no host")
    return name.value


async def _fetch(hop: Hop, settings: Settings, resolvers: Resolvers, record: Record) -> Answer:
    """Ask the first address that a connection can be made to."""
    addresses = await dialled(hop.host, resolvers, settings, record)
    missed, failure = list[str](), None
    for address in addresses:
        record.addresses.append(str(address))
        record.doing = f"asking {address} for {printable(str(hop))}"
        try:
            return await _get(hop, address, settings)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            missed.append(_reason(address, error))
            failure = error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            detail = f"{printable(str(hop))} gave no whole answer: {_reason(address, error)}; see to its web server"
            raise record.failed("connection", detail) from error
    detail = (
        f"{printable(str(hop))} was not reached: {', '.join(missed)}; let its web server listen there, and let "
        f"firewalls pass {settings.here}"
    )
    raise record.failed("connection", detail) from failure


def _reason(address: Address, error: Exception) -> str:
    late = isinstance(error, httpx.TimeoutException)
    return f"{address}: {reason(TimeoutError() if late else error)}"


async def _get(hop: Hop, address: Address, settings: Settings) -> Answer:
    """Make one request to one address.

    Through the transport alone: no cookies, proxies, redirects or decompression; any certificate will do.
    """
    headers = {"Host": _host_header(hop, settings), "Accept-Encoding": "identity", "User-Agent": "certctl-acme/1"}
    extensions: dict[str, object] = {
        "timeout": httpx.Timeout(settings.deadline_s, connect=settings.connect_s).as_dict(),
        **({} if hop.host == str(address) else {"sni_hostname": hop.host}),
    }
    url = f"{hop.scheme}://{bracketed(str(address))}:{hop.port}{hop.target}"
    request = httpx.Request("GET", url, headers=headers, extensions=extensions)
    async with httpx.AsyncHTTPTransport(verify=_ANY_SERVER, trust_env=False) as transport:
        response = await transport.handle_async_request(request)
        try:
            if response.status_code in _REDIRECTS and (location := response.headers.get("location")):
                return Answer(response.status_code, location, b"")
            return Answer(response.status_code, "", await _body(response))
        finally:
            await response.aclose()


def _host_header(hop: Hop, settings: Settings) -> str:
    """Return the name; with its port where that is not the scheme's own (RFC 9110 section 7.2)."""
    usual = settings.http_port if hop.scheme == "http" else settings.tls_port
    return bracketed(hop.host) if hop.port == usual else f"{bracketed(hop.host)}:{hop.port}"


async def _body(response: httpx.Response) -> bytes:
    """Read the body; one byte more than the limit, at most."""
    body = bytearray()
    with anyio.CancelScope() as reading:
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > MOST_BYTES:
                # Ends the next read from within: httpx's generators stay half-read when they are left from outside.
                reading.cancel()
    return bytes(body[: MOST_BYTES + 1])


def unverified() -> ssl.SSLContext:
    """Return a TLS context that takes any certificate: what is looked for is not who the server is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


_ANY_SERVER = unverified()
"""Made once: that takes longer than a request."""
