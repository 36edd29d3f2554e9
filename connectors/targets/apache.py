"""Apache httpd: a certificate with its key in the files of ``SSLCertificateFile`` and ``SSLCertificateKeyFile``.

``apache2 -t`` only looks whether these files exist, and a pair that cannot be loaded ends a running Apache at the next
reload. So the trial is a start: Apache's own mod_ssl, with its own OpenSSL and that one's security level, loads the
staged pairs from a configuration that holds nothing else. The start is made to end after that and before any child is
there, by a pid file that cannot be written; only then does Apache say AH00100. It needs no privilege, leaves no process
and serves nothing. OpenSSL of another program would judge by other rules, and a start that succeeds would have to be
ended by somebody. This module does not read or edit the live configuration.
"""

from __future__ import annotations

import re
import socket
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
from connectors.targets.pem import PEMConfig, pem_files, refuse_special
from core.errors import Misconfigured

CONTROLS = (
    "/usr/sbin/apache2ctl",
    "/usr/sbin/httpd",
    "/usr/local/apache2/bin/httpd",
    "/usr/local/sbin/httpd",
)
"""What checks and reloads. Debian's configuration needs variables that apache2ctl alone sets."""
PROGRAMS = ("/usr/sbin/apache2", *CONTROLS[1:])
MODULES = (
    "/usr/lib/apache2/modules",
    "/usr/lib64/httpd/modules",
    "/usr/lib64/apache2",
    "/usr/local/libexec/apache24",
)
"""Where modules are, unless below the folder that Apache was built for."""

_SPECIAL = re.compile(r"[\x00-\x1f\x7f\"'\\$%]")
"""What Apache interprets inside a quoted argument, and what would end it."""
_STARTED = "AH00100"
_MPMS = ("event", "worker", "prefork")


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
        str | None,
        msgspec.Meta(description="File with the chain alone, as SSLCertificateChainFile of Apache before 2.4.8."),
    ] = None
    service: Annotated[HostName, msgspec.Meta(description="Name of this Apache in the host's agent.toml.")] = "apache"

    def __post_init__(self) -> None:
        """Refuse what Apache would read as something else; the messages start with the field at fault."""
        super().__post_init__()
        refuse_special(self, _SPECIAL, "Apache")


class ApacheTarget:
    """Describes installations for Apache httpd."""

    config_type = ApacheConfig

    def files(self, config: ApacheConfig, material: Material) -> tuple[FileSpec, ...]:
        """Return the certificate, the key and, where asked for, the chain; or the one combined file."""
        return pem_files(config, material)

    def commands(self, service: Service) -> ServiceCommands:
        """Return ``-t`` and ``-k graceful`` on this service's configuration, by default the one compiled in."""
        binary = found(service, "binary", CONTROLS)
        where = (
            *(("-d", service.prefix) if service.prefix else ()),
            *(("-f", service.config) if service.config else ()),
        )
        return ServiceCommands(
            check=Command((binary, "-t", *where)),
            reload=Command((binary, "-k", "graceful", *where)),
        )

    async def staged_check(
        self, service: Service, staged: Sequence[Mapping[Role, Path]], scratch: Path, runner: Runner
    ) -> StagedCheck:
        """Describe a start with the staged pairs that ends when all of them are loaded."""
        # A control script may insist on the folders of a running Apache; the trial needs the program alone.
        if service.binary.endswith("ctl"):
            service = msgspec.structs.replace(service, binary="")
        binary = found(service, "binary", PROGRAMS)
        # Without the configuration, which this user may not be able to read: it says what the program was built with.
        built = await runner.run(Command((binary, "-V", "-f", "/dev/null")))
        text = _staged_config(_load_modules(binary, built.output), staged, scratch)
        command = Command((binary, "-D", "FOREGROUND", "-f", f"{scratch}/httpd.conf"))
        return StagedCheck({"httpd.conf": text}, command, passed=_STARTED)


TARGET = ApacheTarget()


def _load_modules(binary: str, built: str) -> str:
    """Return the lines that load mod_ssl and what a start needs besides, where these are not compiled in."""
    root = re.search(r'HTTPD_ROOT="([^"]+)"', built)
    folders = (*((f"{root[1]}/modules",) if root else ()), *MODULES)
    compiled_in = re.search(r"^Server MPM:[ \t]+\S", built, re.MULTILINE)
    folder = next((folder for folder in folders if Path(folder, "mod_ssl.so").exists()), "")
    if not folder and not compiled_in:
        raise Misconfigured(f"apache: no mod_ssl.so in {', '.join(folders)} for {binary}; install Apache's mod_ssl")
    names = [] if compiled_in else [next((f"mpm_{mpm}" for mpm in _MPMS if _has(folder, f"mpm_{mpm}")), "mpm_event")]
    names += [name for name in ("unixd", "ssl") if _has(folder, name)]
    return "".join(
        f'<IfModule !{name}_module>\nLoadModule {name}_module "{folder}/mod_{name}.so"\n</IfModule>\n' for name in names
    )


def _has(folder: str, name: str) -> bool:
    return Path(folder, f"mod_{name}.so").exists()


def _staged_config(modules: str, staged: Sequence[Mapping[Role, Path]], scratch: Path) -> str:
    port = _free_port()
    hosts = "".join(_staged_host(number, files, port) for number, files in enumerate(staged))
    return f"""{modules}ServerRoot "{scratch}"
ServerName localhost
DefaultRuntimeDir "{scratch}"
PidFile "{scratch}/absent/pid"
ErrorLog /dev/stderr
LogLevel error
Listen 127.0.0.1:{port}
{hosts}"""


def _staged_host(number: int, files: Mapping[Role, Path], port: int) -> str:
    certificate = files["combined"] if "combined" in files else files["certificate"]
    return f"""<VirtualHost 127.0.0.1:{port}>
ServerName staged-{number}
SSLEngine on
SSLCertificateFile "{certificate}"
SSLCertificateKeyFile "{files.get("key", certificate)}"
</VirtualHost>
"""


def _free_port() -> int:
    """Return a port that Apache can bind for the moment of the trial, which it does before it loads anything."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
