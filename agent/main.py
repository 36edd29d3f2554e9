"""The command ``certctl-agent``."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import metadata

import httpx
import structlog
import trio

from agent import daemon, settings
from core import logs, tracing
from core.errors import CertctlError

EXIT_MISCONFIGURED = 2
EXIT_INTERRUPTED = 130


def main() -> int:
    """Run the agent; exit code 0 after a clean stop or retirement, 2 when something prevents the start."""
    parser = argparse.ArgumentParser(
        prog="certctl-agent",
        description="Makes keys, installs certificates, proves that they are served. Settings are CERTCTL_* variables.",
    )
    parser.add_argument("--version", action="version", version=metadata.version("certctl"))
    parser.add_argument(
        "--health",
        action="store_true",
        help="ask the agent that runs on this host how it is; exit code 0: healthy, 1: not, or not running",
    )
    health = parser.parse_args().health
    try:
        if health:
            return _health()
        loaded = settings.load(os.environ)
        logs.configure(loaded.log_level, loaded.log_format)
        for warning in loaded.warnings:
            structlog.get_logger().warning("setting_not_used", detail=warning)
        end_traces = tracing.configure("certctl-agent", os.environ)
        try:
            trio.run(daemon.run, loaded)
        finally:
            end_traces()
    except CertctlError as error:
        sys.stderr.write(f"certctl-agent cannot start: {error.detail}\n")
        return EXIT_MISCONFIGURED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def _health() -> int:
    """Print what the local page says of the agent's health, see ``agent.endpoint``."""
    host, port = settings.listen_address(os.environ)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/health"
    try:
        answer = httpx.get(url, timeout=10, trust_env=False)
    except httpx.TransportError as error:
        sys.stderr.write(f"no agent answers at {url}: {error}\n")
        return 1
    sys.stdout.write(f"{answer.text}\n")
    return 0 if answer.is_success else 1


if __name__ == "__main__":
    sys.exit(main())
