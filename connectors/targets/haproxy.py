"""HAProxy: one PEM file with key, leaf and chain, which a ``crt`` of a bind line, a folder or a crt-list names.

Mode ``reload``: the file is replaced and HAProxy reloaded. Mode ``runtime``: it is replaced, and HAProxy is handed the
same by its stats socket (``set ssl cert`` and ``commit ssl cert``, Runtime API of HAProxy 2.2 and later), so that no
process is replaced and no connection ends. The socket needs ``level admin``, and agent.toml names it. The staged files
are tried by ``haproxy -c`` with a configuration that loads nothing else, which needs no privilege. This module does not
read or edit HAProxy's configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import anyio
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
)
from connectors.targets.pem import PEMConfig, pem_files
from core.errors import Misconfigured, Transient

BINARIES = ("/usr/sbin/haproxy", "/usr/local/sbin/haproxy")
CONFIGS = ("/etc/haproxy/haproxy.cfg", "/usr/local/etc/haproxy/haproxy.cfg")
PID_FILE = "/run/haproxy.pid"
ADMIN = "/run/haproxy/admin.sock"

_SPECIAL = re.compile(r"[\x00-\x20\x7f\"'\\$#;]")
"""What ends or changes a word, in HAProxy's configuration or on its socket."""
_ANSWER_S = 30.0
_MAX_ANSWER = 1 << 20
_MAX_SAID = 600


class HAProxyConfig(PEMConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which file HAProxy reads its certificate from, and how it takes a new one into use."""

    cert_path: Annotated[
        str,
        msgspec.Meta(description="File with key, leaf and chain, as crt of the bind line names it.", max_length=4000),
    ]
    layout: Annotated[Layout, msgspec.Meta(description="combined: HAProxy reads one file.")] = "combined"
    mode: Annotated[
        Literal["reload", "runtime"],
        msgspec.Meta(
            description="reload: HAProxy is reloaded; runtime: it is handed the new certificate by the stats socket "
            "that the host's agent.toml names, without a reload."
        ),
    ] = "reload"
    service: Annotated[HostName, msgspec.Meta(description="Name of this HAProxy in the host's agent.toml.")] = "haproxy"

    def __post_init__(self) -> None:
        """Hold the fields against each other; the messages start with the field at fault."""
        if self.layout != "combined":
            raise ValueError("layout: must be combined; HAProxy reads certificate and key from one file")
        super().__post_init__()
        if special := _SPECIAL.search(self.cert_path):
            raise ValueError(f"cert_path: holds {special[0]!r}, which HAProxy would interpret; choose another path")
        if self.mode == "runtime" and self.reload_action is not None:
            raise ValueError("reload_action: has no meaning with mode runtime, which reloads nothing; remove it")


class HAProxyTarget:
    """Describes installations for HAProxy."""

    config_type = HAProxyConfig

    def files(self, config: HAProxyConfig, material: Material) -> tuple[FileSpec, ...]:
        """Return the one file."""
        return pem_files(config, material)

    def commands(self, service: Service) -> ServiceCommands:
        """Return ``haproxy -c``, and the signal that reloads the master process (``haproxy -W`` or ``-Ws``)."""
        binary, config = found(service, "binary", BINARIES), found(service, "config", CONFIGS)
        return ServiceCommands(
            check=Command((binary, "-c", "-f", config)),
            reload=Command(("/usr/bin/pkill", "-USR2", "-F", PID_FILE)),
        )

    async def staged_check(
        self, service: Service, staged: Sequence[Mapping[Role, Path]], scratch: Path, _runner: Runner
    ) -> StagedCheck:
        """Describe ``haproxy -c`` on a configuration that holds only the staged files."""
        binds = "".join(f'  bind 127.0.0.1:47443 ssl crt "{files["combined"]}"\n' for files in staged)
        config = f"defaults\n  mode tcp\n  timeout client 1s\nfrontend staged\n{binds}"
        return StagedCheck(
            {"haproxy.cfg": config},
            Command((found(service, "binary", BINARIES), "-c", "-f", f"{scratch}/haproxy.cfg")),
        )

    def uses_api(self, config: HAProxyConfig) -> bool:
        """Say whether the target is of mode ``runtime``."""
        return config.mode == "runtime"

    async def apply(self, service: Service, published: Sequence[Mapping[Role, Path]]) -> None:
        """Hand HAProxy what each file holds now, one transaction for each file."""
        runtime = _Runtime(service)
        for files in published:
            await _take(runtime, str(files["combined"]))


TARGET = HAProxyTarget()


class _Runtime:
    """The Runtime API on a stats socket: one command for each connection, as it is meant."""

    def __init__(self, service: Service) -> None:
        self.socket = service.admin or ADMIN
        if not self.socket.startswith("/"):
            remedy = "name the path of a stats socket (stats socket … level admin)"
            raise Misconfigured(f"haproxy: admin of [services.{service.name}] in agent.toml is no path; {remedy}")

    async def ask(self, command: str) -> str:
        """Return the answer; raise ``Transient`` where nobody answers."""
        answer = b""
        try:
            with anyio.fail_after(_ANSWER_S):
                async with await anyio.connect_unix(self.socket) as stream:
                    await stream.send(command.encode() + b"\n")
                    async for piece in stream:
                        answer += piece[: _MAX_ANSWER - len(answer)]
        except (OSError, TimeoutError, anyio.BrokenResourceError) as error:
            said = str(error) or f"no answer within {_ANSWER_S:g} s"
            raise Transient(
                f"HAProxy's stats socket {self.socket} does not answer: {said}; is HAProxy running?"
            ) from error
        return answer.decode(errors="replace").strip()

    async def must(self, command: str, expected: str, doing: str) -> None:
        """Raise ``Transient`` with HAProxy's words unless they hold what is expected. They never hold the key."""
        said = await self.ask(command)
        if expected not in said:
            raise Transient(f"HAProxy did not {doing}: {' '.join(said.split())[:_MAX_SAID] or 'it said nothing'}")


async def _take(runtime: _Runtime, path: str) -> None:
    """Make the running HAProxy use what is at ``path``, or forget it; what it refuses changes nothing in it."""
    known = path in (line.lstrip("*") for line in (await runtime.ask("show ssl cert")).splitlines())
    try:
        pem = await anyio.Path(path).read_text()
    except FileNotFoundError:
        if known:
            await runtime.ask(f"del ssl crt-list {await _list_of(runtime, path)} {path}")
            await runtime.must(f"del ssl cert {path}", "deleted!", f"forget {path}")
        return
    except (OSError, UnicodeDecodeError) as error:
        raise Transient(f"{path} cannot be read for HAProxy's stats socket: {error}") from error
    if known:
        await runtime.ask(f"abort ssl cert {path}")  # what an interrupted attempt left open
        await _set(runtime, path, pem)
    else:
        crt_list = await _list_of(runtime, path)
        await runtime.must(f"new ssl cert {path}", "New empty", f"make room for {path}")
        await _set(runtime, path, pem)
        await runtime.must(f"add ssl crt-list {crt_list} {path}", "Success!", f"add {path} to {crt_list}")


async def _set(runtime: _Runtime, path: str, pem: str) -> None:
    payload = "\n".join(line for line in pem.splitlines() if line)  # it ends with an empty line, and PEM needs none
    await runtime.must(f"set ssl cert {path} <<\n{payload}\n", "Transaction", f"accept the new certificate for {path}")
    await runtime.must(f"commit ssl cert {path}", "Success!", f"take {path} into use")


async def _list_of(runtime: _Runtime, path: str) -> str:
    """Return the folder of certificates that a file lies in, as HAProxy writes it; raise ``Transient`` without one."""
    folder = str(Path(path).parent)
    for line in (await runtime.ask("show ssl crt-list")).splitlines():
        if line.rstrip("/") == folder:
            return line
    remedy = "name it, or its folder, as crt of a bind line and reload HAProxy once"
    raise Transient(f"the running HAProxy does not use {path}; {remedy}")
