"""Holds what a handshake showed against what was deployed: the chain, and the stapled OCSP response.

The chain must be sent completely and in order (RFC 5246 section 7.4.2). What comes behind it, the root for instance, is
of no use and does no harm. A leaf that says so (TLS feature ``status_request``, RFC 7633) needs a good response with
each handshake; its signature and dates are not checked. Names and dates of certificates are not looked at here.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509 import ocsp

from connectors.probes.tls import Observation


def shortcoming(seen: Observation, chain: Sequence[bytes]) -> str:
    """Return what is wrong with how ``chain`` (DER, leaf first, without root) is served, with the remedy; or nothing.

    Its leaf is what was seen: that is asked before.
    """
    if seen.chain[: len(chain)] != tuple(chain):
        return _chain_shortcoming(seen.chain, chain)
    if must_staple(seen.leaf) and (problem := _staple_shortcoming(seen)):
        return f"it asks for a stapled OCSP response (must-staple), and {problem}; switch OCSP stapling on there"
    return ""


def in_words(seen: Observation) -> str:
    """Return what was seen beside the leaf, for the report."""
    staple = ", with a stapled OCSP response" if seen.staple else ""
    return f"{seen.tls_version}, {len(seen.chain)} certificate{'' if len(seen.chain) == 1 else 's'} sent{staple}"


def must_staple(leaf: bytes) -> bool:
    """Say whether a certificate is to be taken only with an OCSP response (RFC 7633)."""
    try:
        features = x509.load_der_x509_certificate(leaf).extensions.get_extension_for_class(x509.TLSFeature).value
    except (ValueError, x509.ExtensionNotFound):
        return False
    return x509.TLSFeatureType.status_request in features


def _chain_shortcoming(sent: Sequence[bytes], chain: Sequence[bytes]) -> str:
    missing = [certificate for certificate in chain if certificate not in sent]
    if missing:
        names = " and ".join(_name(certificate) for certificate in missing)
        remedy = "does its configuration name the file with the whole chain?"
        return f"its chain is incomplete: without {names}, {len(sent)} sent of {len(chain)}; {remedy}"
    order, due = (", ".join(_name(certificate) for certificate in some) for some in (sent, chain))
    return f"its chain is out of order: it sends {order}; due is {due}"


def _staple_shortcoming(seen: Observation) -> str:
    if not seen.staple:
        return "none is sent"
    try:
        response = ocsp.load_der_ocsp_response(seen.staple)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return f"what is sent says {response.response_status.name.lower()}"
        if response.serial_number != x509.load_der_x509_certificate(seen.leaf).serial_number:
            return "what is sent is about another certificate"
        if response.certificate_status is not ocsp.OCSPCertStatus.GOOD:
            return f"what is sent says that it is {response.certificate_status.name.lower()}"
    except (ValueError, UnsupportedAlgorithm):
        return "what is sent is none"
    return ""


def _name(der: bytes) -> str:
    try:
        return x509.load_der_x509_certificate(der).subject.rfc4514_string() or "(no name)"
    except ValueError:
        return "(unreadable)"
