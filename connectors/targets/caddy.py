"""Caddy: one certificate with its key in PEM files that a ``tls`` directive or ``load_files`` names.

``caddy reload --force`` is what takes changed files into use: without ``--force`` Caddy compares configurations, finds
the same one and keeps the old certificate. The staged pair is tried by ``caddy validate`` with a configuration that
loads nothing else, which needs no privilege. This module does not read or edit a Caddyfile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from connectors.targets.base import (
    Command,
    FileSpec,
    HostName,
    Material,
    Role,
    Runner,
    Service,
    ServiceCommands,
    StagedCheck,
    found,
)
from connectors.targets.pem import PEMConfig, pem_files, staged_pair
from core.errors import Misconfigured

BINARIES = ("/usr/bin/caddy", "/usr/local/bin/caddy")
CONFIGS = ("/etc/caddy/Caddyfile", "/etc/caddy/caddy.json")

_LOCAL = re.compile(r"unix//\S+|(?:localhost|127\.\d+\.\d+\.\d+|\[::1\]):\d{1,5}")


class CaddyConfig(PEMConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Caddy reads its certificate from."""

    service: Annotated[HostName, msgspec.Meta(description="Name of this Caddy in the host's agent.toml.")] = "caddy"


class CaddyTarget:
    """Describes installations for Caddy."""

    config_type = CaddyConfig

    def files(self, config: CaddyConfig, material: Material) -> tuple[FileSpec, ...]:
        """Return the certificate, the key and, where asked for, the chain; or the one combined file."""
        return pem_files(config, material)

    def commands(self, service: Service) -> ServiceCommands:
        """Return ``caddy validate`` and ``caddy reload --force`` on this service's own configuration."""
        binary = found(service, "binary", BINARIES)
        config = found(service, "config", CONFIGS)
        where = ("--config", config, *(() if config.endswith(".json") else ("--adapter", "caddyfile")))
        address = ("--address", _address(service)) if service.admin else ()
        return ServiceCommands(
            check=Command((binary, "validate", *where)),
            reload=Command((binary, "reload", "--force", *where, *address)),
        )

    async def staged_check(
        self, service: Service, staged: Sequence[Mapping[Role, Path]], scratch: Path, _runner: Runner
    ) -> StagedCheck:
        """Describe ``caddy validate`` on a configuration that loads only the staged pairs."""
        pairs = [dict(zip(("certificate", "key"), staged_pair(files), strict=True)) for files in staged]
        config = {
            "admin": {"disabled": True},
            "storage": {"module": "file_system", "root": f"{scratch}/storage"},
            # Without the second it asks the certificates' OCSP responders, and waits for them.
            "apps": {"tls": {"certificates": {"load_files": pairs}, "disable_ocsp_stapling": True}},
        }
        binary = found(service, "binary", BINARIES)
        command = Command((binary, "validate", "--config", f"{scratch}/caddy.json"))
        return StagedCheck({"caddy.json": msgspec.json.encode(config).decode()}, command)


TARGET = CaddyTarget()


def _address(service: Service) -> str:
    if not _LOCAL.fullmatch(service.admin):
        remedy = "name a loopback address (localhost:2019) or a socket (unix//run/caddy/admin.sock)"
        raise Misconfigured(f"caddy: admin of [services.{service.name}] in agent.toml is not local; {remedy}")
    return service.admin
