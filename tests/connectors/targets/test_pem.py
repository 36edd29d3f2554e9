"""What PEM files hold: chain, order, format of the key, and what else stood there."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from connectors.targets.base import FileSpec, Material, Role
from connectors.targets.pem import PEMConfig, keep_foreign, pem_files
from core.errors import InvalidInput
from core.secret import Secret

MATERIAL = Material(b"LEAF\n", b"CHAIN\n", Secret(b"KEY\n"), "f" * 64, b"ROOT\n")
DH = b"-----BEGIN DH PARAMETERS-----\nMAYCAQ==\n-----END DH PARAMETERS-----"


def block(label: str, body: str = "AAAA") -> bytes:
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n".encode()


def files(material: Material = MATERIAL, **config: Any) -> dict[Role, FileSpec]:
    return {spec.role: spec for spec in pem_files(PEMConfig(service="x", **config), material)}


def contents(**config: Any) -> dict[Role, bytes]:
    described = files(cert_path="/srv/a.crt", key_path="/srv/a.key", chain_path="/srv/a.chain", **config)
    return {role: spec.content.reveal() for role, spec in described.items()}


def combined(**config: Any) -> bytes:
    return files(cert_path="/srv/a.pem", layout="combined", **config)["combined"].content.reveal()


@pytest.mark.parametrize(
    "chain, certificate, above",
    [
        ("without_root", b"LEAF\nCHAIN\n", b"CHAIN\n"),
        ("with_root", b"LEAF\nCHAIN\nROOT\n", b"CHAIN\nROOT\n"),
        ("leaf_only", b"LEAF\n", b"CHAIN\n"),
    ],
)
def test_the_chain_is_as_long_as_asked_for(chain: str, certificate: bytes, above: bytes) -> None:
    assert contents(chain=chain) == {"certificate": certificate, "key": b"KEY\n", "chain": above}
    assert combined(chain=chain) == b"KEY\n" + certificate


def test_a_root_that_nobody_knows_is_not_left_out_silently() -> None:
    rootless = Material(b"LEAF\n", b"CHAIN\n", Secret(b"KEY\n"), "f" * 64)
    with pytest.raises(InvalidInput, match="does not know this issuer's root; choose without_root") as caught:
        files(rootless, cert_path="/srv/a.pem", layout="combined", chain="with_root")
    assert caught.value.errors[0].field == "config.chain"


def test_one_file_in_any_order() -> None:
    assert combined(combined_order=("certificate", "chain", "key")) == b"LEAF\nCHAIN\nKEY\n"
    assert combined(combined_order=("certificate", "key", "chain")) == b"LEAF\nKEY\nCHAIN\n"


@pytest.mark.parametrize("order", [(), ("key", "certificate"), ("key", "certificate", "chain", "key")])
def test_an_order_names_each_part_once(order: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="combined_order: must name each of key, certificate, chain once"):
        combined(combined_order=order)


@pytest.mark.parametrize(
    "key, label", [(ec.generate_private_key(ec.SECP384R1()), b"EC"), (rsa.generate_private_key(65537, 2048), b"RSA")]
)
def test_the_traditional_format_of_a_key(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, label: bytes) -> None:
    text = combined(material=material_of(key), key_format="traditional")
    assert text.startswith(b"-----BEGIN " + label + b" PRIVATE KEY-----\n")
    assert serialization.load_pem_private_key(text, None).private_numbers() == key.private_numbers()  # type: ignore[union-attr]
    assert combined(material=material_of(key)).startswith(b"-----BEGIN PRIVATE KEY-----\n")


def test_an_ed25519_key_has_no_traditional_format() -> None:
    with pytest.raises(InvalidInput, match="RSA and EC keys alone; choose pkcs8") as caught:
        combined(material=material_of(ed25519.Ed25519PrivateKey.generate()), key_format="traditional")
    assert caught.value.errors[0].field == "config.key_format"


def material_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> Material:
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return Material(b"LEAF\n", b"", Secret(key.private_bytes(pem, pkcs8, serialization.NoEncryption())), "f" * 64)


@pytest.mark.parametrize(
    "existing, kept",
    [
        (b"", b""),
        (block("CERTIFICATE") + block("RSA PRIVATE KEY") + block("X509 CERTIFICATE"), b""),
        (block("PRIVATE KEY") + DH + b"\n" + block("CERTIFICATE"), DH + b"\n"),
        (block("CERTIFICATE") + b"# a comment\n" + DH, DH + b"\n"),
        (block("EC PARAMETERS") + block("EC PRIVATE KEY") + block("CERTIFICATE"), b""),
        (block("PRIVATE KEY") + block("EC PARAMETERS") + DH, block("EC PARAMETERS") + DH + b"\n"),
        (b"-----BEGIN DH PARAMETERS-----\nand nothing more", b""),
    ],
)
def test_what_is_neither_certificate_nor_key_stays(existing: bytes, kept: bytes) -> None:
    once = keep_foreign(b"NEW\n", Secret(existing))
    assert once.reveal() == b"NEW\n" + kept
    assert keep_foreign(b"NEW\n", once) == once


def test_only_files_with_a_certificate_keep_something() -> None:
    described = files(cert_path="/srv/a.crt", key_path="/srv/a.key", chain_path="/srv/a.chain")
    assert {role for role, spec in described.items() if spec.merge} == {"certificate"}
    assert files(cert_path="/srv/a.pem", layout="combined")["combined"].merge
