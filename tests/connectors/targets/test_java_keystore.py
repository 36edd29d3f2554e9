"""What the connector for keystores of Java describes: the merged file, its refusals, and where passwords are not."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12

from connectors.targets import registry
from connectors.targets.base import FileSpec, Material
from core import marking
from core.errors import CertctlError, InvalidInput, Refused
from core.secret import Secret
from tests.agent.deployment.authority import DER, PEM, Authority, Issued

AUTHORITY = Authority()
PATH = "/srv/app/keystore.p12"
WORD = "change-it"
BASE = {"keystore_path": PATH, "keystore_password": WORD}


def material(issued: Issued | None = None) -> Material:
    made = issued or AUTHORITY.issue()
    leaf = made.cert_pem.removesuffix(made.chain_pem)
    return Material(leaf, made.chain_pem, made.secret, made.fingerprint, AUTHORITY.root.public_bytes(PEM))


def described(made: Material | None = None, **config: Any) -> FileSpec:
    decoded: Any = registry.decode_config("java_keystore", {**BASE, **config})
    connector: Any = registry.find("java_keystore")
    (spec,) = connector.files(decoded, made or material())
    assert isinstance(spec, FileSpec)
    return spec


def merged(existing: bytes | None = None, made: Material | None = None, **config: Any) -> bytes:
    merge = described(made, **config).merge
    assert merge is not None
    return merge(None if existing is None else Secret(existing)).reveal()


def test_one_private_file_with_one_entry() -> None:
    spec, issued = described(key_mode="0640", owner="tomcat"), AUTHORITY.issue()
    assert (spec.role, spec.path, spec.owner) == ("keystore", PATH, "tomcat")
    assert (spec.default_mode, spec.mode) == (0o600, 0o640)
    store = pkcs12.load_pkcs12(merged(made=material(issued), alias="web"), WORD.encode())
    assert store.cert is not None
    assert store.cert.friendly_name == b"web"
    assert sha256(store.cert.certificate.public_bytes(DER)).hexdigest() == issued.fingerprint
    assert [one.certificate for one in store.additional_certs] == [AUTHORITY.certificate]


@pytest.mark.parametrize("chain, above", [("leaf_only", 0), ("without_root", 1), ("with_root", 2)])
def test_the_chain_is_as_long_as_asked_for(chain: str, above: int) -> None:
    store = pkcs12.load_pkcs12(merged(chain=chain), WORD.encode())
    assert len(store.additional_certs) == above


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"encryption": "legacy"},
        {"keystore_type": "JKS"},
        {"keystore_type": "JKS", "key_password": "x"},
        {"writer": "keytool"},
        {"writer": "keytool", "keystore_type": "JKS", "key_password": "another"},
    ],
)
def test_what_is_there_already_is_left_as_it_is(config: dict[str, Any]) -> None:
    made = material()
    content = merged(made=made, **config)
    assert merged(content, made, **config) == content
    assert merged(content, **config) != content


def test_a_keystore_is_only_made_where_that_is_wanted() -> None:
    with pytest.raises(Refused, match=f"the keystore {PATH} does not exist, and create_keystore is false"):
        merged(create_keystore=False)
    assert merged(merged(), create_keystore=False)
    assert merged(b"\n")


def test_a_wrong_password_names_its_field_and_shows_no_password() -> None:
    for kind in ("PKCS12", "JKS"):
        other = merged(keystore_type=kind, keystore_password="another-word")
        with pytest.raises(InvalidInput) as caught:
            merged(other, keystore_type=kind)
        assert caught.value.errors[0].field == "config.keystore_password"
        assert f"the keystore {PATH} does not open with this password" in caught.value.detail
        assert not any(word in str(caught.value) for word in (WORD, "another-word"))


@pytest.mark.parametrize("kind, found", [("JKS", "PKCS12"), ("PKCS12", "JKS")])
def test_the_other_type_is_told_apart(kind: str, found: str) -> None:
    with pytest.raises(CertctlError, match=f"is of type {found}; set keystore_type to that, or convert"):
        merged(merged(keystore_type=found), keystore_type=kind)


@pytest.mark.parametrize(
    "change, field, words",
    [
        ({"keystore_path": "keystore.p12"}, "config.keystore_path", "absolute"),
        ({"keystore_password": None}, "config.keystore_password", "is required"),
        ({"keystore_password": ""}, "config.keystore_password", "empty"),
        ({"keystore_password": "pässword"}, "config.keystore_password", "ASCII"),
        ({"key_password": "other"}, "config.key_password", "remove it"),
        ({"key_password": "", "keystore_type": "JKS"}, "config.key_password", "empty"),
        ({"keystore_type": "JKS", "encryption": "legacy"}, "config.encryption", "remove it"),
        ({"keystore_type": "JCEKS"}, "config.keystore_type", "enum"),
        ({"alias": ""}, "config.alias", "regex"),
        ({"cert_mode": "0644"}, "config.cert_mode", "key_mode"),
        ({"layout": "current"}, "config.layout", "enum"),
        ({"chain": "all"}, "config.chain", "enum"),
        ({"reload_command": "reboot"}, "config.reload_command", "not a known field"),
    ],
)
def test_wrong_fields_are_named(change: dict[str, Any], field: str, words: str) -> None:
    config = {key: value for key, value in {**BASE, **change}.items() if value is not None}
    with pytest.raises(InvalidInput) as caught:
        registry.decode_config("java_keystore", config)
    (wrong,) = caught.value.errors
    assert wrong.field == field
    assert words in wrong.problem


def test_passwords_are_secrets_and_every_field_is_explained() -> None:
    config_type: Any = registry.find("java_keystore").config_type
    assert set(marking.secret_fields(config_type)) == {"keystore_password", "key_password"}
    schema = registry.config_schema("java_keystore")["$defs"]["JavaKeystoreConfig"]
    assert all(field.get("description") for field in schema["properties"].values())
    assert set(schema["required"]) == set(BASE)


@pytest.mark.anyio
async def test_only_the_host_knows_its_commands(tmp_path: Path) -> None:
    connector: Any = registry.find("java_keystore")
    assert connector.commands(None) is None
    assert await connector.staged_check(None, [{"keystore": tmp_path}], tmp_path, None) is None


def test_a_missing_library_is_told_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "connectors.keystores.jks", raising=False)
    monkeypatch.setitem(sys.modules, "jks", None)
    with pytest.raises(Refused, match=r"is of type JKS, for which .* run: pip install 'certctl\[jks\]'"):
        merged(keystore_type="JKS")
    assert merged()


def test_a_coordinator_knows_the_type_without_the_parsers() -> None:
    code = (
        "import sys; sys.modules.update({'asn1crypto': None, 'Cryptodome': None, 'jks': None});"
        "from connectors.targets import registry;"
        "[registry.config_schema(name) for name in ('files', 'java_keystore')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
