"""tls-alpn-01: a certificate made for the challenge, shown in a handshake (RFC 8737 section 3, RFC 8738 section 6)."""

from __future__ import annotations

from typing import NamedTuple

import anyio
from anyio.abc import SocketStream
from anyio.streams.tls import TLSAttribute, TLSStream
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from connectors.validation.hosts import dialled
from connectors.validation.http01 import unverified
from connectors.validation.lookups import Resolvers
from connectors.validation.model import Asked, Record, Settings, printable, reason
from core.acme import ALPN_PROTOCOL, ID_PE_ACME_IDENTIFIER, alpn_extension, alpn_server_name, key_authorization
from core.names import Name

_NEXT = "answer handshakes for acme-tls/1 with the certificate of RFC 8737 section 3"
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


class Shown(NamedTuple):
    """What a handshake ended with: the protocol, and the certificate in DER."""

    protocol: str
    certificate: bytes


async def validate(asked: Asked, settings: Settings, resolvers: Resolvers, record: Record) -> None:
    """Look whether the TLS server shows the challenge's certificate; raises ``Failed``."""
    server_name = alpn_server_name(asked.name)
    record.asked = f"a TLS handshake at port {settings.tls_port} with SNI {server_name} and ALPN {ALPN_PROTOCOL}"
    shown = await _shown(asked.name, server_name, settings, resolvers, record)
    where = f"{record.addresses[-1]} port {settings.tls_port}"
    record.answer = f"ALPN {shown.protocol or 'none'}"
    if shown.protocol != ALPN_PROTOCOL:
        detail = f"{where} did not choose the protocol {ALPN_PROTOCOL} in its handshake for {asked.name}; {_NEXT}"
        raise record.failed("tls", detail)
    try:
        certificate = x509.load_der_x509_certificate(shown.certificate)
        wrong = _wrong(certificate, asked, record)
    except _UNREADABLE as error:
        detail = f"{where} showed for {asked.name} what cannot be read as a certificate; {_NEXT}"
        raise record.failed("incorrectResponse", detail) from error
    if wrong:
        raise record.failed("incorrectResponse", f"the certificate that {where} showed for {asked.name} {wrong}")


async def _shown(name: Name, server_name: str, settings: Settings, resolvers: Resolvers, record: Record) -> Shown:
    """Shake hands with the first address that a connection can be made to."""
    stream = await _connected(name, settings, resolvers, record)
    address = record.addresses[-1]
    record.doing = f"shaking hands with {address} port {settings.tls_port}"
    context = unverified()
    context.set_alpn_protocols([ALPN_PROTOCOL])
    try:
        with anyio.fail_after(settings.connect_s):
            tls = await TLSStream.wrap(stream, hostname=server_name, ssl_context=context)
        return Shown(
            tls.extra(TLSAttribute.alpn_protocol) or "", tls.extra(TLSAttribute.peer_certificate_binary) or b""
        )
    except (OSError, UnicodeError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        detail = f"the TLS handshake with {address} for {name} failed: {reason(error)}; {_NEXT}"
        raise record.failed("tls", detail) from error
    finally:
        await anyio.aclose_forcefully(stream)  # nothing is said after the handshake, a farewell included


async def _connected(name: Name, settings: Settings, resolvers: Resolvers, record: Record) -> SocketStream:
    missed, failure = list[str](), None
    for address in await dialled(name.value, resolvers, settings, record):
        record.addresses.append(str(address))
        record.doing = f"connecting to {address} port {settings.tls_port}"
        try:
            with anyio.fail_after(settings.connect_s):
                return await anyio.connect_tcp(str(address), settings.tls_port)
        except OSError as error:
            why = error.__cause__ if isinstance(error.__cause__, OSError) else error
            missed.append(f"{address}: {reason(why)}")
            failure = error
    detail = (
        f"{name} was not reached at port {settings.tls_port}: {', '.join(missed)}; let its TLS server listen there, "
        f"and let firewalls pass {settings.here}"
    )
    raise record.failed("connection", detail) from failure


def _wrong(certificate: x509.Certificate, asked: Asked, record: Record) -> str:
    """Say what is wrong with the certificate, and what to do; empty when nothing is."""
    names = _names(certificate)
    record.answer += f", certificate for {printable(', '.join(names) or 'no name', 120)}"
    if names != [_tagged(asked.name.general_name())]:
        shown = printable(", ".join(names) or "nothing")
        return f"names {shown} as subjectAltName; it has to name {asked.name} there, and nothing else"
    if not _signs_itself(certificate):
        return "is not signed by its own key; sign it by itself"
    expected = alpn_extension(key_authorization(asked.token, asked.thumbprint))
    try:
        extension = certificate.extensions.get_extension_for_oid(ID_PE_ACME_IDENTIFIER)
    except x509.ExtensionNotFound:
        return "lacks the extension acmeIdentifier (1.3.6.1.5.5.7.1.31); add it, critical"
    if not extension.critical:
        return "has the extension acmeIdentifier, but not critical; mark it so"
    if extension.value != expected:
        return "has the wrong digest in acmeIdentifier; put the SHA-256 of this challenge's key authorization there"
    return ""


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [_tagged(name) for name in names]


def _tagged(name: x509.GeneralName) -> str:
    """Return a name with its kind, so that a DNS name that looks like an address is none."""
    kind = "DNS" if isinstance(name, x509.DNSName) else "IP" if isinstance(name, x509.IPAddress) else "other"
    return f"{kind}:{str(name.value).lower()}"


def _signs_itself(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
