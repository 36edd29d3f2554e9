"""Apache httpd: one certificate with its key in PEM files that SSLCertificateFile and SSLCertificateKeyFile name.

The certificate file holds the leaf and its intermediates, as mod_ssl reads it since 2.4.8. ``httpd -t`` only sees
whether the files exist, and a pair that cannot be loaded ends Apache at the next graceful restart; so each staged pair
is loaded with OpenSSL first, as mod_ssl does. This module does not read or edit Apache's configuration.
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
from connectors.targets.pem import PATHS, PEMConfig, load_pairs, pem_files

BINARIES = (
    "/usr/sbin/apache2ctl",  # Debian's apache2 reads its configuration only with the variables that this one sets
    "/usr/sbin/httpd",
    "/usr/local/apache2/bin/httpd",
    "/usr/local/sbin/httpd",
)
CONFIGS = ("/etc/apache2/apache2.conf", "/etc/httpd/conf/httpd.conf", "/usr/local/apache2/conf/httpd.conf")

_SPECIAL = re.compile(r"[\x00-\x1f\x7f\"'\\$]")
"""What Apache interprets inside a quoted argument: quotes, backslashes, and variables."""


class ApacheConfig(PEMConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Apache reads its certificate from."""

    cert_path: Annotated[
        str, msgspec.Meta(description="File with leaf and chain, as SSLCertificateFile names it.", max_length=4000)
    ]
    key_path: Annotated[
        str | None,
        msgspec.Meta(description="File with the key, as SSLCertificateKeyFile names it; not with layout combined."),
    ] = None
    chain_path: Annotated[
        str | None, msgspec.Meta(description="File with the chain alone, for SSLCertificateChainFile of old versions.")
    ] = None
    service: Annotated[HostName, msgspec.Meta(description="Name of this Apache in the host's agent.toml.")] = "apache"

    def __post_init__(self) -> None:
        """Refuse what Apache would read as something else; the messages start with the field at fault."""
        super().__post_init__()
        for field in PATHS:
            if special := _SPECIAL.search(getattr(self, field) or ""):
                raise ValueError(f"{field}: holds {special[0]!r}, which Apache would interpret; choose another path")


class ApacheTarget:
    """Describes installations for Apache httpd."""

    config_type = ApacheConfig

    def files(self, config: ApacheConfig, material: Material) -> tuple[FileSpec, ...]:
        """Return the certificate, the key and, where asked for, the chain; or the one combined file."""
        return pem_files(config, material)

    def commands(self, service: Service) -> ServiceCommands:
        """Return ``httpd -t`` and ``httpd -k graceful`` on this service's own configuration."""
        binary = found(service, "binary", BINARIES)
        where = ("-f", found(service, "config", CONFIGS))
        return ServiceCommands(
            check=Command((binary, *where, "-t")), reload=Command((binary, *where, "-k", "graceful"))
        )

    async def staged_check(
        self, service: Service, staged: Sequence[Mapping[Role, Path]], _scratch: Path, _runner: Runner
    ) -> StagedCheck:
        """Load the staged pairs with OpenSSL."""
        return await load_pairs(service, staged)


TARGET = ApacheTarget()
