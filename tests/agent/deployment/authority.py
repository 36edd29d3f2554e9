"""A small CA for the tests: root, intermediate, and leaves with their keys, as a work item would bring them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from core.names import parse_name
from core.secret import Secret
from core.wire import DeploymentItem

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER


class Issued:
    """One leaf with its key and chain."""

    def __init__(self, certificate: x509.Certificate, key: Key, issuer: x509.Certificate) -> None:
        self.key = key
        self.chain = (certificate.public_bytes(DER), issuer.public_bytes(DER))
        self.fingerprint = sha256(self.chain[0]).hexdigest()
        self.cert_pem = certificate.public_bytes(PEM) + issuer.public_bytes(PEM)
        self.chain_pem = issuer.public_bytes(PEM)
        self.key_pem = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        spki = key.public_key().public_bytes(DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.spki_sha256 = sha256(spki).hexdigest()

    @property
    def secret(self) -> Secret[bytes]:
        """Return the key as the keystore hands it over."""
        return Secret(self.key_pem)

    def item(
        self,
        config: dict[str, Any],
        *,
        target_id: str = "tgt-web",
        target_type: str = "nginx",
        name: str = "a.test",
    ) -> DeploymentItem:
        """Return the work that asks for this certificate."""
        return DeploymentItem(
            job_id="job-1",
            lease_epoch=1,
            certificate_id="mc-a",
            version_id="cv-1",
            target_id=target_id,
            target_type=target_type,
            config=config,
            chain=self.chain,
            fingerprint=self.fingerprint,
            spki_sha256=self.spki_sha256,
            names=(parse_name(name),),
        )


class Authority:
    """Issues leaves below one intermediate."""

    def __init__(self) -> None:
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._key = ec.generate_private_key(ec.SECP256R1())
        root = _name("Test Root")
        self.root = _sign(root, root, self._root_key, self._root_key, ca=True)
        self.certificate = _sign(_name("Test Intermediate"), root, self._key, self._root_key, ca=True)

    def issue(self, name: str = "a.test", key: Key | None = None) -> Issued:
        """Return a new leaf, by default with a new key."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        leaf = _sign(_name(name), self.certificate.subject, key, self._key, ca=False, names=(name,))
        return Issued(leaf, key, self.certificate)


def belongs(certificate_path: Path, key_path: Path) -> bool:
    """Say whether the leaf in one file has the key in the other."""
    leaf = x509.load_pem_x509_certificate(certificate_path.read_bytes())
    key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    return leaf.public_key() == key.public_key()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _sign(
    subject: x509.Name,
    issuer: x509.Name,
    key: Key,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
    names: tuple[str, ...] = (),
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
