"""lighttpd: one certificate with its key in PEM files that ``ssl.pemfile`` and ``ssl.privkey`` name.

The staged pair is tried by ``lighttpd -tt`` with a configuration that loads nothing else, which needs no privilege.
This module does not read or edit lighttpd.conf.
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
    signalled,
)
from connectors.targets.pem import PEMConfig, pair_of, pem_files, refuse_special

BINARIES = ("/usr/sbin/lighttpd", "/usr/local/sbin/lighttpd", "/usr/bin/lighttpd", "/usr/local/bin/lighttpd")
CONFIGS = ("/etc/lighttpd/lighttpd.conf", "/usr/local/etc/lighttpd/lighttpd.conf")
PID_FILE = "/run/lighttpd.pid"

_SPECIAL = re.compile(r"[\x00-\x1f\x7f\"\\]")
"""What lighttpd interprets inside a quoted text."""


class LighttpdConfig(PEMConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where lighttpd reads its certificate from."""

    service: Annotated[HostName, msgspec.Meta(description="Name of this lighttpd in the host's agent.toml.")] = (
        "lighttpd"
    )

    def __post_init__(self) -> None:
        """Refuse what lighttpd would read as something else; the messages start with the field at fault."""
        super().__post_init__()
        refuse_special(self, _SPECIAL, "lighttpd")


class LighttpdTarget:
    """Describes installations for lighttpd."""

    config_type = LighttpdConfig

    def files(self, config: LighttpdConfig, material: Material) -> tuple[FileSpec, ...]:
        """Return the certificate, the key and, where asked for, the chain; or the one combined file."""
        return pem_files(config, material)

    def commands(self, service: Service) -> ServiceCommands:
        """Return ``lighttpd -tt`` on this service's own configuration, and the signal for a graceful restart."""
        binary, config = found(service, "binary", BINARIES), found(service, "config", CONFIGS)
        reload = signalled("USR1", service.pid_file or PID_FILE, "lighttpd")
        return ServiceCommands(check=Command((binary, "-tt", "-f", config)), reload=reload)

    async def staged_check(
        self, service: Service, staged: Sequence[Mapping[Role, Path]], scratch: Path, _runner: Runner
    ) -> StagedCheck:
        """Describe ``lighttpd -tt`` on a configuration that holds only the staged pairs; it binds no port."""
        sockets = ""
        for number, files in enumerate(staged, 1):
            certificate, key = pair_of(files)
            names = f'ssl.pemfile = "{certificate}" ssl.privkey = "{key}"'
            sockets += f'$SERVER["socket"] == "127.0.0.1:{number}" {{ ssl.engine = "enable" {names} }}\n'
        text = f'server.document-root = "{scratch}"\nserver.modules = ( "mod_openssl" )\n{sockets}'
        argv = (found(service, "binary", BINARIES), "-tt", "-f", f"{scratch}/lighttpd.conf")
        return StagedCheck({"lighttpd.conf": text}, Command(argv))


TARGET = LighttpdTarget()
