"""A connector with secrets, as a third party would offer one: PEM files, and a login that its daemon wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from connectors.targets import registry
from connectors.targets.base import Command, FileSpec, Material, Role, Runner, Service, ServiceCommands
from connectors.targets.pem import PEMConfig, pem_files
from core.marking import SECRET
from core.secret import Secret


class Login(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    user: str
    password: Annotated[Secret[str], msgspec.Meta(description="A password.", extra_json_schema={"secret": True})]


class SecretiveConfig(PEMConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A daemon with a login."""

    service: str = "secretive"
    pin: Annotated[Secret[str] | None, SECRET] = None
    login: Login | None = None


class SecretiveTarget:
    config_type = SecretiveConfig

    def __init__(self) -> None:
        self.seen: list[SecretiveConfig] = []

    def files(self, config: SecretiveConfig, material: Material) -> tuple[FileSpec, ...]:
        self.seen.append(config)
        return pem_files(config, material)

    def commands(self, _service: Service) -> ServiceCommands:
        return ServiceCommands(check=None, reload=Command(("/bin/true",)))

    async def staged_check(
        self, _service: Service, _staged: Sequence[Mapping[Role, Path]], _scratch: Path, _runner: Runner
    ) -> None:
        return None


TARGET = SecretiveTarget()


def offer(monkeypatch: pytest.MonkeyPatch) -> SecretiveTarget:
    """Offer the connector by an entry point, as an installed package does, and forget what it has seen."""
    entries = [
        metadata.EntryPoint("secretive", f"{__name__}:TARGET", registry.ENTRY_POINT_GROUP),
        metadata.EntryPoint("broken", "not_installed:TARGET", registry.ENTRY_POINT_GROUP),
    ]
    monkeypatch.setattr(metadata, "entry_points", metadata.EntryPoints(entries).select)
    TARGET.seen.clear()
    return TARGET
