"""The command ``certctl-coordinator``."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from importlib import metadata
from pathlib import Path

import structlog

from coordinator import settings as settings_module
from coordinator import start
from coordinator.audit import command as audit
from coordinator.encryption import command as keys
from coordinator.settings import Settings
from core import logs, tracing
from core.errors import CertctlError

EXIT_MISCONFIGURED = 2


def main() -> int:
    """Run the command; exit code 0 after a clean stop, 2 when something stands in the way of the start."""
    arguments = _parser().parse_args()
    try:
        return asyncio.run(_run(arguments))
    except CertctlError as error:
        sys.stderr.write(f"certctl-coordinator cannot start: {error.detail}\n")
        return EXIT_MISCONFIGURED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="certctl-coordinator",
        description="Serves certctl: state, issuance and the HTTP interface. Settings are CERTCTL_* variables.",
    )
    parser.add_argument("--version", action="version", version=metadata.version("certctl"))
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("serve", help="serve; this is what happens without a command")
    commands.add_parser("migrate", help="bring the database up to date and exit")
    commands.add_parser("check", help="see that the settings work, say what does not hold, and exit")
    commands.add_parser(
        "keys", help="show which encryption keys seal what is stored; exit code 0: the current one, 1: others as well"
    )
    trail = commands.add_parser("audit", help="the audit trail").add_subparsers(
        dest="audit_command", metavar="COMMAND", required=True
    )
    verify = trail.add_parser(
        "verify", help="check the whole trail; exit code 0: as it was sealed, 1: not, 2: it cannot be checked"
    )
    verify.add_argument("--json", action="store_true", help="print one JSON document")
    verify.add_argument(
        "--heads",
        type=Path,
        metavar="FILE",
        help="heads that were kept elsewhere: an agent's audit-heads.jsonl, or a coordinator's log in JSON",
    )
    return parser


async def _run(arguments: argparse.Namespace) -> int:
    settings = settings_module.load(os.environ)
    logs.configure(settings.log_level, settings.log_format)
    for warning in settings.warnings:
        structlog.get_logger().warning("setting_not_used", detail=warning)
    match arguments.command:
        case "audit":
            sealer = start.open_sealer(settings, make=False)
            return await audit.run(settings, sealer, arguments.heads, as_json=arguments.json)
        case "keys":
            return await keys.run(settings, start.open_sealer(settings, make=False))
        case "migrate" | "check":
            return await _look(settings)
    end_traces = tracing.configure("certctl-coordinator", os.environ)
    try:
        await start.serve(settings)
    finally:
        end_traces()
    return 0


async def _look(settings: Settings) -> int:
    async with start.open_context(settings) as ctx:
        sys.stdout.write("the settings work and the database is up to date\n")
        for weakness in ctx.trail.weaknesses:
            sys.stdout.write(f"audit trail: {weakness}; see docs/settings.md on CERTCTL_DATABASE_OWNER_URL\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
