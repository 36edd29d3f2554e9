"""Names of coordinators that run: host, process, a number of its own. A process of this host that is gone is known so.

A coordinator that was killed and starts again need not wait until what it said of itself has run out.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path


def own_name() -> str:
    """Return a name for this process that no other has."""
    return f"{_host()}/{os.getpid()}/{os.urandom(4).hex()}"


def is_gone(name: str) -> bool:
    """Say whether a coordinator certainly has ended: its process is not there on this host any more."""
    host, _, rest = name.partition("/")
    if host != _host():
        return False
    try:
        os.kill(int(rest.partition("/")[0]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _host() -> str:
    """Return this host's name, with its process namespace: containers may share the one and not the other."""
    try:
        return f"{socket.gethostname()}:{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # not Linux
        return socket.gethostname()
