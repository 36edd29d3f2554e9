"""Looking at a TLS server from outside, without any of certctl's own code: the witness of "served"."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import time
from dataclasses import dataclass

from cryptography import x509


@dataclass(frozen=True)
class Seen:
    """What a handshake showed."""

    fingerprint: str
    serial: str
    not_after: float
    der: bytes


def look(port: int, name: str, *, host: str = "127.0.0.1", timeout_s: float = 5.0) -> Seen | None:
    """Shake hands once with ``name`` as SNI; return what is served, or None when nothing answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as raw,
            context.wrap_socket(raw, server_hostname=name) as tls,
        ):
            der = tls.getpeercert(binary_form=True) or b""
    except OSError:
        return None
    return _seen(der)


def _seen(der: bytes) -> Seen:
    certificate = x509.load_der_x509_certificate(der)
    return Seen(
        fingerprint=hashlib.sha256(der).hexdigest(),
        serial=f"{certificate.serial_number:x}",
        not_after=certificate.not_valid_after_utc.timestamp(),
        der=der,
    )


def wait_for_change(
    port: int, name: str, old: str, *, root_pem: str = "", deadline_s: float = 30.0, pause_s: float = 0.005
) -> tuple[Seen, float]:
    """Look until something else than ``old`` is served; return it and the monotonic moment it was seen.

    With ``root_pem`` it must also pass a client's checks: chain, name and dates.
    """
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            seen = verified(port, name, root_pem) if root_pem else look(port, name)
            if seen is not None and seen.fingerprint != old:
                return seen, time.monotonic()
        time.sleep(pause_s)
    message = f"{name} on port {port} still serves {old[:16]}… after {deadline_s:.0f} s"
    raise TimeoutError(message)


def verified(port: int, name: str, root_pem: str, *, host: str = "127.0.0.1") -> Seen:
    """Shake hands as a browser would: chain to ``root_pem``, name and dates are checked; raise ``ssl.SSLError``."""
    context = ssl.create_default_context(cadata=root_pem)
    with (
        socket.create_connection((host, port), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname=name) as tls,
    ):
        return _seen(tls.getpeercert(binary_form=True) or b"")
