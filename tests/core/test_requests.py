"""Keys, certification requests and certificates as values: what is read, what is refused, one form for each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa, x25519
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from core import keys
from core.certificates import (
    chain_to_pem,
    fingerprint,
    new_serial,
    pem_to_chain,
    read_certificate,
    serial_hex,
    to_pem,
)
from core.csr import MAX_CSR_BYTES, build_csr, read_csr
from core.errors import InvalidInput
from core.keys import KeyAlgorithm, algorithm_of, from_pem, generate, spki_sha256
from core.names import Name, NameKind, parse_name
from core.secret import Secret

DER, PEM = serialization.Encoding.DER, serialization.Encoding.PEM
KEY = generate(KeyAlgorithm.ECDSA_P256)
NAMES = tuple(
    parse_name(text) for text in ("www.example.com", "192.0.2.1", "ops@example.com", "spiffe://example.org/a")
)


def csr(
    *extensions: x509.ExtensionType, subject: Sequence[tuple[x509.ObjectIdentifier, str]] = ()
) -> x509.CertificateSigningRequest:
    """Return a request with a subject and extensions of the test's choice."""
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in subject])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(KEY, hashes.SHA256())


@pytest.mark.parametrize("algorithm", [a for a in KeyAlgorithm if a != KeyAlgorithm.RSA_4096])
def test_a_request_of_each_algorithm_is_read_as_it_was_made(algorithm: KeyAlgorithm) -> None:
    key = generate(algorithm)
    facts, public_key = read_csr(build_csr(key, "www.example.com", NAMES))
    assert facts.common_name == "www.example.com"
    assert facts.names == frozenset(NAMES)
    assert (facts.key_algorithm, facts.ignored) == (algorithm, ())
    assert facts.spki_sha256 == spki_sha256(key.public_key()) == spki_sha256(public_key)
    assert from_pem(keys.to_pem(key)).public_key() == public_key


@pytest.mark.parametrize("name", ["a" * 60 + ".example.com", "192.0.2.1", "2001:db8::1"])
def test_a_name_that_is_no_common_name_stands_in_the_san_only(name: str) -> None:
    facts, _ = read_csr(build_csr(KEY, name, (parse_name(name),)))
    assert (facts.common_name, facts.names) == ("", frozenset({parse_name(name)}))


WEAK = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - the weakness is what is tested


@pytest.mark.parametrize(
    "key,problem",
    [
        (WEAK, "1024 bits"),
        (rsa.generate_private_key(public_exponent=65537, key_size=2056), "2056 bits"),
        (rsa.generate_private_key(public_exponent=3, key_size=2048), "exponent 3"),
        (ec.generate_private_key(ec.SECP521R1()), "secp521r1"),
        (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
        (dsa.generate_private_key(2048), "DSA"),
        (ed448.Ed448PrivateKey.generate(), "Ed448"),
        (x25519.X25519PrivateKey.generate(), "X25519"),
    ],
)
def test_weak_keys_and_odd_curves_are_refused(key: keys.PrivateKey, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem) as refused:
        algorithm_of(key.public_key())
    assert refused.value.errors[0].field == "csr"


def test_a_request_with_a_weak_key_is_refused_as_a_whole() -> None:
    with pytest.raises(InvalidInput, match="1024 bits"):
        read_csr(build_csr(WEAK, "a.example.com", NAMES))


def test_a_request_that_its_key_did_not_sign_is_refused() -> None:
    der = bytearray(build_csr(KEY, "www.example.com", NAMES))
    changed = bytes(der).replace(b"www.example.com", b"wwx.example.com")
    with pytest.raises(InvalidInput, match="not signed by its own key"):
        read_csr(changed)


@pytest.mark.parametrize("der", [b"", b"no DER", b"\x30\x80", b"\x30\x03\x02\x01\x00", bytes(MAX_CSR_BYTES + 1)])
def test_what_is_no_request_is_refused(der: bytes) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_csr(der)
    assert refused.value.errors[0].field == "csr"


@given(st.integers(0, 400), st.binary(min_size=1, max_size=4))
@example(9, b"\x01")
def test_a_damaged_request_is_refused_or_says_the_same(place: int, noise: bytes) -> None:
    der = build_csr(KEY, "www.example.com", NAMES)
    changed = (der[:place] + noise + der[place + len(noise) :])[: len(der)]
    try:
        facts, _ = read_csr(changed)
    except InvalidInput:
        return
    assert facts.names == frozenset(NAMES)


def test_extensions_and_subjects_beyond_the_names_are_reported() -> None:
    request = csr(
        x509.BasicConstraints(ca=True, path_length=None),
        x509.SubjectAlternativeName([x509.DNSName("WWW.example.com")]),
        subject=[(NameOID.COMMON_NAME, "www.example.com"), (NameOID.ORGANIZATION_NAME, "Somebody Else")],
    )
    facts, _ = read_csr(request.public_bytes(DER))
    assert facts.ignored == ("extension 2.5.29.19", "subject O")
    assert facts.names == frozenset({parse_name("www.example.com")})


@pytest.mark.parametrize(
    "request_",
    [
        csr(x509.SubjectAlternativeName([x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))])),
        csr(x509.SubjectAlternativeName([x509.DNSName("*")])),
        csr(subject=[(NameOID.COMMON_NAME, "a"), (NameOID.COMMON_NAME, "b")]),
    ],
)
def test_requests_with_names_that_are_never_signed_are_refused(request_: x509.CertificateSigningRequest) -> None:
    with pytest.raises(InvalidInput):
        read_csr(request_.public_bytes(DER))


def certificate(serial: int = 0xABC, names: tuple[Name, ...] = NAMES) -> bytes:
    """Return a self-signed certificate in DER."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "www.example.com")])
    now = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key())
    builder = builder.serial_number(serial).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    if names:
        san = x509.SubjectAlternativeName([each.general_name() for each in names])
        builder = builder.add_extension(san, critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(DER)


def test_a_certificate_says_what_it_says_in_canonical_forms() -> None:
    der = certificate()
    facts = read_certificate(der)
    assert (facts.serial, facts.common_name, facts.names) == ("abc", "www.example.com", NAMES)
    assert (
        facts.fingerprint == fingerprint(der) == x509.load_der_x509_certificate(der).fingerprint(hashes.SHA256()).hex()
    )
    assert facts.not_after - facts.not_before == timedelta(days=1)
    assert facts.spki_sha256 == spki_sha256(KEY.public_key())
    assert read_certificate(certificate(names=())).names == ()


def test_what_is_no_certificate_is_refused() -> None:
    for der in (b"", b"no DER", certificate()[:-10]):
        with pytest.raises(InvalidInput, match="leaf: is not a readable certificate"):
            read_certificate(der, field="leaf")


def test_serial_numbers_are_positive_unpredictable_and_fit_into_twenty_octets() -> None:
    serials = [new_serial() for _ in range(200)]
    assert len(set(serials)) == 200
    for serial in serials:
        assert serial.bit_length() == 159
        assert re.fullmatch(r"[1-9a-f][0-9a-f]{39}", serial_hex(serial))


@pytest.mark.parametrize("serial,text", [(1, "1"), (0x0A, "a"), (0x00FF, "ff"), (0x0123456789, "123456789")])
def test_a_serial_number_has_one_form(serial: int, text: str) -> None:
    assert serial_hex(serial) == text
    assert read_certificate(certificate(serial)).serial == text


def test_chains_keep_their_order_in_pem() -> None:
    chain = (certificate(1), certificate(2))
    assert pem_to_chain(chain_to_pem(chain)) == chain
    assert chain_to_pem(chain) == to_pem(chain[0]) + to_pem(chain[1])
    for nothing in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(InvalidInput, match="chain"):
            pem_to_chain(nothing)


def test_a_private_key_that_cannot_be_read_is_refused_without_its_content() -> None:
    encrypted = KEY.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"pw"))
    other = x25519.X25519PrivateKey.generate()
    plain = other.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for pem in (b"", b"s3cret", encrypted, plain):
        with pytest.raises(InvalidInput, match="key") as refused:
            from_pem(Secret(pem))
        assert "s3cret" not in refused.value.detail


@pytest.mark.parametrize("fmt", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL])
def test_private_keys_in_the_usual_forms_are_read(fmt: serialization.PrivateFormat) -> None:
    pem = KEY.private_bytes(PEM, fmt, serialization.NoEncryption())
    assert from_pem(Secret(pem)).public_key() == KEY.public_key()


@pytest.mark.parametrize("kind", [NameKind.IP, NameKind.URI, NameKind.EMAIL, NameKind.DNS])
def test_a_name_that_is_not_of_its_kind_makes_no_request(kind: NameKind) -> None:
    with pytest.raises(InvalidInput, match="names"):
        build_csr(KEY, "", (Name(kind, "ü"),))
