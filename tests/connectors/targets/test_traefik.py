"""What the Traefik connector describes; that a real Traefik takes it is in the journeys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from connectors.targets.base import CONFIG_MARK, FileSpec, Service, ServiceCommands
from connectors.targets.traefik import TraefikConfig, TraefikTarget
from tests.connectors.targets.trying import MATERIAL, Runner

SERVICE = Service(name="traefik", type="traefik")


def described(**config: Any) -> list[FileSpec]:
    given = {"cert_path": "/srv/a.crt", "key_path": "/srv/a.key", "dynamic_path": "/srv/dynamic/a.yaml", **config}
    return list(TraefikTarget().files(msgspec.convert(given, TraefikConfig), MATERIAL))


def dynamic(**config: Any) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(described(**config)[-1].content.reveal())
    return document


def test_the_dynamic_file_names_the_pair_and_comes_last() -> None:
    files = described()
    assert [(spec.role, spec.path) for spec in files] == [
        ("certificate", "/srv/a.crt"),
        ("key", "/srv/a.key"),
        ("config", "/srv/dynamic/a.yaml"),
    ]
    assert dynamic() == {"tls": {"certificates": [{"certFile": "/srv/a.crt", "keyFile": "/srv/a.key"}]}}


def test_one_file_is_named_twice() -> None:
    pair = {"certFile": "/srv/a.crt", "keyFile": "/srv/a.crt"}
    assert dynamic(layout="combined", key_path=None) == {"tls": {"certificates": [pair]}}


def test_the_default_certificate_is_asked_for() -> None:
    pair = {"certFile": "/srv/a.crt", "keyFile": "/srv/a.key"}
    assert dynamic(default_certificate=True)["tls"]["stores"] == {"default": {"defaultCertificate": pair}}


def test_each_version_changes_the_dynamic_file() -> None:
    """Traefik would not be told of one that stays the same."""
    target, config = TraefikTarget(), TraefikConfig(cert_path="/a", key_path="/b", dynamic_path="/c.yaml")
    first = target.files(config, MATERIAL)[-1].content.reveal()
    second = target.files(config, msgspec.structs.replace(MATERIAL, fingerprint="e" * 64))[-1].content.reveal()
    assert first.startswith(CONFIG_MARK)
    assert first != second


@pytest.mark.parametrize(
    "path, problem", [("dynamic/a.yaml", "absolute"), ("/srv/dynamic/a.toml", "must end in .yaml")]
)
def test_a_dynamic_path_that_cannot_be_is_refused(path: str, problem: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=f"dynamic_path: .*{problem}"):
        described(dynamic_path=path)


@pytest.mark.anyio
async def test_there_is_nothing_to_run(tmp_path: Path) -> None:
    assert TraefikTarget().commands(SERVICE) == ServiceCommands(check=None, reload=None)
    await TraefikTarget().staged_check(SERVICE, [{}], tmp_path, Runner())
