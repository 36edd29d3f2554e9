"""What both kinds of keystore hold under an alias, and what may be wrong with a keystore."""

from __future__ import annotations

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from connectors.targets.base import Material
from connectors.targets.pem import Chain, chain_pem
from core.secret import Secret

DER, PKCS8 = serialization.Encoding.DER, serialization.PrivateFormat.PKCS8


class KeystoreError(Exception):
    """A keystore that cannot be changed; the words complete the sentence "the keystore …"."""


class WrongPassword(KeystoreError):
    """It does not open with this password, or is damaged: nobody can tell the one from the other."""


class Entry(msgspec.Struct, frozen=True):
    """A key (PKCS#8, DER) with its certificates (DER, leaf first) under an alias, which Java reads in lower case."""

    alias: str
    key: Secret[bytes]
    chain: tuple[bytes, ...]

    @classmethod
    def of(cls, alias: str, material: Material, chain: Chain) -> Entry:
        """Return the entry for a certificate; raise ``InvalidInput`` for a root that nobody knows."""
        above = b"" if chain == "leaf_only" else chain_pem(chain, material)
        certificates = x509.load_pem_x509_certificates(material.leaf_pem + above)
        key = serialization.load_pem_private_key(material.key_pem.reveal(), None)
        der = key.private_bytes(DER, PKCS8, serialization.NoEncryption())
        return cls(alias, Secret(der), tuple(one.public_bytes(DER) for one in certificates))

    def is_named(self, alias: str) -> bool:
        """Say whether Java takes ``alias`` for this entry's."""
        return alias.lower() == self.alias.lower()

    def holds(self, key: bytes, chain: tuple[bytes, ...]) -> bool:
        """Say whether this key, however it is encoded, and this chain are the entry's."""
        return chain == self.chain and public_key(key) == public_key(self.key.reveal())


def public_key(pkcs8: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of a private key."""
    public = serialization.load_der_private_key(pkcs8, None).public_key()
    return public.public_bytes(DER, serialization.PublicFormat.SubjectPublicKeyInfo)
