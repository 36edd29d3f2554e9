"""Traefik: one certificate with its key in PEM files, and a dynamic configuration file of its own that names them.

Traefik's file provider watches the folder of dynamic configuration files, not the files that these name: a changed PEM
file alone is never noticed. So the dynamic file is replaced last, by one rename, with each version; that is all a
reload there is. Traefik has no program to try files with and none that checks a configuration: what it does not take is
noticed by what it serves, and undone. This module reads and edits no other configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from connectors.targets.base import FileSpec, HostName, Material, Role, Runner, Service, ServiceCommands
from connectors.targets.pem import PEMConfig, check_watched_path, pair_paths, pem_files, watched_file


class TraefikConfig(PEMConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Traefik's file provider finds the certificate."""

    dynamic_path: Annotated[
        str,
        msgspec.Meta(
            description="Dynamic configuration file that certctl owns, .yaml or .yml, in the folder that "
            "providers.file.directory names.",
            max_length=4000,
        ),
    ]
    default_certificate: Annotated[
        bool, msgspec.Meta(description="Whether clients that ask for no known name get this certificate as well.")
    ] = False
    service: Annotated[HostName, msgspec.Meta(description="Name of this Traefik in the host's agent.toml.")] = "traefik"

    def __post_init__(self) -> None:
        """Hold the fields against each other; the messages start with the field at fault."""
        super().__post_init__()
        check_watched_path("dynamic_path", self.dynamic_path)


class TraefikTarget:
    """Describes installations for Traefik."""

    config_type = TraefikConfig

    def files(self, config: TraefikConfig, material: Material) -> tuple[FileSpec, ...]:
        """Return the PEM files and, last, the dynamic configuration."""
        certificate, key = pair_paths(config)
        pair = {"certFile": certificate, "keyFile": key}
        tls: dict[str, Any] = {"certificates": [pair]}
        if config.default_certificate:
            tls["stores"] = {"default": {"defaultCertificate": pair}}
        return (*pem_files(config, material), watched_file(config, config.dynamic_path, {"tls": tls}, material))

    def commands(self, _service: Service) -> ServiceCommands:
        """Return none of either: it watches its files."""
        return ServiceCommands(check=None, reload=None)

    async def staged_check(
        self, _service: Service, _staged: Sequence[Mapping[Role, Path]], _scratch: Path, _runner: Runner
    ) -> None:
        """Return none: Traefik has no such program."""


TARGET = TraefikTarget()
