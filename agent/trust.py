"""Which coordinator this agent believes: pinned by a file, by the SHA-256 of its root, or by the system's authorities.

With the hash alone, the root is fetched once over a connection that nobody vouches for, compared, and kept in
STATE_DIR. When the coordinator gets another root, the setting has to name it: the new root is then fetched, and until
then nothing that it signed is trusted.
"""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.exchange import exchange, new_client
from agent.files import explained, write_private
from agent.settings import Settings
from core.errors import Misconfigured, Transient

_NOT_FOUND, _FIRST_SERVER_ERROR = 404, 500
_BUNDLE, _SHA256 = "CERTCTL_SERVER_CA_BUNDLE_PATH", "CERTCTL_SERVER_CA_SHA256"


async def trust(settings: Settings) -> ssl.SSLContext:
    """Return the TLS context that the coordinator is checked with; fetch its root first when only its hash is known.

    Raises ``Transient`` while the root cannot be fetched, ``Misconfigured`` when it is another one or none is readable.
    """
    variable, bundle = _BUNDLE, settings.ca_bundle
    if settings.ca_sha256:
        variable, bundle = _SHA256, settings.state_dir / "coordinator-ca.crt"
        if _kept(bundle) != settings.ca_sha256:
            await trio.to_thread.run_sync(write_private, bundle, await _fetch_root(settings))
    try:
        context = ssl.create_default_context(cafile=bundle)
    except OSError as error:
        reason = "it holds no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise Misconfigured(f"{variable}: {bundle} cannot be used: {reason}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _kept(path: Path) -> str:
    """Return the hash of the root that was fetched before, empty when there is none."""
    with explained("reading the coordinator's root"):
        der = _first_certificate(path.read_bytes()) if path.exists() else None
    return hashlib.sha256(der).hexdigest() if der else ""


def _first_certificate(pem: bytes) -> bytes | None:
    try:
        return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    except ValueError:
        return None


async def _fetch_root(settings: Settings) -> bytes:
    """Return the root that the hash names; nothing secret is sent, and nothing that came with it is kept."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with new_client(context, settings.server_url) as http:
        answer = await exchange(http, "GET", "/api/v1/server-root")
    if answer.status >= _FIRST_SERVER_ERROR:
        raise Transient(f"the coordinator does not show its root now: HTTP status {answer.status}")
    der = _first_certificate(answer.content)
    if answer.status == _NOT_FOUND:
        raise Misconfigured(f"{_SHA256}: the coordinator's certificate is its operator's own; set {_BUNDLE} instead")
    if der is None or hashlib.sha256(der).hexdigest() != settings.ca_sha256:
        raise Misconfigured(
            f"{_SHA256} is not the hash of the root that the coordinator shows: either the hash is wrong, or the "
            "coordinator has another root by now, or something between here and it answers in its place"
        )
    # What follows the first certificate was not compared with anything, so it must not become trusted.
    return ssl.DER_cert_to_PEM_cert(der).encode()
