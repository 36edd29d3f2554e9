"""Keystores without Java: what is put and what stays, what is told of a keystore that does not open."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from connectors.keystores import jks, pkcs12
from connectors.keystores.entry import KeystoreError, WrongPassword
from core.secret import Secret
from tests.connectors.keystores.entries import KINDS, PASSWORD, SECRET, Put, entry, put_jks, put_legacy, put_pkcs12


@pytest.mark.parametrize("kind, put", KINDS)
def test_a_keystore_does_not_grow_with_each_renewal(kind: str, put: Put) -> None:
    content = put(put(None, entry("other")), entry())
    sizes = set()
    for _ in range(5):
        content = put(content, entry())
        sizes.add(len(content) // 100)
    assert max(sizes) - min(sizes) <= 1, sizes


def test_the_other_entries_are_kept_byte_for_byte() -> None:
    content = put_jks(put_jks(None, entry("other")), entry())
    renewed = put_jks(content, entry())
    other = content[12 : content.index(b"server") - 6]
    assert len(other) > 500
    assert other in renewed


def test_a_change_of_encryption_is_made() -> None:
    made = entry()
    modern = put_pkcs12(None, made)
    legacy = put_legacy(modern, made)
    assert legacy != modern
    assert put_legacy(legacy, made) is legacy
    assert put_jks(put_jks(None, made), made, SECRET)


@pytest.mark.parametrize("kind, put", KINDS)
def test_a_wrong_password_changes_nothing_and_is_told(kind: str, put: Put) -> None:
    content = put(None, entry())
    with pytest.raises(WrongPassword, match="does not open with this password, or is damaged"):
        put(content, entry(), Secret("another"))


@pytest.mark.parametrize("kind, put", KINDS)
def test_what_is_damaged_is_refused(kind: str, put: Put) -> None:
    content = put(None, entry())
    for damaged in (
        content[:-1],
        content[:40],
        content[:100] + b"\0" + content[101:],
        b"0\x82\x00\x05\x02\x01\x030\x00",
    ):
        with pytest.raises(KeystoreError):
            put(damaged, entry())


def test_a_key_with_another_password_is_replaced() -> None:
    made = entry()
    content = jks.put(None, made, SECRET, Secret("another"))
    changed = jks.put(content, made, SECRET, Secret("a third"))
    assert changed != content
    assert jks.put(changed, made, SECRET, Secret("a third")) is changed


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_alone_is_read_by_openssl_and_left_when_it_is_right(tmp_path: Path, legacy: bool) -> None:
    made, path = entry(), tmp_path / "a.p12"
    protection = pkcs12.Protection(SECRET, legacy)
    path.write_bytes(pkcs12.replace(None, made, protection))
    argv = ["openssl", "pkcs12", "-in", str(path), "-info", "-nodes", "-passin", "env:P12", *(["-legacy"] * legacy)]
    shown = subprocess.run(argv, capture_output=True, text=True, check=False, env={"P12": PASSWORD})
    assert shown.stdout.count("BEGIN CERTIFICATE") == 2, shown.stderr
    assert shown.stdout.count("BEGIN PRIVATE") == 1
    assert ("pbeWithSHA1And3-KeyTripleDES-CBC" in shown.stderr) == legacy
    content = path.read_bytes()
    assert pkcs12.replace(content, made, protection) is content
    for changed, other in ((entry(), protection), (made, pkcs12.Protection(Secret("another"), legacy))):
        assert pkcs12.replace(content, changed, other) != content
    assert pkcs12.replace(put_pkcs12(content, entry("two")), made, protection) != content
