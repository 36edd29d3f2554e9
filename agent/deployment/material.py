"""From the bytes of a work item to a certificate and key that belong together, re-encoded.

Only what ``cryptography`` parsed is ever written to a host, so nothing can ride along in a PEM file.
"""

from __future__ import annotations

from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from connectors.targets.base import Material
from core.errors import InvalidInput
from core.secret import Secret
from core.wire import DeploymentItem

MAX_CHAIN = 10

_PEM = serialization.Encoding.PEM


def read_material(item: DeploymentItem, private_key_pem: Secret[bytes]) -> Material:
    """Return what the item and the agent's key amount to.

    Raises ``InvalidInput`` unless the leaf is the one with the item's fingerprint, and the key is the leaf's and the
    item's (SHA-256 of the SubjectPublicKeyInfo).
    """
    certificates = _read_chain(item.chain)
    leaf = certificates[0]
    fingerprint = sha256(item.chain[0]).hexdigest()
    if fingerprint != item.fingerprint:
        raise InvalidInput.of("chain", f"the first certificate has the fingerprint {fingerprint}, not the item's")
    root = _fitting_root(item.root, certificates[-1])
    key_pem, key_spki = _read_key(private_key_pem)
    leaf_spki = sha256(_spki(leaf.public_key())).hexdigest()
    if not leaf_spki == key_spki == item.spki_sha256:
        problem = "the agent's key does not belong to this certificate; it was made for another key"
        raise InvalidInput.of("spki_sha256", problem)
    return Material(
        leaf_pem=leaf.public_bytes(_PEM),
        chain_pem=b"".join(certificate.public_bytes(_PEM) for certificate in certificates[1:]),
        key_pem=key_pem,
        fingerprint=fingerprint,
        root_pem=root.public_bytes(_PEM) if root else b"",
    )


def _read_chain(chain: tuple[bytes, ...]) -> list[x509.Certificate]:
    if not 0 < len(chain) <= MAX_CHAIN:
        raise InvalidInput.of("chain", f"holds {len(chain)} certificates; 1 to {MAX_CHAIN} are installed")
    try:
        return [x509.load_der_x509_certificate(der) for der in chain]
    except ValueError as error:
        raise InvalidInput.of("chain", f"is not a list of DER certificates: {error}") from error


def _fitting_root(der: bytes, last: x509.Certificate) -> x509.Certificate | None:
    """Return the root if it is one and has signed the end of the chain; an issuer may have got another one since."""
    try:
        root = x509.load_der_x509_certificate(der)
        root.verify_directly_issued_by(root)
        last.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return None
    return root


def _read_key(private_key_pem: Secret[bytes]) -> tuple[Secret[bytes], str]:
    try:
        key = serialization.load_pem_private_key(private_key_pem.reveal(), password=None)
        text = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return Secret(text), sha256(_spki(key.public_key())).hexdigest()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The parser's own words may quote its input, so they are left out.
        raise InvalidInput.of("private_key", "the agent's stored key cannot be read as a PEM private key") from error


def _spki(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]  # every public key type of cryptography has it
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded
