"""The command ``certctl-coordinator``."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from importlib import metadata

import structlog

from coordinator import settings as settings_module
from coordinator import start
from core import logs
from core.errors import CertctlError

EXIT_MISCONFIGURED = 2


def main() -> int:
    """Run the command; exit code 0 after a clean stop, 2 when something stands in the way of the start."""
    parser = argparse.ArgumentParser(
        prog="certctl-coordinator",
        description="Serves certctl: state, issuance and the HTTP interface. Settings are CERTCTL_* variables.",
    )
    parser.add_argument("--version", action="version", version=metadata.version("certctl"))
    parser.add_argument("command", nargs="?", choices=("serve", "migrate", "check"), default="serve", help=_HELP)
    arguments = parser.parse_args()
    try:
        return asyncio.run(_run(arguments.command))
    except CertctlError as error:
        sys.stderr.write(f"certctl-coordinator cannot start: {error.detail}\n")
        return EXIT_MISCONFIGURED


_HELP = "serve (default); migrate: bring the database up to date and exit; check: see that the settings work and exit"


async def _run(command: str) -> int:

    settings = settings_module.load(os.environ)
    logs.configure(settings.log_level, settings.log_format)
    for warning in settings.warnings:
        structlog.get_logger().warning("setting_not_used", detail=warning)
    if command == "serve":
        await start.serve(settings)
        return 0
    async with start.open_context(settings):
        sys.stdout.write("the settings work and the database is up to date\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
