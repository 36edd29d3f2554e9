"""Private and public keys of certificates: the algorithms that are offered, and how a key is named.

A key is named by the SHA-256 of its SubjectPublicKeyInfo in DER (RFC 5280 section 4.1.2.7), lower-case hex.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Literal, assert_never

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from msgspec import Struct

from core.errors import InvalidInput
from core.secret import Secret

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

UNREADABLE = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What ``cryptography`` raises for DER that is no certificate or request, or not one that it can read."""


class KeyAlgorithm(StrEnum):
    """Algorithms a profile may allow."""

    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"
    ED25519 = "ed25519"


_RSA_SIZES = {KeyAlgorithm.RSA_2048: 2048, KeyAlgorithm.RSA_3072: 3072, KeyAlgorithm.RSA_4096: 4096}
KeyFamily = Literal["RSA", "ECDSA", "Ed25519"]
_FAMILIES: dict[KeyFamily, dict[KeyAlgorithm, int]] = {
    "RSA": _RSA_SIZES,
    "ECDSA": {KeyAlgorithm.ECDSA_P256: 256, KeyAlgorithm.ECDSA_P384: 384},
    "Ed25519": {KeyAlgorithm.ED25519: 256},
}


class KeyRule(Struct, frozen=True, forbid_unknown_fields=True):
    """All offered algorithms of a family whose keys have at least ``min_size`` bits."""

    algorithm: KeyFamily
    min_size: int = 0


KeyChoice = KeyAlgorithm | KeyRule


def chosen_algorithms(choices: Sequence[KeyChoice], *, field: str) -> tuple[KeyAlgorithm, ...]:
    """Return what is chosen as algorithms in the given order, each once; raise ``InvalidInput`` for a rule of none."""
    found: list[KeyAlgorithm] = []
    for place, choice in enumerate(choices):
        if isinstance(choice, KeyAlgorithm):
            found.append(choice)
            continue
        sizes = _FAMILIES[choice.algorithm]
        fitting = [algorithm for algorithm, size in sizes.items() if size >= choice.min_size]
        if not fitting:
            most = max(sizes.values())
            raise InvalidInput.of(f"{field}[{place}].min_size", f"is {choice.min_size}; the largest offered is {most}")
        found += fitting
    return tuple(dict.fromkeys(found))


def generate(algorithm: KeyAlgorithm) -> PrivateKey:
    """Make a new private key. RSA-4096 may take seconds: call it in a worker thread."""
    match algorithm:
        case KeyAlgorithm.ECDSA_P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyAlgorithm.ECDSA_P384:
            return ec.generate_private_key(ec.SECP384R1())
        case KeyAlgorithm.ED25519:
            return ed25519.Ed25519PrivateKey.generate()
        case KeyAlgorithm.RSA_2048 | KeyAlgorithm.RSA_3072 | KeyAlgorithm.RSA_4096:
            return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_SIZES[algorithm])
        case _:
            assert_never(algorithm)


def algorithm_of(key: PublicKeyTypes, *, field: str = "csr") -> KeyAlgorithm:
    """Return which offered algorithm ``key`` is; raise ``InvalidInput`` for a weak or unknown one."""
    match key:
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1):
            return KeyAlgorithm.ECDSA_P256
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP384R1):
            return KeyAlgorithm.ECDSA_P384
        case ed25519.Ed25519PublicKey():
            return KeyAlgorithm.ED25519
        case rsa.RSAPublicKey():
            return _rsa_algorithm(key, field)
        case ec.EllipticCurvePublicKey():
            found = f"an EC key on {key.curve.name}"
        case _:
            found = f"a key of type {type(key).__name__}"
    raise InvalidInput.of(field, f"holds {found}; use one of {', '.join(KeyAlgorithm)}")


def _rsa_algorithm(key: rsa.RSAPublicKey, field: str) -> KeyAlgorithm:
    if key.public_numbers().e < 65537:  # noqa: PLR2004 - F4, the least exponent that public CAs accept
        raise InvalidInput.of(field, f"holds an RSA key with exponent {key.public_numbers().e}; use 65537")
    for algorithm, size in _RSA_SIZES.items():
        if key.key_size == size:
            return algorithm
    sizes = ", ".join(str(size) for size in _RSA_SIZES.values())
    raise InvalidInput.of(field, f"holds an RSA key of {key.key_size} bits; use one of {sizes} bits")


def spki_sha256(key: PublicKeyTypes) -> str:
    """Return the name of a public key: lower-case hex of the SHA-256 of its SPKI."""
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def to_pem(key: PrivateKey) -> Secret[bytes]:
    """Return the key as unencrypted PKCS#8 PEM."""
    encoding, fmt = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return Secret(key.private_bytes(encoding, fmt, serialization.NoEncryption()))


def ed25519_public_pem(key: ed25519.Ed25519PublicKey) -> bytes:
    """Return a public key in PEM (SubjectPublicKeyInfo)."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def from_pem(pem: Secret[bytes]) -> PrivateKey:
    """Read an unencrypted private key: PKCS#8, PKCS#1 or SEC1 PEM.

    Raises ``InvalidInput`` without saying anything of its content.
    """
    try:
        key = serialization.load_pem_private_key(pem.reveal(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput.of("key", "is not an unencrypted private key in PEM (PKCS#8, PKCS#1 or SEC1)") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise InvalidInput.of("key", f"is of type {type(key).__name__}; use ECDSA, RSA or Ed25519")
    return key
