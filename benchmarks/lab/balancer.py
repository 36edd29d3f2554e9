"""HAProxy in front of several coordinators: plain TCP, each asked every second whether it can serve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.lab.processes import Process


def balancer(folder: Path, address: str, servers: Mapping[str, str]) -> Process:
    """Return an HAProxy that listens at ``address`` (host:port) for ``servers`` (host:port by name)."""
    config = folder / "haproxy.cfg"
    lines = "".join(f"  server {name} {where} check\n" for name, where in servers.items())
    config.write_text(
        "global\n  log stdout format raw local0\n"
        "defaults\n  mode tcp\n  log global\n  option tcplog\n"
        "  timeout connect 2s\n  timeout check 5s\n  timeout client 2m\n  timeout server 2m\n"
        f"listen certctl\n  bind {address}\n  balance leastconn\n  option redispatch\n"
        f"  option httpchk GET /ready\n  default-server check-ssl verify none inter 1s fall 3 rise 1 "
        f"on-marked-down shutdown-sessions\n{lines}"
    )
    return Process("haproxy", ["haproxy", "-db", "-f", str(config)], folder / "haproxy.log")
