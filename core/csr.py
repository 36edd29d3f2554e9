"""Certification requests (PKCS#10, RFC 2986): made by agents, read and checked by the gate."""

from __future__ import annotations

from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtensionOID, NameOID
from msgspec import Struct

from core.errors import InvalidInput
from core.keys import UNREADABLE, KeyAlgorithm, PrivateKey, PublicKey, algorithm_of, spki_sha256
from core.names import MAX_COMMON_NAME, Name, NameKind, from_general_name, parse_name

MAX_CSR_BYTES = 32 * 1024


class CSRFacts(Struct, frozen=True):
    """What a request asks for, after its signature was checked.

    ``ignored`` names what it carries beyond subject CN, names and key: extensions and subject attributes that are never
    copied into a certificate.
    """

    common_name: str
    names: frozenset[Name]
    key_algorithm: KeyAlgorithm
    spki_sha256: str
    ignored: tuple[str, ...]


def build_csr(key: PrivateKey, common_name: str, names: tuple[Name, ...]) -> bytes:
    """Return a DER request for exactly ``names``; the CN is left out when it cannot be one.

    Raises ``InvalidInput`` for a name that does not have the form of its kind.
    """
    subject = x509.Name(subject_attributes(common_name))
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    try:
        alternatives = x509.SubjectAlternativeName([name.general_name() for name in names])
        request = builder.add_extension(alternatives, critical=False).sign(key, signature_hash(key))
    except (ValueError, TypeError) as error:
        raise InvalidInput.of("names", f"cannot stand in a request: {error}"[:300]) from error
    return request.public_bytes(serialization.Encoding.DER)


def subject_attributes(common_name: str) -> list[x509.NameAttribute[str]]:
    """Return the subject for ``common_name``.

    It is empty for a name longer than a CN may be (RFC 5280 appendix A.1) and for an IP address, which clients would
    read as a host name; the subjectAltName carries the name in any case.
    """
    if not common_name or len(common_name) > MAX_COMMON_NAME or parse_name(common_name).kind is NameKind.IP:
        return []
    return [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]


def signature_hash(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | None:
    """Return the hash that fits the key's strength; none for Ed25519, which brings its own."""
    match key:
        case ed25519.Ed25519PrivateKey():
            return None
        case ec.EllipticCurvePrivateKey() if isinstance(key.curve, ec.SECP384R1):
            return hashes.SHA384()
        case _:
            return hashes.SHA256()


@lru_cache(maxsize=128)
def read_csr(der: bytes, *, field: str = "csr") -> tuple[CSRFacts, PublicKey]:
    """Parse a DER request and check its signature (proof of possession) and its key.

    The gate reads one when it comes and again when it is signed; what was read lately is known still.
    Raises ``InvalidInput`` that names ``field`` when it cannot be parsed, the signature does not fit, the key is weak
    or of a kind that is not offered, or a name is malformed.
    """
    if len(der) > MAX_CSR_BYTES:
        raise InvalidInput.of(field, f"is {len(der)} bytes long; at most {MAX_CSR_BYTES} are read")
    try:
        request = x509.load_der_x509_csr(der)
        valid = request.is_signature_valid
        key = request.public_key()
        common_names = [str(a.value) for a in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        names, extra = _alternatives(request, field)
    except UNREADABLE as error:
        raise InvalidInput.of(field, f"is not a readable PKCS#10 request: {error}") from error
    if not valid:
        raise InvalidInput.of(
            field, "is not signed by its own key; make the request again with the private key it names"
        )
    algorithm = algorithm_of(key, field=field)
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        raise InvalidInput.of(field, "holds a key of a kind that is not offered")
    if len(common_names) > 1:
        raise InvalidInput.of(field, "has more than one common name; give one")
    extra += [f"subject {a.rfc4514_attribute_name}" for a in request.subject if a.oid != NameOID.COMMON_NAME]
    facts = CSRFacts(common_names[0] if common_names else "", names, algorithm, spki_sha256(key), tuple(extra))
    return facts, key


def _alternatives(request: x509.CertificateSigningRequest, field: str) -> tuple[frozenset[Name], list[str]]:
    names: set[Name] = set()
    extra: list[str] = []
    for extension in request.extensions:
        if extension.oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME:
            names |= {from_general_name(name, field=field) for name in extension.value}
        else:
            extra.append(f"extension {extension.oid.dotted_string}")
    return frozenset(names), extra
