"""Looks at a TLS endpoint, to see which certificate it serves for a name, at once or after STARTTLS.

The handshake is completed without judging the certificate: an expired or self-signed one is an answer, not an error. It
still proves that the server holds the key, because the server signs it (RFC 8446 section 4.4.3). The chain as it was
sent, and the stapled OCSP response (RFC 6066 section 8), are part of the answer; ``verify`` holds them against what was
deployed. pyOpenSSL does the handshake: Python's own ``ssl`` shows a client neither of the two before Python 3.13.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import time
from functools import cache
from hashlib import sha256

import anyio
import msgspec
from anyio.abc import SocketStream
from OpenSSL import SSL, crypto

from connectors.probes.starttls import ProbeProtocol, start_tls
from core.errors import DeadlineExceeded, Transient
from core.names import dns_name

_MOST = 1 << 16
"""Bytes that are moved between OpenSSL and the connection at a time."""
_LEGACY_SERVER_CONNECT = 0x4
_NOT_TLS = {"wrong version number", "packet length too long", "http request", "record layer failure"}
"""What OpenSSL says of a server that answers the first message of a handshake with something else."""


class Observation(msgspec.Struct, frozen=True):
    """What one handshake showed; ``fingerprint`` is the SHA-256 of the leaf in lower-case hex.

    ``chain`` is all that was sent, in DER and in that order, the leaf first; ``staple`` the OCSP response in DER, empty
    where none came.
    """

    leaf: bytes
    fingerprint: str
    tls_version: str
    ms: float
    chain: tuple[bytes, ...] = ()
    staple: bytes = b""


async def probe(
    host: str, port: int, *, sni: str = "", timeout_s: float = 10.0, protocol: ProbeProtocol = "tls"
) -> Observation:
    """Connect to ``host`` (name or address), ask for TLS where ``protocol`` begins without, shake hands and leave.

    ``sni`` is the server name to ask for; empty, or an address (RFC 6066 section 3), asks for none. Raises
    ``Transient`` with a human cause, as ``DeadlineExceeded`` when the time is over, and ``InvalidInput`` for what is
    neither name nor address.
    """
    check_name(host, "probe.host")
    if sni:
        check_name(sni, "probe.sni")
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    started = time.monotonic()
    try:
        with anyio.fail_after(timeout_s):
            async with await anyio.connect_tcp(host, port) as stream:
                await start_tls(stream, protocol, where)
                chain, version, staple = await _shake_hands(stream, sni)
    except TimeoutError as error:
        hint = (
            "" if protocol == "tls" else f"; does it speak {protocol.upper()} there, or TLS at once (probe.protocol)?"
        )
        raise DeadlineExceeded(f"no TLS answer from {where} within {timeout_s:g} s{hint}") from error
    except (SSL.Error, anyio.BrokenResourceError, anyio.EndOfStream, OSError) as error:
        raise Transient(_cause(error, where, sni)) from error
    if not chain:
        raise Transient(f"{where} showed no certificate")
    ms = (time.monotonic() - started) * 1000
    return Observation(chain[0], sha256(chain[0]).hexdigest(), version, ms, chain, staple)


def check_name(name: str, field: str) -> None:
    """Raise ``InvalidInput`` for what the resolver or the handshake would choke on, with the field to correct."""
    if not _is_address(name):
        dns_name(name, field=field)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _shake_hands(stream: SocketStream, sni: str) -> tuple[tuple[bytes, ...], str, bytes]:
    tls = SSL.Connection(_context(), None)
    staples: list[bytes] = []
    tls.set_app_data(staples)
    tls.request_ocsp()
    if sni and not _is_address(sni):
        tls.set_tlsext_host_name(dns_name(sni).encode())
    tls.set_connect_state()
    while not _goes_on(tls):
        await _send_pending(tls, stream)
        tls.bio_write(await stream.receive(_MOST))
    await _send_pending(tls, stream)
    sent = tls.get_peer_cert_chain() or []
    chain = tuple(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate) for certificate in sent)
    return chain, tls.get_protocol_version_name(), b"".join(staples)


def _goes_on(tls: SSL.Connection) -> bool:
    """Do what can be done of the handshake; return whether that was all of it."""
    try:
        tls.do_handshake()
    except SSL.WantReadError:
        return False
    return True


async def _send_pending(tls: SSL.Connection, stream: SocketStream) -> None:
    while True:
        try:
            piece = tls.bio_read(_MOST)
        except SSL.WantReadError:
            return
        await stream.send(piece)


@cache
def _context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_NONE)
    # A probe reports what is there: old servers with weak keys or old renegotiation are to be seen, not hidden.
    context.set_min_proto_version(SSL.TLS1_VERSION)
    context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
    context.set_options(_LEGACY_SERVER_CONNECT)
    context.set_ocsp_client_callback(_keep_staple)
    return context


def _keep_staple(tls: SSL.Connection, response: bytes, _data: object) -> bool:
    tls.get_app_data().append(response)
    return True


def _cause(error: BaseException, where: str, sni: str) -> str:
    root = _root(error)
    if isinstance(root, SSL.Error):
        return _tls_cause(_reason(root), where, sni)
    if isinstance(root, socket.gaierror):
        return f"{where.rsplit(':', 1)[0]} is not a known host name: {root.strerror}"
    if isinstance(root, anyio.BrokenResourceError | anyio.EndOfStream | ConnectionResetError):
        return f"{where} closed the connection during the TLS handshake: is this a TLS port?"
    if isinstance(root, ConnectionRefusedError):
        return f"connection refused at {where}: is the server running and does it listen there?"
    if isinstance(root, OSError) and root.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH}:
        return f"no route to {where}: {root.strerror}"
    return f"connecting to {where} failed: {root}"


def _tls_cause(reason: str, where: str, sni: str) -> str:
    if reason in _NOT_TLS:
        return f"{where} speaks something else than TLS ({reason}): are port and probe.protocol right?"
    return f"{where} refused the TLS handshake{f' for {sni}' if sni else ''}: {reason}"


def _reason(error: SSL.Error) -> str:
    """Return OpenSSL's own word for the first thing that went wrong; each entry is library, function and reason."""
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return str(entries[0][2]).replace("_", " ").lower() if entries else (str(error) or type(error).__name__)


def _root(error: BaseException) -> BaseException:
    """Dig out the system's own error: ``connect_tcp`` wraps one per address that it tried."""
    while not isinstance(error, SSL.Error):
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif isinstance(error, OSError) and error.errno is None and error.__cause__ is not None:
            error = error.__cause__
        else:
            break
    return error
