"""ML-DSA for signed requests (RFC 9964), which the JOSE library lacks: keys of the type AKP name their algorithm."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey, MLDSA65PublicKey, MLDSA87PublicKey

from core import acme

KEY_TYPE = "AKP"
_PUBLIC_KEYS: dict[str, Any] = {
    "ML-DSA-44": MLDSA44PublicKey,
    "ML-DSA-65": MLDSA65PublicKey,
    "ML-DSA-87": MLDSA87PublicKey,
}
ALGORITHMS = tuple(_PUBLIC_KEYS)


@dataclass(frozen=True)
class MLDSAKey:
    """A public key; ``pub`` is its raw form (FIPS 204) in base64url."""

    alg: str
    pub: str
    public: Any = field(compare=False)
    """The same as the library has it."""

    @classmethod
    def import_key(cls, jwk: dict[str, Any]) -> MLDSAKey:
        """Read a JWK; raise ``ValueError``."""
        alg, pub = jwk.get("alg"), jwk.get("pub")
        if alg not in ALGORITHMS or not isinstance(pub, str):
            message = f"it needs a pub, and an alg that is one of {', '.join(ALGORITHMS)}"
            raise ValueError(message)
        raw = acme.decode(pub)
        try:
            public = _PUBLIC_KEYS[alg].from_public_bytes(raw)
        except UnsupportedAlgorithm as error:
            message = f"{alg} needs a newer OpenSSL here"
            raise ValueError(message) from error
        return cls(alg, acme.encode(raw), public)

    def as_dict(self, *, private: bool = False) -> dict[str, str]:
        """Return the JWK, with its required members alone; there is nothing private in it."""
        assert not private  # noqa: S101 - only public keys come in
        return {"alg": self.alg, "kty": KEY_TYPE, "pub": self.pub}

    def thumbprint(self) -> str:
        """Return the thumbprint (RFC 7638, RFC 9964 section 6)."""
        return acme.encode(hashlib.sha256(msgspec.json.encode(self.as_dict(), order="sorted")).digest())


class Algorithm:
    """ML-DSA as the library's algorithms are: with an empty context."""

    def __init__(self, name: str) -> None:
        self.name = name

    def check_key(self, key: object) -> None:
        """Raise ``ValueError`` for a key of another algorithm."""
        if not isinstance(key, MLDSAKey) or key.alg != self.name:
            message = f"the key is not for {self.name}"
            raise ValueError(message)

    def verify(self, message: bytes, signature: bytes, key: MLDSAKey) -> bool:
        """Say whether a signature fits."""
        try:
            key.public.verify(signature, message)
        except InvalidSignature:
            return False
        return True
