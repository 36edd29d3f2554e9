"""The local authority, judged by OpenSSL: chains, extensions, CRLs, and subordinate authorities from files."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtensionOID, NameOID

from connectors.issuers.base import Order
from connectors.issuers.local import LocalIssuer, RevokedCertificate, check_authority, make_root, usage_oids
from core.certificates import new_serial, to_pem
from core.errors import Misconfigured
from core.keys import KeyAlgorithm, PrivateKey, generate
from core.names import parse_name

NOW = datetime.now(UTC).replace(microsecond=0)
PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
ROOT = make_root("Test root", NOW)


def order(*names: str, key: PrivateKey | None = None, **changes: object) -> Order:
    """Return an order for these names, the first as the common name."""
    fields = {
        "serial": new_serial(),
        "common_name": names[0],
        "names": tuple(parse_name(name) for name in names),
        "public_key": (key or generate(KeyAlgorithm.ECDSA_P256)).public_key(),
        "not_before": NOW - timedelta(minutes=5),
        "not_after": NOW + timedelta(days=1),
        "extended_key_usages": usage_oids(("serverAuth",)),
        "aia_url": "http://pki.test/ca.cer",
        "cdp_url": "http://pki.test/ca.crl",
    }
    return Order(**{**fields, **changes})  # type: ignore[arg-type]  # each test gives fields of the right type


def sub_authority(
    upper: LocalIssuer = ROOT,
    *,
    key: PrivateKey | None = None,
    ca: bool = True,
    usage: bool = True,
    days: int = 30,
    since: timedelta = timedelta(hours=1),
) -> LocalIssuer:
    """Return an authority below ``upper``, as an operator's own PKI would make it, or one that lacks something."""
    key = key or generate(KeyAlgorithm.ECDSA_P384)
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Ours"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Sub of {upper.ski[:8]}"),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(upper.certificate.subject)
        .public_key(key.public_key())
        .serial_number(new_serial())
        .not_valid_before(NOW - since)
        .not_valid_after(NOW + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(_signs(may=usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(upper.key.public_key()), critical=False)
        .sign(upper.key, hashes.SHA256())
    )
    return LocalIssuer(key, (certificate.public_bytes(DER), *upper.chain))


def _signs(*, may: bool) -> x509.KeyUsage:
    """Return the key usage of an authority, or of one that may not be one."""
    flags = dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"), False)
    flags |= dict.fromkeys(("key_agreement", "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(key_cert_sign=may, crl_sign=may, **flags)


def deep_root() -> LocalIssuer:
    """Return a root that allows an authority below it, which ours does not."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Corporate root")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_signs(may=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return LocalIssuer(key, (certificate.public_bytes(DER),))


def openssl(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["openssl", *argv], capture_output=True, text=True, check=False)


def verified(folder: Path, leaf: bytes, root: bytes, between: tuple[bytes, ...] = (), *options: str) -> str:
    """Let OpenSSL build and check the chain, strictly; return what it says."""
    paths = {"leaf": to_pem(leaf), "root": to_pem(root), "between": b"".join(map(to_pem, between))}
    for name, pem in paths.items():
        (folder / f"{name}.pem").write_bytes(pem)
    untrusted = ["-untrusted", f"{folder}/between.pem"] if between else []
    argv = ["verify", "-x509_strict", "-CAfile", f"{folder}/root.pem", *untrusted, *options, f"{folder}/leaf.pem"]
    ended = openssl(*argv)
    return ended.stdout + ended.stderr


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.ECDSA_P256, KeyAlgorithm.RSA_2048, KeyAlgorithm.ED25519])
def test_openssl_accepts_a_leaf_of_every_kind_for_its_names(tmp_path: Path, algorithm: KeyAlgorithm) -> None:
    leaf = ROOT.sign(order("www.example.com", "192.0.2.1", "ops@example.com", key=generate(algorithm)))
    for check in ("-verify_hostname=www.example.com", "-verify_ip=192.0.2.1", "-verify_email=ops@example.com"):
        name, _, value = check.partition("=")
        assert verified(tmp_path, leaf, ROOT.chain[0], (), name, value).endswith(": OK\n")
    wrong = verified(tmp_path, leaf, ROOT.chain[0], (), "-verify_hostname", "other.example.com")
    assert "hostname mismatch" in wrong
    assert verified(tmp_path, leaf, ROOT.chain[0], (), "-purpose", "sslserver").endswith(": OK\n")
    assert "unsuitable certificate purpose" in verified(tmp_path, leaf, ROOT.chain[0], (), "-purpose", "sslclient")


def test_a_leaf_says_who_signed_it_and_where_that_can_be_asked() -> None:
    leaf = x509.load_der_x509_certificate(ROOT.sign(order("www.example.com")))
    extensions = leaf.extensions
    own = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    issuer = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert own == x509.SubjectKeyIdentifier.from_public_key(leaf.public_key())
    assert (issuer.key_identifier or b"").hex() == ROOT.ski
    (access,) = extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    (point,) = extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert access.access_location.value == "http://pki.test/ca.cer"
    assert [name.value for name in point.full_name or []] == ["http://pki.test/ca.crl"]
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    plain = x509.load_der_x509_certificate(ROOT.sign(order("www.example.com", aia_url="", cdp_url="")))
    assert len(plain.extensions) == len(extensions) - 2


KEY_USAGES: dict[tuple[str, ...], tuple[set[str], ...]] = {
    ("serverAuth",): ({"key_encipherment"}, set(), set()),
    ("clientAuth",): (set(), set(), set()),
    ("codeSigning",): (set(), set(), set()),
    ("emailProtection",): (
        {"content_commitment", "key_encipherment"},
        {"content_commitment", "key_agreement"},
        {"content_commitment"},
    ),
}
"""Beside digitalSignature: what a key may do that is RSA, ECDSA, Ed25519."""


@pytest.mark.parametrize("purposes", KEY_USAGES)
def test_the_key_usage_fits_the_key_and_its_purpose(tmp_path: Path, purposes: tuple[str, ...]) -> None:
    kinds = (KeyAlgorithm.RSA_2048, KeyAlgorithm.ECDSA_P256, KeyAlgorithm.ED25519)
    for algorithm, wanted in zip(kinds, KEY_USAGES[purposes], strict=True):
        usages = usage_oids(purposes)
        der = ROOT.sign(order("ada@example.com", key=generate(algorithm), extended_key_usages=usages))
        usage = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.KeyUsage).value
        flags = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign")
        assert {flag for flag in flags if getattr(usage, flag)} == wanted
        assert usage.digital_signature
        if purposes == ("emailProtection",):
            # OpenSSL's idea of encryption is RSA's alone.
            for purpose in ("smimesign", "smimeencrypt") if algorithm is KeyAlgorithm.RSA_2048 else ("smimesign",):
                assert verified(tmp_path, der, ROOT.chain[0], (), "-purpose", purpose).endswith(": OK\n")


def test_a_leaf_that_must_be_stapled_says_so_and_no_other_does() -> None:
    stapled = x509.load_der_x509_certificate(ROOT.sign(order("www.example.com", must_staple=True)))
    feature = stapled.extensions.get_extension_for_class(x509.TLSFeature)
    assert (feature.critical, list(feature.value)) == (False, [x509.TLSFeatureType.status_request])
    plain = x509.load_der_x509_certificate(ROOT.sign(order("www.example.com")))
    assert not [each for each in plain.extensions if each.oid == ExtensionOID.TLS_FEATURE]


def test_a_time_stamping_usage_is_critical(tmp_path: Path) -> None:
    leaf = ROOT.sign(order("tsa.example.com", extended_key_usages=usage_oids(("timeStamping",))))
    assert verified(tmp_path, leaf, ROOT.chain[0], (), "-purpose", "timestampsign").endswith(": OK\n")


@pytest.mark.parametrize("name", ["192.0.2.1", "2001:db8::1", "a" * 60 + ".example.com"])
def test_without_a_subject_the_names_are_critical(tmp_path: Path, name: str) -> None:
    der = ROOT.sign(order(name))
    leaf = x509.load_der_x509_certificate(der)
    assert list(leaf.subject) == []
    assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical is True
    assert verified(tmp_path, der, ROOT.chain[0]).endswith(": OK\n")
    named = x509.load_der_x509_certificate(ROOT.sign(order("www.example.com", name)))
    assert named.subject.rfc4514_string() == "CN=www.example.com"
    assert named.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical is False


def test_the_root_signs_leaves_only(tmp_path: Path) -> None:
    below = sub_authority()
    leaf = below.sign(order("www.example.com"))
    assert "path length" in verified(tmp_path, leaf, ROOT.chain[0], below.chain[:1])
    root = ROOT.certificate
    assert root.serial_number.bit_length() == 159
    usage = root.extensions.get_extension_for_class(x509.KeyUsage)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.digital_signature) == (True, True, False)


def test_a_subordinate_authority_serves_its_chain_without_the_root(tmp_path: Path) -> None:
    top = deep_root()
    middle = sub_authority(top)
    below = sub_authority(middle)
    assert check_authority(below, NOW) is below
    leaf = below.sign(order("www.example.com"))
    assert below.served_chain == below.chain[:2]
    assert verified(tmp_path, leaf, top.chain[0], below.served_chain).endswith(": OK\n")
    assert ROOT.served_chain == ()
    without_root = LocalIssuer(below.key, below.chain[:2])
    assert check_authority(without_root, NOW).served_chain == below.chain[:2]


@pytest.mark.parametrize(
    "issuer,problem",
    [
        (LocalIssuer(generate(KeyAlgorithm.ECDSA_P384), sub_authority().chain), "CERTCTL_CA_KEY_PATH is not the key"),
        (sub_authority(ca=False, usage=False), "CERTCTL_CA_CERT_PATH .* without CA:TRUE"),
        (sub_authority(usage=False), r"CERTCTL_CA_CERT_PATH .*\(keyUsage\)"),
        (sub_authority(days=-1, since=timedelta(days=9)), "CERTCTL_CA_CERT_PATH .* outside of its validity"),
        (sub_authority(since=timedelta(hours=-1)), "CERTCTL_CA_CERT_PATH .* outside of its validity"),
        (
            LocalIssuer(ROOT.key, (ROOT.chain[0], deep_root().chain[0])),
            "CERTCTL_CA_CERT_PATH must hold the CA first and then its issuers",
        ),
    ],
    ids=["wrong key", "no CA", "may not sign", "expired", "not yet", "chain out of order"],
)
def test_an_authority_that_cannot_sign_is_refused_by_the_variables_name(issuer: LocalIssuer, problem: str) -> None:
    with pytest.raises(Misconfigured, match=problem):
        check_authority(issuer, NOW)


def test_openssl_accepts_the_crl_and_reads_what_was_revoked(tmp_path: Path) -> None:
    leaf = ROOT.sign(order("www.example.com"))
    serial = x509.load_der_x509_certificate(leaf).serial_number
    revoked = [
        RevokedCertificate(serial, NOW, "keyCompromise"),
        RevokedCertificate(0xFF, NOW - timedelta(days=1), "unspecified"),
        RevokedCertificate(1, NOW),
    ]
    der = ROOT.sign_crl(7, revoked, NOW - timedelta(minutes=1), NOW + timedelta(hours=1))
    crl, root = tmp_path / "crl.der", tmp_path / "root.pem"
    crl.write_bytes(der)
    root.write_bytes(to_pem(ROOT.chain[0]))
    shown = openssl("crl", "-inform", "DER", "-in", str(crl), "-CAfile", str(root), "-text", "-noout")
    assert "verify OK" in shown.stderr
    assert f"{serial:X}" in shown.stdout
    assert shown.stdout.count("Key Compromise") == 1
    assert "Unspecified" not in shown.stdout, "RFC 5280 section 5.3.1: left out rather than said"
    assert "X509v3 CRL Number: \n                7" in shown.stdout
    pem = tmp_path / "crl.pem"
    pem.write_bytes(x509.load_der_x509_crl(der).public_bytes(PEM))
    assert "certificate revoked" in verified(tmp_path, leaf, ROOT.chain[0], (), "-crl_check", "-CRLfile", str(pem))
    other = ROOT.sign(order("other.example.com"))
    assert verified(tmp_path, other, ROOT.chain[0], (), "-crl_check", "-CRLfile", str(pem)).endswith(": OK\n")
