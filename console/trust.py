"""Whose word counts for the coordinator: a PEM bundle, a root known by its SHA-256, or the system's roots."""

from __future__ import annotations

import hashlib
import http.client
import ssl
from urllib.parse import urlsplit

from console.errors import Unreachable, Untrusted
from console.settings import Settings
from core.errors import Misconfigured

_TIMEOUT_S = 10.0
_MOST_BYTES = 64 * 1024
_OK = 200


def context_of(settings: Settings) -> ssl.SSLContext:
    """Return the TLS context for the coordinator; raise ``Misconfigured`` for a bundle that cannot be used."""
    if settings.ca_bundle is not None:
        return _from_bundle(settings)
    if settings.ca_sha256:
        return ssl.create_default_context(cadata=_pinned_root(settings))
    return ssl.create_default_context()


def _from_bundle(settings: Settings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(settings.ca_bundle))
    except ssl.SSLError as error:
        raise Misconfigured(f"{settings.ca_bundle} is not a PEM file with certificates") from error
    except OSError as error:
        raise Misconfigured(f"the CA bundle {settings.ca_bundle} cannot be read: {error.strerror}") from error


def _pinned_root(settings: Settings) -> str:
    """Fetch the server's root over a connection that proves nothing, and believe it by its fingerprint alone."""
    pem = _fetch_root(settings.url)
    try:
        found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    except ValueError as error:
        raise Untrusted(f"{settings.url} did not answer with a root certificate") from error
    if found != settings.ca_sha256:
        detail = f"the root of {settings.url} has the SHA-256 {found}, which is not CERTCTL_SERVER_CA_SHA256"
        raise Untrusted(detail)
    return pem


def _fetch_root(url: str) -> str:
    parts = urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(
        parts.hostname or "", parts.port or 443, timeout=_TIMEOUT_S, context=context
    )
    try:
        connection.request("GET", f"{parts.path}/api/v1/server-root")
        response = connection.getresponse()
        content = response.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{url} cannot be reached: {error}; check CERTCTL_SERVER_URL") from error
    finally:
        connection.close()
    if response.status != _OK:
        detail = f"{url} has no root of its own to pin; use CERTCTL_SERVER_CA_BUNDLE_PATH instead"
        raise Untrusted(detail)
    return content.decode("ascii", "replace")


def trust_hint(settings: Settings) -> str:
    """Say what to do when the server's certificate was not accepted."""
    if settings.ca_bundle is not None:
        return f"It was checked against {settings.ca_bundle}; is that the root of this coordinator (its tls/ca.crt)?"
    remedy = "name it with CERTCTL_SERVER_CA_BUNDLE_PATH or --ca-bundle"
    return f"Copy tls/ca.crt from the coordinator's data folder and {remedy}"
