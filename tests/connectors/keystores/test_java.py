"""Keystores between certctl and Java: keytool reads what was written here, and finds all of what it wrote itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from asn1crypto import pkcs12 as asn1
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from connectors.keystores import keytool
from connectors.keystores.entry import DER, KeystoreError, WrongPassword
from core.secret import Secret
from tests.agent.deployment.authority import Key
from tests.connectors.keystores.entries import (
    AUTHORITY,
    KINDS,
    PASSWORD,
    SECRET,
    Put,
    entry,
    prints,
    put_jks,
    put_pkcs12,
)
from tests.connectors.keystores.keytool import KEYTOOL, Keytool

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind, put", KINDS)
@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)], ids=["ec", "rsa"]
)
def test_java_reads_and_uses_a_new_keystore(tmp_path: Path, kind: str, put: Put, key: Key) -> None:
    made = entry(key=key)
    java = Keytool(tmp_path / "store", kind)
    java.path.write_bytes(put(None, made))
    assert java.listed() == {"PrivateKeyEntry server": prints(made)}
    assert java.signs("server")


@pytest.fixture(scope="module", params=[("JKS", False), ("PKCS12", False), ("PKCS12", True)], ids=str)
def written_by_java(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Keytool:
    """A keystore with keys and trusted certificates, by keytool; the last as Java 8 wrote it (3DES, RC2-40)."""
    kind, old = request.param
    folder = tmp_path_factory.mktemp("java")
    java = Keytool(folder / "store", kind, old=old)
    java.generate("Other", "EC")
    java.generate("server", "RSA")
    (folder / "root.der").write_bytes(AUTHORITY.certificate.public_bytes(DER))
    java.trust("trusted", folder / "root.der")
    return java


def test_what_java_wrote_stays(written_by_java: Keytool, tmp_path: Path) -> None:
    put = put_jks if written_by_java.kind == "JKS" else put_pkcs12
    java = Keytool(tmp_path / "store", written_by_java.kind)
    content, before = written_by_java.path.read_bytes(), written_by_java.listed()
    for made in (entry("SERVER"), entry(), entry("third"), entry("server")):
        content = put(content, made)
        assert put(content, made) is content
        before |= {f"PrivateKeyEntry {made.alias.lower()}": prints(made)}
    java.path.write_bytes(content)
    assert java.listed() == before
    assert len(before) == 4
    assert all(java.signs(alias) for alias in ("other", "server"))


def test_java_goes_on_with_what_was_written_here(tmp_path: Path) -> None:
    java = Keytool(tmp_path / "store", "PKCS12")
    java.path.write_bytes(put_pkcs12(put_pkcs12(None, entry("one")), entry("two")))
    java.generate("three", "EC")
    renewed = entry("one")
    java.path.write_bytes(put_pkcs12(java.path.read_bytes(), renewed))
    listed = java.listed()
    assert listed["PrivateKeyEntry one"] == prints(renewed)
    assert {*listed} == {f"PrivateKeyEntry {alias}" for alias in ("one", "two", "three")}


def test_a_trusted_certificate_is_no_place_for_a_key(written_by_java: Keytool) -> None:
    put = put_jks if written_by_java.kind == "JKS" else put_pkcs12
    with pytest.raises(KeystoreError, match="trusted certificate as 'TRUSTED'; choose another alias"):
        put(written_by_java.path.read_bytes(), entry("TRUSTED"))


def encrypted_key(content: bytes, alias: str) -> bytes:
    """Return the bag of a key as it stands in a PKCS#12 file."""
    for info in asn1.Pfx.load(content).authenticated_safe:
        if info["content_type"].native == "data":
            for bag in asn1.SafeContents.load(bytes(info["content"])):
                if [alias] in [one["values"].native for one in bag["bag_attributes"]]:
                    return bytes(bag.dump())
    raise AssertionError(alias)


def test_the_encrypted_keys_of_others_are_kept_byte_for_byte(written_by_java: Keytool) -> None:
    if written_by_java.kind == "PKCS12":
        before = written_by_java.path.read_bytes()
        renewed = put_pkcs12(before, entry())
        assert encrypted_key(renewed, "other") == encrypted_key(before, "other")
        assert encrypted_key(renewed, "server") != encrypted_key(before, "server")


@pytest.mark.parametrize("kind", ["JKS", "PKCS12"])
def test_keytool_itself_puts_an_entry_among_others(tmp_path: Path, kind: str) -> None:
    java, store = Keytool(tmp_path / "store", kind), keytool.Keystore(kind, SECRET, SECRET)
    first = entry("Server")
    content = keytool.put(None, first, store)
    assert keytool.put(content, first, store) is content
    java.path.write_bytes(content)
    java.generate("other", "EC")
    (tmp_path / "root.der").write_bytes(AUTHORITY.certificate.public_bytes(DER))
    java.trust("trusted", tmp_path / "root.der")
    before, renewed = java.listed(), entry("server")
    java.path.write_bytes(keytool.put(java.path.read_bytes(), renewed, store))
    assert java.listed() == before | {"PrivateKeyEntry server": prints(renewed)}
    assert java.signs("server")
    with pytest.raises(KeystoreError, match="holds something else than a key as 'trusted'"):
        keytool.put(java.path.read_bytes(), entry("trusted"), store)


def test_what_keytool_complains_of_is_told_without_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = keytool.Keystore("PKCS12", SECRET, SECRET)
    content = keytool.put(None, entry(), store)
    with pytest.raises(WrongPassword, match="does not open with this password"):
        keytool.put(content, entry(), keytool.Keystore("PKCS12", Secret("another"), Secret("another")))
    with pytest.raises(KeystoreError) as damaged:
        keytool.put(content[:200], entry(), store)
    assert PASSWORD not in str(damaged.value)
    monkeypatch.setattr("connectors.keystores.keytool._PLACES", str(tmp_path))
    with pytest.raises(KeystoreError, match=r"there is none in .* install a Java, or leave writer out"):
        keytool.put(content, entry(), store)


def test_no_password_is_among_the_arguments_of_keytool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen by a program in its place."""
    seen = tmp_path / "seen"
    (tmp_path / "keytool").write_text(f'#!/bin/sh\necho "$@" >> "{seen}"\nexec {KEYTOOL} "$@"\n')
    (tmp_path / "keytool").chmod(0o755)
    monkeypatch.setattr("connectors.keystores.keytool._PLACES", f"{tmp_path}:/usr/bin:/bin")
    store = keytool.Keystore("JKS", SECRET, Secret("the-key-s-own"))
    keytool.put(keytool.put(None, entry(), store), entry(), store)
    told = seen.read_text()
    assert told.count("-importkeystore") == 2
    assert PASSWORD not in told
    assert "the-key-s-own" not in told
