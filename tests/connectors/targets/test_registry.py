"""The registry: types, typed configurations, and the JSON schema that forms and documents come from."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from typing import Any

import pytest

from connectors.targets import nginx, registry
from core.errors import InvalidInput, Misconfigured

GOOD = {"cert_path": "/srv/a.crt", "key_path": "/srv/a.key"}


def entry_points(*values: tuple[str, str]) -> metadata.EntryPoints:
    return metadata.EntryPoints(
        [metadata.EntryPoint(name, value, registry.ENTRY_POINT_GROUP) for name, value in values]
    )


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = entry_points(("theirs", "connectors.targets.nginx:TARGET"), ("broken", "not_installed:TARGET"))
    monkeypatch.setattr(metadata, "entry_points", entries.select)


def test_built_in_types_are_found() -> None:
    assert "nginx" in registry.known_types()
    assert not {"base", "pem", "registry"} & set(registry.known_types())
    assert registry.find("nginx") is nginx.TARGET


@pytest.mark.parametrize("name", ["", "Nginx", "base", "pem", "registry", "os", "..nginx", "nginx.TARGET"])
def test_unknown_types_are_refused_with_those_that_exist(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"known are .*nginx"):
        registry.find(name)


@pytest.mark.usefixtures("third_party")
def test_third_parties_are_found() -> None:
    assert "theirs" in registry.known_types()
    assert registry.find("theirs") is nginx.TARGET
    with pytest.raises(Misconfigured, match="'broken' cannot be loaded"):
        registry.find("broken")


def test_connectors_are_imported_on_use_and_bring_no_event_loop() -> None:
    code = (
        "import sys; from connectors.targets import registry; registry.known_types();"
        "assert 'connectors.targets.nginx' not in sys.modules; registry.find('nginx'); assert 'trio' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    "change, field, words",
    [
        ({"reload_command": "x"}, "config.reload_command", "not a known field"),
        ({"cert_path": None}, "config.cert_path", "is required"),
        ({"cert_path": 3}, "config.cert_path", "expected `str`"),
        ({"cert_path": "a.crt"}, "config.cert_path", "absolute"),
        ({"cert_path": "/srv/$host.crt"}, "config.cert_path", "'$'"),
        ({"key_path": '/srv/a".key'}, "config.key_path", "'\"'"),
        ({"key_path": "/srv/a;b"}, "config.key_path", "';'"),
        ({"chain_path": "/srv/a\n"}, "config.chain_path", "interpret"),
        ({"key_path": None}, "config.key_path", "is required"),
        ({"key_path": "/srv/a.crt"}, "config.key_path", "different files"),
        ({"layout": "combined"}, "config.key_path", "remove it"),
        ({"layout": "combined", "chain_path": "/srv/c"}, "config.chain_path", "remove it"),
        ({"layout": "other"}, "config.layout", "invalid enum value"),
        ({"key_mode": "0644"}, "config.key_mode", "invalid enum value"),
        ({"cert_mode": "0666"}, "config.cert_mode", "invalid enum value"),
        ({"probe": {"port": 0}}, "config.probe.port", ">= 1"),
        ({"probe": {"prot": 443}}, "config.probe.prot", "not a known field"),
        ({"probe": {"timeout_s": 0}}, "config.probe.timeout_s", ">= 0.2"),
        ({"keep": -1}, "config.keep", ">= 0"),
        ({"service": "a b"}, "config.service", "regex"),
        ({"reload_action": "../x"}, "config.reload_action", "regex"),
    ],
)
def test_wrong_fields_are_named(change: dict[str, Any], field: str, words: str) -> None:
    config = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    with pytest.raises(InvalidInput) as caught:
        registry.decode_config("nginx", config)
    (wrong,) = caught.value.errors
    assert wrong.field == field
    assert words in wrong.problem


def test_the_schema_helps_and_refuses_unknown_fields() -> None:
    schema = registry.config_schema("nginx")["$defs"]["NginxConfig"]
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["cert_path"]
    assert all(field.get("description") for field in schema["properties"].values())
