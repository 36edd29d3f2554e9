"""HAProxy: one PEM file with certificate, chain and key, or the key beside it as ``.key``.

The trial is ``haproxy -c`` on a configuration that holds only the staged pairs; it loads them as a start would. A
changed certificate is taken into use by a reload or, in mode ``runtime``, over the stats socket (see
``haproxy_runtime``), and by a reload only where the running process does not know the file yet. This module does not
read or edit haproxy.cfg.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from connectors.targets.base import (
    Command,
    FileSpec,
    HostName,
    Layout,
    Material,
    Role,
    Runner,
    Service,
    ServiceCommands,
    StagedCheck,
    found,
    signalled,
)
from connectors.targets.haproxy_runtime import HAProxyRuntime
from connectors.targets.pem import PEMConfig, pem_files, refuse_special
from core.errors import Misconfigured

BINARIES = ("/usr/sbin/haproxy", "/usr/local/sbin/haproxy", "/usr/bin/haproxy")
CONFIGS = ("/etc/haproxy/haproxy.cfg", "/usr/local/etc/haproxy/haproxy.cfg")
PID_FILE = "/run/haproxy.pid"
SOCKET = "/run/haproxy/admin.sock"

_SPECIAL = re.compile(r"[\s\x00-\x1f\x7f\"'\\$;#<]")
"""What ends or changes a word in haproxy.cfg or on the stats socket."""


class HAProxyConfig(PEMConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where HAProxy reads its certificate from."""

    cert_path: Annotated[
        str,
        msgspec.Meta(description="File that crt of a bind line names, itself or by its folder.", max_length=4000),
    ]
    key_path: Annotated[
        str | None,
        msgspec.Meta(
            description="File with the key, with another layout than combined: cert_path with .key at its end, or "
            "instead of its extension under ssl-load-extra-del-ext."
        ),
    ] = None
    service: Annotated[HostName, msgspec.Meta(description="Name of this HAProxy in the host's agent.toml.")] = "haproxy"
    layout: Annotated[
        Layout,
        msgspec.Meta(
            description="combined: one PEM file with the key and the chain; current: the paths are links and one "
            "rename switches both; separate: plain files."
        ),
    ] = "combined"
    mode: Annotated[
        Literal["reload", "runtime"],
        msgspec.Meta(
            description="reload: HAProxy is reloaded; runtime: it is handed the new certificate by the stats socket "
            "that the host's agent.toml names, and reloaded only for a file that it does not know yet."
        ),
    ] = "reload"

    def __post_init__(self) -> None:
        """Refuse what HAProxy would not find; the messages start with the field at fault."""
        super().__post_init__()
        refuse_special(self, _SPECIAL, "HAProxy")
        beside = (f"{self.cert_path}.key", str(Path(self.cert_path).with_suffix(".key")))
        if self.layout != "combined" and self.key_path not in beside:
            raise ValueError(f"key_path: HAProxy looks for the key at {' or '.join(dict.fromkeys(beside))} alone")


class HAProxyTarget:
    """Describes installations for HAProxy."""

    config_type = HAProxyConfig

    def files(self, config: HAProxyConfig, material: Material) -> tuple[FileSpec, ...]:
        """Return the one combined file; or the certificate, the key and, where asked for, the chain."""
        return pem_files(config, material)

    def commands(self, service: Service) -> ServiceCommands:
        """Return ``haproxy -c`` on this service's configuration, and the signal that reloads its master process."""
        argv = [found(service, "binary", BINARIES), "-c", "-f", found(service, "config", CONFIGS)]
        if service.prefix:
            argv += ["-C", service.prefix]
        return ServiceCommands(check=Command(tuple(argv)), reload=self.fallback(service))

    async def staged_check(
        self, service: Service, staged: Sequence[Mapping[Role, Path]], scratch: Path, _runner: Runner
    ) -> StagedCheck:
        """Describe ``haproxy -c`` on a configuration that holds only the staged pairs; it binds no port."""
        links = dict[str, Path]()
        for number, files in enumerate(staged):
            links[f"{number}.pem"] = files["combined"] if "combined" in files else files["certificate"]
            if "key" in files:
                links[f"{number}.pem.key"] = files["key"]
        binds = "".join(f'  bind 127.0.0.1:443 ssl crt "{scratch}/{number}.pem"\n' for number in range(len(staged)))
        text = f"frontend staged\n  mode tcp\n  timeout client 1s\n{binds}"
        argv = (found(service, "binary", BINARIES), "-c", "-f", f"{scratch}/haproxy.cfg")
        return StagedCheck({"haproxy.cfg": text}, Command(argv), links)

    def uses_api(self, config: HAProxyConfig) -> bool:
        """Say whether the target is of mode ``runtime``."""
        return config.mode == "runtime"

    async def apply(self, service: Service, published: Sequence[Mapping[Role, Path]]) -> bool:
        """Hand HAProxy what each file holds now, one transaction for each pair."""
        return await HAProxyRuntime(_socket(service)).take(published)

    def fallback(self, service: Service) -> Command:
        """Return the signal that reloads the master process (``haproxy -W`` or ``-Ws``)."""
        return signalled("USR2", service.pid_file or PID_FILE, "haproxy")


TARGET = HAProxyTarget()


def _socket(service: Service) -> str:
    socket = service.admin or SOCKET
    if not socket.startswith("/"):
        remedy = "name the path of a stats socket (stats socket … level admin)"
        raise Misconfigured(f"haproxy: admin of [services.{service.name}] in agent.toml is no path; {remedy}")
    return socket
