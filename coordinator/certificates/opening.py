"""Opening PKCS#12 files in a process of its own: whoever makes one says how much work it is to open it.

The number of rounds stands in the file and may be two thousand million. The work is done in a library that nobody can
interrupt, so the process has a limit of its own and is ended with it. Content and password go through a pipe.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from core.bundles import Entry, read_pkcs12
from core.errors import InvalidInput
from core.secret import Secret

if TYPE_CHECKING:
    from coordinator.context import Context

CPU_S, DEADLINE_S = 5, 20.0
_PACKAGES = Path(__file__).parents[2]


class _Asked(msgspec.Struct):
    content: bytes
    password: str


class _Opened(msgspec.Struct):
    entries: list[Entry] = []
    field: str = ""
    problem: str = ""


async def open_pkcs12(ctx: Context, content: bytes, password: Secret[str]) -> list[Entry]:
    """Return what a PKCS#12 file holds; raise ``InvalidInput`` when it does not open, or takes too long to."""
    asked = msgspec.json.encode(_Asked(content, password.reveal()))
    async with ctx.opening:
        said = await _in_a_process(asked)
    if said is None:
        raise InvalidInput.of("pkcs12", f"takes more than {CPU_S} s to open: make it with fewer rounds")
    opened = msgspec.json.decode(said, type=_Opened)
    if opened.problem:
        raise InvalidInput.of(opened.field, opened.problem)
    return opened.entries


async def _in_a_process(asked: bytes) -> bytes | None:
    """Return what the process says, or None when it did not come to its end."""
    pipe, command = asyncio.subprocess.PIPE, [sys.executable, "-m", "coordinator.certificates.opening"]
    environment = {"PYTHONPATH": str(_PACKAGES)}  # and nothing of the coordinator's own: there are keys in that
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, env=environment
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            said, _ = await process.communicate(asked)
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return said if process.returncode == 0 else None


def main() -> None:
    """Open the file that comes in, and say what it holds."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=_Asked)
    try:
        opened = _Opened(read_pkcs12(asked.content, Secret(asked.password)))
    except InvalidInput as error:
        opened = _Opened(field=error.errors[0].field, problem=error.errors[0].problem)
    sys.stdout.buffer.write(msgspec.json.encode(opened))


if __name__ == "__main__":
    main()
