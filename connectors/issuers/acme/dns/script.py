"""Records by programs of the operator: run without a shell, told by variables, stopped after two minutes.

CERTCTL_DNS_DOMAIN is the name to be certified, CERTCTL_DNS_FQDN the record's name, CERTCTL_DNS_VALUE what it says and
CERTCTL_DNS_TOKEN the challenge's token. Nothing else of the environment is handed on but PATH, HOME, LANG and TMPDIR. A
program is done when it exits with 0. One order runs one program at a time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from typing import IO, Annotated

import anyio
import msgspec
from anyio.abc import Process

from connectors.issuers.acme.dns.base import Provider, TXTRecord
from connectors.issuers.acme.problems import printable
from core.errors import DeadlineExceeded, Misconfigured, Transient

TIMEOUT_S = 120.0
_HANDED_ON = ("PATH", "HOME", "LANG", "TMPDIR")
_MOST_OUTPUT = 2000
Argv = Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=4000)], ...], msgspec.Meta(max_length=50)]


class ScriptConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Programs that write and remove records."""

    present: Annotated[
        Argv, msgspec.Meta(description="Program and arguments that add the record CERTCTL_DNS_FQDN.", min_length=1)
    ]
    clean_up: Annotated[
        Argv, msgspec.Meta(description="Program and arguments that remove it; without them it stays.")
    ] = ()


class Script:
    """Runs the programs."""

    def __init__(self, config: ScriptConfig, *, timeout_s: float = TIMEOUT_S) -> None:
        self._config, self._timeout_s = config, timeout_s
        self._lock = anyio.Lock()

    async def present(self, record: TXTRecord) -> None:
        """Run the one."""
        await self._run(self._config.present, record)

    async def clean_up(self, record: TXTRecord) -> None:
        """Run the other, if there is one."""
        if self._config.clean_up:
            await self._run(self._config.clean_up, record)

    async def _run(self, argv: tuple[str, ...], record: TXTRecord) -> None:
        with tempfile.TemporaryFile() as output:
            async with self._lock:
                try:
                    with anyio.fail_after(self._timeout_s):
                        code = await _ended(argv, _environment(record), output)
                except TimeoutError as error:
                    raise DeadlineExceeded(f"{argv[0]} was stopped after {self._timeout_s:.0f} s") from error
                except OSError as error:
                    raise Misconfigured(f"{argv[0]} cannot be run: {error.strerror}; correct the path") from error
            if code != 0:
                raise Transient(f"{argv[0]} ended with {code} for {record.fqdn}: {_last_line(output)}")


async def _ended(argv: tuple[str, ...], environment: dict[str, str], output: IO[bytes]) -> int:
    """Run a program in a session of its own, of which nothing is left when the time is over."""
    process = await anyio.open_process(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=output,
        env=environment,
        start_new_session=True,
    )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            await _kill(process)
        await process.aclose()


async def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with anyio.CancelScope(shield=True):
        await process.wait()


def _environment(record: TXTRecord) -> dict[str, str]:
    said = {"DOMAIN": record.domain, "FQDN": record.fqdn, "VALUE": record.value, "TOKEN": record.token}
    handed_on = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
    return handed_on | {f"CERTCTL_DNS_{name}": value for name, value in said.items()}


def _last_line(output: IO[bytes]) -> str:
    output.seek(max(0, output.seek(0, os.SEEK_END) - _MOST_OUTPUT))
    lines = output.read().decode(errors="replace").strip().splitlines()
    return printable(lines[-1]) if lines else "it said nothing"


CONFIG_TYPE = ScriptConfig


def make(config: ScriptConfig) -> Provider:
    """Return what runs them."""
    return Script(config)
