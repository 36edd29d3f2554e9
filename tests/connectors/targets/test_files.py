"""What the connector for any daemon with PEM files describes, and that it brings no command of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12

from connectors.targets import registry
from connectors.targets.base import CommandResult, FileSpec, Material, Role, Service
from connectors.targets.files import FilesConfig, FilesTarget
from core import marking
from core.errors import InvalidInput
from core.secret import Secret
from tests.agent.deployment.authority import DER, Authority

MATERIAL = Material(b"LEAF\n", b"CHAIN\n", Secret(b"KEY\n"), "f" * 64)


def files(**config: Any) -> dict[Role, FileSpec]:
    return {spec.role: spec for spec in FilesTarget().files(FilesConfig(cert_path="/srv/a.crt", **config), MATERIAL)}


def test_each_file_holds_its_part() -> None:
    described = files(key_path="/srv/a.key", chain_path="/srv/a.chain", cert_mode="0440", owner="mail")
    contents = {spec.path: spec.content.reveal() for spec in described.values()}
    assert contents == {"/srv/a.crt": b"LEAF\nCHAIN\n", "/srv/a.key": b"KEY\n", "/srv/a.chain": b"CHAIN\n"}
    assert {role: spec.mode for role, spec in described.items()} == {"certificate": 0o440, "key": None, "chain": 0o440}
    assert {spec.owner for spec in described.values()} == {"mail"}


def test_one_combined_file_is_private() -> None:
    (described,) = files(layout="combined", key_mode="0640").values()
    assert described.content.reveal() == b"KEY\nLEAF\nCHAIN\n"
    assert (described.role, described.default_mode, described.mode) == ("combined", 0o600, 0o640)


def test_the_path_of_any_daemon_may_hold_what_one_daemon_interprets() -> None:
    config = registry.decode_config("files", {"cert_path": "/srv/{a}$.crt", "key_path": "/srv/a;.key"})
    assert config.service == "files"


@pytest.mark.parametrize(
    "config, field",
    [
        ({}, "config.cert_path"),
        ({"cert_path": "/srv/a.crt"}, "config.key_path"),
        ({"cert_path": "a.crt", "key_path": "/srv/a.key"}, "config.cert_path"),
        ({"cert_path": "/srv/a", "key_path": "/srv/a"}, "config.key_path"),
        ({"cert_path": "/srv/a", "layout": "combined", "chain_path": "/srv/c"}, "config.chain_path"),
        ({"cert_path": "/srv/a", "layout": "combined", "reload_command": "reboot"}, "config.reload_command"),
    ],
)
def test_wrong_fields_are_named(config: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        registry.decode_config("files", config)
    assert [error.field for error in caught.value.errors] == [field]


def test_every_field_is_explained() -> None:
    schema = registry.config_schema("files")["$defs"]["FilesConfig"]
    assert all(field.get("description") for field in schema["properties"].values())
    assert "no check" in schema["properties"]["validate_action"]["description"]


PKCS12 = {"cert_path": "/srv/a.p12", "layout": "combined", "pkcs12": {"password": "change-it"}}


def test_one_pkcs12_file_with_key_and_chain() -> None:
    issued = Authority().issue()
    leaf = issued.cert_pem.removesuffix(issued.chain_pem)
    config: Any = registry.decode_config("files", PKCS12)
    (spec,) = FilesTarget().files(config, Material(leaf, issued.chain_pem, issued.secret, issued.fingerprint))
    assert (spec.role, spec.path, spec.default_mode) == ("keystore", "/srv/a.p12", 0o600)
    assert spec.merge is not None
    made = spec.merge(None)
    store = pkcs12.load_pkcs12(made.reveal(), b"change-it")
    assert store.cert is not None
    assert (store.cert.friendly_name, len(store.additional_certs)) == (b"server", 1)
    assert store.cert.certificate.public_bytes(DER) == issued.chain[0]
    assert spec.merge(made) == made


@pytest.mark.parametrize(
    "change, field",
    [
        ({"layout": "separate", "key_path": "/srv/a.key"}, "config.layout"),
        ({"key_format": "traditional"}, "config.key_format"),
        ({"combined_order": ["chain", "certificate", "key"]}, "config.combined_order"),
        ({"cert_mode": "0644"}, "config.cert_mode"),
        ({"pkcs12": {"password": ""}}, "config.pkcs12.password"),
        ({"pkcs12": {}}, "config.pkcs12.password"),
        ({"pkcs12": {"password": "x", "encryption": "none"}}, "config.pkcs12.encryption"),
    ],
)
def test_wrong_fields_of_pkcs12_are_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        registry.decode_config("files", {**PKCS12, **change})
    assert [error.field for error in caught.value.errors] == [field]


def test_the_password_is_a_secret() -> None:
    assert marking.secret_fields(FilesConfig) == ("pkcs12.password",)


class NoRunner:
    """Runs nothing."""

    async def run(self, command: object) -> CommandResult:
        raise AssertionError(f"{command} was run")


@pytest.mark.anyio
async def test_only_the_host_knows_its_commands(tmp_path: Path) -> None:
    service = Service(name="web-1", type="files", binary="/usr/sbin/nginx")
    assert await FilesTarget().staged_check(service, [{"key": tmp_path}], tmp_path, NoRunner()) is None  # type: ignore[func-returns-value]
    assert FilesTarget().commands(service) is None  # type: ignore[func-returns-value]
