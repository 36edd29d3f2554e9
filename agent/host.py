"""What the agent says about its host."""

from __future__ import annotations

import platform
import socket
from importlib import metadata
from urllib.parse import urlsplit

from core.wire import Metadata


def describe(server_url: str) -> Metadata:
    """Return the host's name, system, architecture and the address from which the coordinator is reached.

    Looking the coordinator's name up may block for as long as the resolver does.
    """
    return Metadata(
        hostname=socket.gethostname(),
        os=_system(),
        architecture=platform.machine(),
        address=_address(server_url),
        version=metadata.version("certctl"),
    )


def _system() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return f"{platform.system()} {platform.release()}"
    return release.get("PRETTY_NAME", platform.system())


def _address(server_url: str) -> str:
    """Return the local address of the route to the coordinator; connecting a UDP socket sends nothing."""
    parts = urlsplit(server_url)
    try:
        family, kind, _, _, address = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except (OSError, UnicodeError):
        return ""
