"""Dovecot: one certificate with its key in the PEM files that ``ssl_cert`` and ``ssl_key`` name.

The certificate file holds the leaf and its intermediates. Dovecot gives what ``ssl_cert`` names to every process that
asks for the configuration, so the key has a file of its own. ``doveconf -n`` reads the configuration and loads no
certificate, and a Dovecot without a pair it can load answers no TLS any more; so each staged pair is loaded with
OpenSSL first. This module does not read or edit Dovecot's configuration.
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
    ProbeConfig,
    Role,
    Runner,
    Service,
    ServiceCommands,
    StagedCheck,
    found,
)
from connectors.targets.pem import PEMConfig, load_pairs, pem_files, refuse_special

BINARIES = ("/usr/bin/doveadm", "/usr/local/bin/doveadm")
CONFIGS = ("/etc/dovecot/dovecot.conf", "/usr/local/etc/dovecot/dovecot.conf")

_SPECIAL = re.compile(r"[\x00-\x1f\x7f\"'\\$#]")
"""What Dovecot interprets in a value: quotes, variables and comments."""


class DovecotProbe(ProbeConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Dovecot listens, unless told otherwise."""

    port: Annotated[
        int,
        msgspec.Meta(description="TCP port: 993 or 995; 143, 110 or 24 with their protocols.", ge=1, le=65535),
    ] = 993


class DovecotConfig(PEMConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Dovecot reads its certificate from."""

    cert_path: Annotated[str, msgspec.Meta(description="File with leaf and chain, as ssl_cert names it.")]
    key_path: Annotated[str | None, msgspec.Meta(description="File with the key, as ssl_key names it; required.")] = (
        None
    )
    service: Annotated[HostName, msgspec.Meta(description="Name of this Dovecot in the host's agent.toml.")] = "dovecot"
    probe: Annotated[DovecotProbe, msgspec.Meta(description="Where the served certificate is looked at.")] = (
        DovecotProbe()
    )

    def __post_init__(self) -> None:
        """Refuse what Dovecot would read as something else; the messages start with the field at fault."""
        if self.layout == "combined":
            problem = "Dovecot shows what ssl_cert names to all its processes and to doveconf, the key with it"
            raise ValueError(f"layout: must not be combined: {problem}; choose current or separate, with a key_path")
        super().__post_init__()
        refuse_special(self, _SPECIAL, "Dovecot")


class DovecotTarget:
    """Describes installations for Dovecot."""

    config_type = DovecotConfig

    def files(self, config: DovecotConfig, material: Material) -> tuple[FileSpec, ...]:
        """Return the certificate, the key and, where asked for, the chain."""
        return pem_files(config, material)

    def commands(self, service: Service) -> ServiceCommands:
        """Return ``doveconf -n`` and ``doveadm reload`` on this service's own configuration.

        ``doveconf`` lies beside ``doveadm``, which is the service's binary.
        """
        doveadm, config = found(service, "binary", BINARIES), found(service, "config", CONFIGS)
        return ServiceCommands(
            check=Command((str(Path(doveadm).with_name("doveconf")), "-n", "-c", config)),
            reload=Command((doveadm, "-c", config, "reload")),
        )

    async def staged_check(
        self, service: Service, staged: Sequence[Mapping[Role, Path]], _scratch: Path, _runner: Runner
    ) -> StagedCheck:
        """Load the staged pairs with OpenSSL."""
        return await load_pairs(service, staged)


TARGET = DovecotTarget()
