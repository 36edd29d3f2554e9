"""Hosts as network namespaces on one bridge, whose cables can be pulled.

Everything is made inside of a network, mount and process namespace of the soak's own (see ``__main__``), so it is gone
with the soak, however that ends.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

NETWORK = "10.77.0"
DATABASE, BALANCER = f"{NETWORK}.1", f"{NETWORK}.2"


def run(*argv: str) -> None:
    """Run a command that has to succeed; its words are in the error."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}"
        raise RuntimeError(message)


def make_bridge() -> None:
    """Make the bridge, with the addresses of the database and the load balancer on it."""
    Path("/run/netns").mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "soak", "/run/netns")
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "soak0", "type", "bridge")
    for address in (DATABASE, BALANCER):
        run("ip", "address", "add", f"{address}/24", "dev", "soak0")
    run("ip", "link", "set", "soak0", "up")


class Node:
    """A host of its own on the bridge."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.address = f"{NETWORK}.{number}"
        self._cable = f"v{number}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", self._cable, "master", "soak0", "up")
        for words in (("lo", "up"), ("eth0", "up")):
            run("ip", "-n", name, "link", "set", *words)
        run("ip", "-n", name, "address", "add", f"{self.address}/24", "dev", "eth0")

    def prefix(self) -> list[str]:
        """Return what runs a program on this host."""
        return ["ip", "netns", "exec", self.name]

    def cut(self) -> None:
        """Pull the cable: packets vanish, nobody is told."""
        run("ip", "link", "set", self._cable, "down")

    def mend(self) -> None:
        """Put the cable back."""
        run("ip", "link", "set", self._cable, "up")

    def cut_from(self, address: str) -> None:
        """Lose the way to one other host."""
        run("ip", "-n", self.name, "route", "add", "blackhole", f"{address}/32")

    def mend_to(self, address: str) -> None:
        """Find the way again."""
        run("ip", "-n", self.name, "route", "delete", "blackhole", f"{address}/32")
