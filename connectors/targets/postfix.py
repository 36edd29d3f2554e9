"""Postfix: one certificate with its key, in the one file that ``smtpd_tls_chain_files`` names, or in two.

Postfix reads the key before the chain that belongs to it, so the file of layout ``combined`` begins with the key. It is
the default, since new smtpd processes read the files at any time: of two files they might read an old and a new one.
``postfix check`` looks at main.cf and loads no certificate, and an smtpd without a pair it can load offers no TLS any
more; so each staged pair is loaded with OpenSSL first. This module does not read or edit main.cf.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from connectors.probes.starttls import ProbeProtocol
from connectors.targets.base import (
    Command,
    FileSpec,
    HostName,
    Layout,
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

BINARIES = ("/usr/sbin/postfix", "/usr/local/sbin/postfix")
CONFIGS = ("/etc/postfix", "/usr/local/etc/postfix")

_SPECIAL = re.compile(r"[\x00-\x20\x7f,$]")
"""What ends a word of a list in main.cf, or names a parameter."""
_REASONS = "Postfix prints its reasons on terminals only; they are in the mail log"


class PostfixProbe(ProbeConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Postfix listens, unless told otherwise."""

    port: Annotated[int, msgspec.Meta(description="TCP port: 25, 587 or, with protocol tls, 465.", ge=1, le=65535)] = 25
    protocol: Annotated[
        ProbeProtocol, msgspec.Meta(description="smtp asks for STARTTLS; tls is for smtpd_tls_wrappermode.")
    ] = "smtp"


class PostfixConfig(PEMConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Postfix reads its certificate from."""

    cert_path: Annotated[
        str,
        msgspec.Meta(
            description="File with key, leaf and chain, as smtpd_tls_chain_files names it; with another layout than "
            "combined leaf and chain, as smtpd_tls_cert_file names them.",
            max_length=4000,
        ),
    ]
    key_path: Annotated[
        str | None,
        msgspec.Meta(description="File with the key, as smtpd_tls_key_file names it; not with layout combined."),
    ] = None
    layout: Annotated[Layout, msgspec.Meta(description="combined: one file, read at once; the others: two.")] = (
        "combined"
    )
    service: Annotated[HostName, msgspec.Meta(description="Name of this Postfix in the host's agent.toml.")] = "postfix"
    probe: Annotated[PostfixProbe, msgspec.Meta(description="Where the served certificate is looked at.")] = (
        PostfixProbe()
    )

    def __post_init__(self) -> None:
        """Refuse what Postfix would read as something else; the messages start with the field at fault."""
        super().__post_init__()
        refuse_special(self, _SPECIAL, "Postfix")


class PostfixTarget:
    """Describes installations for Postfix."""

    config_type = PostfixConfig

    def files(self, config: PostfixConfig, material: Material) -> tuple[FileSpec, ...]:
        """Return the one file, key first; or certificate, key and, where asked for, the chain."""
        return pem_files(config, material)

    def commands(self, service: Service) -> ServiceCommands:
        """Return ``postfix check`` and ``postfix reload`` on this service's folder of configuration; both need root."""
        where = (found(service, "binary", BINARIES), "-c", found(service, "config", CONFIGS))
        return ServiceCommands(
            check=Command((*where, "check"), reasons=_REASONS), reload=Command((*where, "reload"), reasons=_REASONS)
        )

    async def staged_check(
        self, service: Service, staged: Sequence[Mapping[Role, Path]], _scratch: Path, _runner: Runner
    ) -> StagedCheck:
        """Load the staged pairs with OpenSSL."""
        return await load_pairs(service, staged)


TARGET = PostfixTarget()
