"""Any daemon that reads its certificate from PEM files, or one PKCS#12 file, and that has no connector of its own.

How it is checked and reloaded is known to its host alone: by named actions of agent.toml, chosen by the target or by
the service's entry there. There is no trial of the staged files. Without a ``validate_action`` nothing is checked
before the reload: that a daemon did not take the new files is then noticed by what it serves, and undone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from connectors.keystores.entry import Entry
from connectors.keystores.installed import Alias, Encryption, check_mode, check_password, keystore_file
from connectors.targets.base import FileSpec, HostName, Material, Role, Runner, Service
from connectors.targets.pem import PARTS, PEMConfig, pem_files
from core.secret import Secret


class PKCS12Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a PKCS#12 file is written."""

    password: Annotated[
        Secret[str], msgspec.Meta(description="Password of the file.", extra_json_schema={"secret": True})
    ]
    alias: Annotated[Alias, msgspec.Meta(description="Friendly name of the key in it.")] = "server"
    encryption: Encryption = "modern"

    def __post_init__(self) -> None:
        """Refuse an empty password."""
        check_password("password", self.password)


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
    pkcs12: Annotated[
        PKCS12Config | None,
        msgspec.Meta(description="Makes cert_path a PKCS#12 file (.p12, .pfx) with key and chain; layout combined."),
    ] = None

    def __post_init__(self) -> None:
        """Hold the fields against each other; the messages start with the field at fault."""
        super().__post_init__()
        if self.pkcs12 is None:
            return
        if self.layout != "combined":
            raise ValueError("layout: must be combined with pkcs12, which is one file")
        for field, default in (("key_format", "pkcs8"), ("combined_order", PARTS)):
            if getattr(self, field) != default:
                raise ValueError(f"{field}: has no meaning for PKCS#12, which has its own; remove it")
        check_mode(self)


class FilesTarget:
    """Describes installations for a daemon that is known by its files alone."""

    config_type = FilesConfig

    def files(self, config: FilesConfig, material: Material) -> tuple[FileSpec, ...]:
        """Return the certificate, the key and, where asked for, the chain; or the one combined file."""
        if config.pkcs12 is None:
            return pem_files(config, material)
        entry, wanted = Entry.of(config.pkcs12.alias, material, config.chain), config.pkcs12

        def change(existing: bytes | None) -> bytes:
            # The parser comes with the agent; a coordinator knows this type without it.
            from connectors.keystores import pkcs12  # noqa: PLC0415 - see above

            return pkcs12.replace(existing, entry, pkcs12.Protection(wanted.password, wanted.encryption == "legacy"))

        return (keystore_file(config, config.cert_path, "config.pkcs12.password", change),)

    def commands(self, _service: Service) -> None:
        """Return none: only the host knows its commands."""

    async def staged_check(
        self, _service: Service, _staged: Sequence[Mapping[Role, Path]], _scratch: Path, _runner: Runner
    ) -> None:
        """Return none: nothing is known that could try the files."""


TARGET = FilesTarget()
