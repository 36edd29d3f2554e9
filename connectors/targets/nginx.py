"""nginx: one certificate with its key in PEM files that ``ssl_certificate`` and ``ssl_certificate_key`` name.

The certificate file holds the leaf and its intermediates, so nginx serves a complete chain. The staged pair is tried
with a configuration that loads nothing else, which needs no privilege; the live one is checked after the switch.
This module does not read or edit nginx.conf.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import anyio
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
from connectors.targets.pem import PEMConfig, pair_of, pem_files, refuse_special
from core.errors import Misconfigured, Transient

BINARIES = ("/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx", "/usr/local/bin/nginx")
CONFIGS = ("/etc/nginx/nginx.conf", "/usr/local/etc/nginx/nginx.conf", "/usr/local/nginx/conf/nginx.conf")

_SPECIAL = re.compile(r"[\x00-\x1f\x7f\"'\\$;{}]")
"""What nginx interprets inside a quoted parameter, and what would end an unquoted one."""

_OPTIONAL_MODULES = ("proxy", "fastcgi", "uwsgi", "scgi")
_STAGED_PORT = 47443
"""``nginx -t`` binds what it finds but ignores a port that is taken, so any high port will do."""
_FIRST_WITH_E = (1, 19, 5)


class NginxConfig(PEMConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where nginx reads its certificate from."""

    cert_path: Annotated[
        str, msgspec.Meta(description="File with leaf and chain, as ssl_certificate names it.", max_length=4000)
    ]
    key_path: Annotated[
        str | None,
        msgspec.Meta(description="File with the key, as ssl_certificate_key names it; not with layout combined."),
    ] = None
    chain_path: Annotated[
        str | None, msgspec.Meta(description="File with the chain alone, for instance for ssl_trusted_certificate.")
    ] = None
    service: Annotated[HostName, msgspec.Meta(description="Name of this nginx in the host's agent.toml.")] = "nginx"

    def __post_init__(self) -> None:
        """Refuse what nginx would read as something else; the messages start with the field at fault."""
        super().__post_init__()
        refuse_special(self, _SPECIAL, "nginx")


class NginxTarget:
    """Describes installations for nginx."""

    config_type = NginxConfig

    def __init__(self) -> None:
        self._builds: dict[tuple[str, int, int], _Build] = {}

    def files(self, config: NginxConfig, material: Material) -> tuple[FileSpec, ...]:
        """Return the certificate, the key and, where asked for, the chain; or the one combined file."""
        return pem_files(config, material)

    def commands(self, service: Service) -> ServiceCommands:
        """Return ``nginx -t`` and ``nginx -s reload`` on this service's own configuration."""
        binary = found(service, "binary", BINARIES)
        where: tuple[str, ...] = ("-c", found(service, "config", CONFIGS))
        if service.prefix:
            where = (*where, "-p", service.prefix)
        return ServiceCommands(
            check=Command((binary, "-t", "-q", *where)),
            reload=Command((binary, "-s", "reload", *where)),
        )

    async def staged_check(
        self, service: Service, staged: Sequence[Mapping[Role, Path]], scratch: Path, runner: Runner
    ) -> StagedCheck:
        """Describe ``nginx -t`` on a configuration that holds only the staged pairs."""
        binary = found(service, "binary", BINARIES)
        build = await self._build(binary, runner)
        argv = [binary, "-t", "-q", "-p", f"{scratch}/", "-c", f"{scratch}/nginx.conf"]
        if build.version >= _FIRST_WITH_E:
            # Without it nginx first opens the log compiled into it, and warns an unprivileged agent about that.
            argv += ["-e", "stderr"]
        return StagedCheck({"nginx.conf": _staged_config(build, staged, scratch)}, Command(tuple(argv)))

    async def _build(self, binary: str, runner: Runner) -> _Build:
        try:
            stat = await anyio.Path(binary).stat()
        except OSError as error:
            raise Misconfigured(f"{binary} cannot be looked at: {error.strerror}; is nginx installed?") from error
        fingerprint = (binary, stat.st_mtime_ns, stat.st_size)
        if fingerprint not in self._builds:
            result = await runner.run(Command((binary, "-V")))
            if result.returncode != 0:
                said = " ".join(result.output.split())[-300:] or "(it printed nothing)"
                raise Transient(f"`{binary} -V` ended with {result.returncode}: {said}; does this nginx run at all?")
            self._builds[fingerprint] = _read_build(binary, result.output)
        return self._builds[fingerprint]


TARGET = NginxTarget()


class _Build(msgspec.Struct, frozen=True):
    """What ``nginx -V`` says: the version and the request modules that are compiled in."""

    version: tuple[int, ...]
    modules: tuple[str, ...]


def _read_build(binary: str, output: str) -> _Build:
    version = re.search(r"nginx version: \S*?/(\d+)\.(\d+)\.(\d+)", output)
    if "--with-http_ssl_module" not in output:
        raise Misconfigured(f"{binary} was built without TLS (`{binary} -V` shows no http_ssl_module); use another")
    modules = tuple(name for name in _OPTIONAL_MODULES if f"--without-http_{name}_module" not in output)
    return _Build(tuple(int(part) for part in version.groups()) if version else (0,), modules)


def _staged_config(build: _Build, staged: Sequence[Mapping[Role, Path]], scratch: Path) -> str:
    # A temp path that is not set is created where nginx was built for, which an unprivileged agent cannot do; one of
    # a module that is absent is an unknown directive.
    temp_paths = "".join(f'  {name}_temp_path "{scratch}/{name}";\n' for name in ("client_body", *build.modules))
    servers = "".join(_staged_server(number, files) for number, files in enumerate(staged))
    return f"""pid "{scratch}/nginx.pid";
error_log stderr;
events {{}}
http {{
  access_log off;
  server_names_hash_max_size 4096;
{temp_paths}{servers}}}
"""


def _staged_server(number: int, files: Mapping[Role, Path]) -> str:
    certificate, key = pair_of(files)
    return f"""  server {{
    listen 127.0.0.1:{_STAGED_PORT} ssl;
    server_name staged-{number};
    ssl_certificate "{certificate}";
    ssl_certificate_key "{key}";
  }}
"""
