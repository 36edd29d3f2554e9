"""TLS servers for tls-alpn-01, with certificates that are right, or wrong in one way."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from core.acme import ALPN_PROTOCOL, alpn_extension
from tests.connectors.validation.web import says, web
from tests.connectors.validation.world import KEY_AUTHORIZATION

GOOD = alpn_extension(KEY_AUTHORIZATION)


class Pair(NamedTuple):
    """A certificate and its key in one PEM file."""

    path: Path


def make(
    folder: Path,
    *names: str,
    extension: x509.ExtensionType | None = GOOD,
    critical: bool = True,
    signed_by_itself: bool = True,
) -> Pair:
    """Make a certificate for these names, addresses among them; by default as RFC 8737 wants it."""
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "challenge")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
    if extension is not None:
        builder = builder.add_extension(extension, critical=critical)
    certificate = builder.sign(key if signed_by_itself else other, hashes.SHA256())
    path = folder / "pair.pem"
    pkcs8 = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return Pair(path)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.RFC822Name(name) if "@" in name else x509.DNSName(name)


def context_of(pair: Pair, protocols: Iterable[str] = (ALPN_PROTOCOL,)) -> ssl.SSLContext:
    """Return the context of a server that shows the pair and speaks these protocols."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.path)
    if known := list(protocols):
        context.set_alpn_protocols(known)
    return context


@asynccontextmanager
async def handshaker(context: ssl.SSLContext, host: str = "127.0.0.1") -> AsyncIterator[tuple[int, list[str | None]]]:
    """Run a server; give its port and the names that it is asked for by SNI."""
    names = list[str | None]()
    context.sni_callback = lambda _connection, name, _context: names.append(name)
    async with web(says(""), host, context=context) as server:
        yield server.port, names
