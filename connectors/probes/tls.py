"""Looks at a TLS endpoint, to see which certificate it serves for a name.

The handshake is completed without judging the certificate: an expired or self-signed one is an answer, not an error. It
still proves that the server holds the key, because the server signs it (RFC 8446 section 4.4.3). Chains, revocation and
STARTTLS are not looked at.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl
import time
from functools import cache
from hashlib import sha256

import anyio
import msgspec
from anyio.streams.tls import TLSAttribute, TLSStream

from core.errors import DeadlineExceeded, Transient
from core.names import dns_name


class Observation(msgspec.Struct, frozen=True):
    """What one handshake showed; ``fingerprint`` is the SHA-256 of the leaf in lower-case hex."""

    leaf: bytes
    fingerprint: str
    tls_version: str
    ms: float


async def probe(host: str, port: int, *, sni: str = "", timeout_s: float = 10.0) -> Observation:
    """Connect to ``host`` (name or address), shake hands and leave.

    ``sni`` is the server name to ask for; empty asks for none. Raises ``Transient`` with a human cause, as
    ``DeadlineExceeded`` when the time is over, and ``InvalidInput`` for what is neither name nor address.
    """
    check_name(host, "probe.host")
    if sni:
        check_name(sni, "probe.sni")
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    started = time.monotonic()
    try:
        with anyio.fail_after(timeout_s):
            leaf, version = await _shake_hands(host, port, sni)
    except TimeoutError as error:
        raise DeadlineExceeded(f"no TLS answer from {where} within {timeout_s:g} s") from error
    except (ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream, OSError) as error:
        raise Transient(_cause(error, where, sni)) from error
    return Observation(leaf, sha256(leaf).hexdigest(), version, (time.monotonic() - started) * 1000)


def check_name(name: str, field: str) -> None:
    """Raise ``InvalidInput`` for what the resolver or the handshake would choke on, with the field to correct."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        dns_name(name, field=field)


async def _shake_hands(host: str, port: int, sni: str) -> tuple[bytes, str]:
    async with await anyio.connect_tcp(host, port) as connection:
        tls = await TLSStream.wrap(
            connection, server_side=False, hostname=sni or None, ssl_context=_context(), standard_compatible=False
        )
        handshake = tls.extra(TLSAttribute.ssl_object)
        leaf = handshake.getpeercert(binary_form=True)
        if not leaf:
            raise ssl.SSLError("the server showed no certificate")
        return leaf, str(handshake.version())


@cache
def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # A probe reports what is there: old servers with weak keys or old renegotiation are to be seen, not hidden.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.options |= getattr(ssl, "OP_LEGACY_SERVER_CONNECT", 0x4)
    return context


def _cause(error: BaseException, where: str, sni: str) -> str:
    root = _root(error)
    if isinstance(root, ssl.SSLError):
        reason = (root.reason or str(root)).replace("_", " ").lower()
        return f"{where} refused the TLS handshake{f' for {sni}' if sni else ''}: {reason}"
    if isinstance(root, socket.gaierror):
        return f"{where.rsplit(':', 1)[0]} is not a known host name: {root.strerror}"
    if isinstance(root, anyio.BrokenResourceError | anyio.EndOfStream | ConnectionResetError):
        return f"{where} closed the connection during the TLS handshake: is this a TLS port?"
    if isinstance(root, ConnectionRefusedError):
        return f"connection refused at {where}: is the server running and does it listen there?"
    if isinstance(root, OSError) and root.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH}:
        return f"no route to {where}: {root.strerror}"
    return f"connecting to {where} failed: {root}"


def _root(error: BaseException) -> BaseException:
    """Dig out the system's own error: ``connect_tcp`` wraps one per address that it tried."""
    while not isinstance(error, ssl.SSLError):
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif isinstance(error, OSError) and error.errno is None and error.__cause__ is not None:
            error = error.__cause__
        else:
            break
    return error
