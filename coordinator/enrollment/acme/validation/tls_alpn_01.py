"""tls-alpn-01 (RFC 8737, RFC 8738): a certificate made for the challenge answers a handshake for its protocol."""

from __future__ import annotations

import ssl

import httpcore
from cryptography import x509

from coordinator.enrollment.acme.validation.dialing import Dialler, unverified
from coordinator.enrollment.acme.validation.outcome import Evidence, Failed, printable
from core import acme
from core.errors import InvalidInput
from core.names import Name, from_general_name

_HANDSHAKE_S = 10.0


async def validate(name: Name, key_authorization: str, dialler: Dialler, port: int, evidence: Evidence) -> None:
    """Raise ``Failed`` unless the host answers with the challenge's certificate."""
    asked = f"TLS handshake for {acme.alpn_server_name(name)}, {acme.ALPN_PROTOCOL}"
    stream = await dialler.connect_tcp(name.value, port)
    try:
        where = "{0[0]} port {0[1]}".format(stream.get_extra_info("server_addr"))
        try:
            context = unverified(alpn=[acme.ALPN_PROTOCOL])
            stream = await stream.start_tls(context, acme.alpn_server_name(name), _HANDSHAKE_S)
        except (httpcore.ConnectError, httpcore.ConnectTimeout, ssl.SSLError, OSError) as error:
            evidence.note(asked, where, str(error) or type(error).__name__)
            detail = f"{name} port {port} does not answer {acme.ALPN_PROTOCOL}: {printable(str(error))}"
            raise Failed("tls", detail, evidence) from error
        tls = stream.get_extra_info("ssl_object")
        chosen, der = tls.selected_alpn_protocol(), tls.getpeercert(binary_form=True)
    finally:
        await stream.aclose()
    certificate = x509.load_der_x509_certificate(der) if der else None
    evidence.note(asked, where, f"protocol {chosen}, {_told(certificate)}")
    if chosen != acme.ALPN_PROTOCOL or certificate is None:
        raise Failed("unauthorized", f"{name} did not choose {acme.ALPN_PROTOCOL} but {chosen}", evidence)
    _check(name, key_authorization, certificate, evidence)


def _told(certificate: x509.Certificate | None) -> str:
    if certificate is None:
        return "no certificate"
    return f"certificate {certificate.serial_number:x} of {certificate.subject.rfc4514_string()}"


def _check(name: Name, key_authorization: str, certificate: x509.Certificate, evidence: Evidence) -> None:
    """Raise ``Failed`` unless this is the certificate of RFC 8737 section 3, for this name alone."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        shown = certificate.extensions.get_extension_for_oid(acme.ID_PE_ACME_IDENTIFIER)
        found = [from_general_name(each) for each in names]
    except (x509.ExtensionNotFound, ValueError, InvalidInput) as error:
        detail = f"the certificate of {name} is none for this challenge: {printable(str(error))}"
        raise Failed("unauthorized", detail, evidence) from error
    if found != [name]:
        raise Failed("unauthorized", f"the certificate is for {len(found)} names, not for {name} alone", evidence)
    expected = acme.alpn_extension(key_authorization)
    value = shown.value
    if not shown.critical or not isinstance(value, x509.UnrecognizedExtension) or value.value != expected.value:
        detail = f"the certificate of {name} has not this challenge's critical acmeIdentifier"
        raise Failed("incorrectResponse" if shown.critical else "unauthorized", detail, evidence)
