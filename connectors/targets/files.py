"""Any daemon that reads its certificate from PEM files, for which certctl has no connector of its own.

How it is checked and reloaded is known to its host alone: by named actions of agent.toml, chosen by the target or by
the service's entry there. There is no trial of the staged files. Without a ``validate_action`` nothing is checked
before the reload: that a daemon did not take the new files is then noticed by what it serves, and undone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from connectors.targets.base import FileSpec, HostName, Material, Role, Runner, Service
from connectors.targets.pem import PEMConfig, pem_files


class FilesConfig(PEMConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which files a daemon reads, and what this host calls it."""

    service: Annotated[HostName, msgspec.Meta(description="Name of the daemon in the host's agent.toml.")] = "files"
    validate_action: Annotated[
        HostName | None,
        msgspec.Meta(
            description="Named action of agent.toml that checks the live configuration; default: the service's. "
            "Without either there is no check before the reload."
        ),
    ] = None
    reload_action: Annotated[
        HostName | None,
        msgspec.Meta(
            description="Named action of agent.toml that reloads the daemon; default: the service's. One is required."
        ),
    ] = None


class FilesTarget:
    """Describes installations for a daemon that is known by its files alone."""

    config_type = FilesConfig

    def files(self, config: FilesConfig, material: Material) -> tuple[FileSpec, ...]:
        """Return the certificate, the key and, where asked for, the chain; or the one combined file."""
        return pem_files(config, material)

    def commands(self, _service: Service) -> None:
        """Return none: only the host knows its commands."""

    async def staged_check(
        self, _service: Service, _staged: Sequence[Mapping[Role, Path]], _scratch: Path, _runner: Runner
    ) -> None:
        """Return none: nothing is known that could try the files."""


TARGET = FilesTarget()
