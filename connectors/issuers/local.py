"""The authority that signs in this process: certificates and CRLs by a key that the coordinator keeps (RFC 5280).

It is a root or a subordinate CA, made here (``making``) or taken over from the operator. Keys are plain
``cryptography`` private keys, so that one held by an HSM can take their place. OCSP is not answered here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from connectors.issuers.base import Order
from connectors.issuers.local_config import LocalConfig
from core.certificates import new_serial
from core.csr import signature_hash, subject_attributes
from core.errors import Misconfigured
from core.keys import KeyAlgorithm, PrivateKey, generate

CONFIG_TYPE = LocalConfig
E = TypeVar("E", bound=x509.ExtensionType)
ROOT_LIFETIME = timedelta(days=3650)
_BACKDATING = timedelta(minutes=5)


@dataclass(frozen=True)
class RevokedCertificate:
    """One line of a CRL; ``reason`` is a name of RFC 5280 section 5.3.1, or empty for none."""

    serial: int
    revoked_at: datetime
    reason: str = ""


@dataclass(frozen=True)
class LocalIssuer:
    """A CA key with its certificate. ``chain`` holds DER: this CA first, its issuers after it, a root included.

    What follows from the two is worked out once.
    """

    key: PrivateKey
    chain: tuple[bytes, ...]

    @cached_property
    def certificate(self) -> x509.Certificate:
        """Return the CA's own certificate."""
        return x509.load_der_x509_certificate(self.chain[0])

    @cached_property
    def ski(self) -> str:
        """Return the CA's subject key identifier, the name of its key in URLs, in lower-case hex."""
        return subject_key_identifier(self.certificate)

    @cached_property
    def served_chain(self) -> tuple[bytes, ...]:
        """Return what follows a leaf on the wire: the CA and its issuers without a self-signed root."""
        return tuple(der for der in self.chain if not _is_self_signed(x509.load_der_x509_certificate(der)))

    @property
    def is_quick(self) -> bool:
        """Say whether its key signs in less time than another thread takes to begin with it."""
        return isinstance(self.key, ec.EllipticCurvePrivateKey) and isinstance(self.key.curve, ec.SECP256R1)

    def has_signed(self, der: bytes) -> bool:
        """Say whether a certificate was signed by this CA's key."""
        return _is_issued_by(x509.load_der_x509_certificate(der), self.certificate)

    def sign(self, order: Order) -> bytes:
        """Return the DER certificate for exactly this order."""
        ca = self.certificate
        subject = x509.Name(subject_attributes(order.common_name))
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca.subject)
            .public_key(order.public_key)
            .serial_number(order.serial)
            .not_valid_before(order.not_before)
            .not_valid_after(order.not_after)
        )
        for extension, critical in self._extensions(order, has_subject=bool(list(subject))):
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.key, signature_hash(self.key)).public_bytes(serialization.Encoding.DER)

    def _extensions(self, order: Order, *, has_subject: bool) -> list[tuple[x509.ExtensionType, bool]]:
        """Return the leaf's extensions; the names are critical when there is no subject (RFC 5280 section 4.1.2.6)."""
        names = x509.SubjectAlternativeName([name.general_name() for name in order.names])
        usages = x509.ExtendedKeyUsage([x509.ObjectIdentifier(oid) for oid in order.extended_key_usages])
        found: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_leaf_key_usage(order), True),
            (usages, ExtendedKeyUsageOID.TIME_STAMPING in usages),  # RFC 3161 section 2.3 wants it so
            (names, not has_subject),
            (x509.SubjectKeyIdentifier.from_public_key(order.public_key), False),
            (authority_key_identifier(self.certificate), False),
        ]
        found += ((value, False) for value in publication(order.aia_url, order.cdp_url))
        if order.must_staple:
            found.append((x509.TLSFeature([x509.TLSFeatureType.status_request]), False))
        return found

    def sign_crl(
        self, number: int, revoked: list[RevokedCertificate], this_update: datetime, next_update: datetime
    ) -> bytes:
        """Return a DER CRL (RFC 5280 section 5) of everything revoked under this key."""
        builder = (
            x509.CertificateRevocationListBuilder(
                issuer_name=self.certificate.subject,
                last_update=this_update,
                next_update=next_update,
                revoked_certificates=[_crl_entry(entry) for entry in revoked],
            )
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(authority_key_identifier(self.certificate), critical=False)
        )
        return builder.sign(self.key, signature_hash(self.key)).public_bytes(serialization.Encoding.DER)


def make_root(common_name: str, now: datetime, lifetime: timedelta = ROOT_LIFETIME) -> LocalIssuer:
    """Return a new self-signed root with an ECDSA P-256 key that may sign leaves only (path length 0)."""
    key = generate(KeyAlgorithm.ECDSA_P256)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(new_serial())
        .not_valid_before(now - _BACKDATING)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(ca_key_usage(), critical=True)
        .add_extension(ski, critical=False)
        .sign(key, signature_hash(key))
    )
    return LocalIssuer(key, (certificate.public_bytes(serialization.Encoding.DER),))


def publication(aia_url: str, cdp_url: str) -> list[x509.ExtensionType]:
    """Return what a certificate says of where its issuer's certificate and CRL are; nothing for an empty URL."""
    found: list[x509.ExtensionType] = []
    if aia_url:
        location = x509.UniformResourceIdentifier(aia_url)
        description = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, location)
        found.append(x509.AuthorityInformationAccess([description]))
    if cdp_url:
        point = x509.DistributionPoint([x509.UniformResourceIdentifier(cdp_url)], None, None, None)
        found.append(x509.CRLDistributionPoints([point]))
    return found


class Finding(NamedTuple):
    """One thing that was looked at; ``problem`` says what is wrong with it, with the remedy, and is empty otherwise."""

    what: Literal["authority", "usage", "validity", "key", "chain"]
    problem: str = ""


def examine(issuer: LocalIssuer, now: datetime) -> list[Finding]:
    """Look whether an authority can sign leaves now, at one thing after the other."""
    certificate = issuer.certificate
    constraints, usage = extension_in(certificate, x509.BasicConstraints), extension_in(certificate, x509.KeyUsage)
    is_authority = constraints is not None and constraints.value.ca
    may_sign = usage is None or (usage.value.key_cert_sign and usage.value.crl_sign)
    is_valid = certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc
    is_its_key = certificate.public_key() == issuer.key.public_key()
    found: list[tuple[Literal["authority", "usage", "validity", "key", "chain"], bool, str]] = [
        ("authority", is_authority, "holds a certificate without CA:TRUE first; put the CA's own first"),
        ("usage", may_sign, "holds a CA that may not sign certificates and CRLs (keyUsage)"),
        ("validity", is_valid, "holds a CA outside of its validity; renew it first"),
        ("key", is_its_key, "is not the key of the certificate that comes first in the chain"),
        ("chain", _is_linked(issuer.chain), "must hold the CA first and then its issuers, each signed by the next"),
    ]
    return [Finding(what, "" if is_right else problem) for what, is_right, problem in found]


def check_authority(issuer: LocalIssuer, now: datetime) -> LocalIssuer:
    """Return a CA loaded from files if it can sign leaves now; raise ``Misconfigured`` that says what it lacks."""
    for finding in examine(issuer, now):
        if finding.problem:
            variable = "CERTCTL_CA_KEY_PATH" if finding.what == "key" else "CERTCTL_CA_CERT_PATH"
            raise Misconfigured(f"{variable} {finding.problem}")
    return issuer


def _is_linked(chain: Sequence[bytes]) -> bool:
    certificates = [x509.load_der_x509_certificate(der) for der in chain]
    return all(_is_issued_by(lower, upper) for lower, upper in pairwise(certificates))


def subject_key_identifier(certificate: x509.Certificate) -> str:
    """Return the certificate's SKI in lower-case hex; computed from the key when it carries none."""
    extension = extension_in(certificate, x509.SubjectKeyIdentifier)
    value = extension.value if extension else x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
    return value.digest.hex()


def usage_oids(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the OIDs of extended key usages named as in OpenSSL: serverAuth, clientAuth, emailProtection."""
    return tuple(EXTENDED_KEY_USAGES[name] for name in names)


EXTENDED_KEY_USAGES = {
    "serverAuth": ExtendedKeyUsageOID.SERVER_AUTH.dotted_string,
    "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH.dotted_string,
    "emailProtection": ExtendedKeyUsageOID.EMAIL_PROTECTION.dotted_string,
    "codeSigning": ExtendedKeyUsageOID.CODE_SIGNING.dotted_string,
    "timeStamping": ExtendedKeyUsageOID.TIME_STAMPING.dotted_string,
}


def extension_in(certificate: x509.Certificate, kind: type[E]) -> x509.Extension[E] | None:
    """Return an extension of a certificate, if it has that."""
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def _is_self_signed(certificate: x509.Certificate) -> bool:
    return certificate.subject == certificate.issuer and _is_issued_by(certificate, certificate)


def _is_issued_by(lower: x509.Certificate, upper: x509.Certificate) -> bool:
    try:
        lower.verify_directly_issued_by(upper)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def authority_key_identifier(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Return what a certificate says of the key of the ``ca`` that signs it."""
    extension = extension_in(ca, x509.SubjectKeyIdentifier)
    if extension is None:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key())  # type: ignore[arg-type]  # any CA key signs
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(extension.value)


def _leaf_key_usage(order: Order) -> x509.KeyUsage:
    """Return what the key may do, as far as its kind can and its purposes need (RFC 5280 section 4.2.1.12).

    An RSA key takes part in encryption by keyEncipherment, an ECDSA one by keyAgreement (RFC 5480 section 3), Ed25519
    not at all (RFC 8410 section 5). TLS needs that of servers' RSA keys, mail of every key; mail is signed for keeps.
    """
    purposes = set(order.extended_key_usages)
    mail = EXTENDED_KEY_USAGES["emailProtection"] in purposes
    key = order.public_key
    return _key_usage(
        digital_signature=True,
        content_commitment=mail,
        key_encipherment=isinstance(key, rsa.RSAPublicKey) and (mail or EXTENDED_KEY_USAGES["serverAuth"] in purposes),
        key_agreement=isinstance(key, ec.EllipticCurvePublicKey) and mail,
    )


def ca_key_usage() -> x509.KeyUsage:
    """Return what an authority's key is for."""
    return _key_usage(key_cert_sign=True, crl_sign=True)


def _key_usage(**wanted: bool) -> x509.KeyUsage:
    every = {
        "digital_signature": False,
        "content_commitment": False,
        "key_encipherment": False,
        "data_encipherment": False,
        "key_agreement": False,
        "key_cert_sign": False,
        "crl_sign": False,
        "encipher_only": False,
        "decipher_only": False,
    }
    return x509.KeyUsage(**{**every, **wanted})


def _crl_entry(entry: RevokedCertificate) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(entry.serial).revocation_date(entry.revoked_at)
    if entry.reason and entry.reason != "unspecified":
        builder = builder.add_extension(x509.CRLReason(x509.ReasonFlags(entry.reason)), critical=False)
    return builder.build()
