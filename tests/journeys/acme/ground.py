"""What lies under clients and server alike: addresses, ports, and a DNS that both sides use.

The DNS is pebble-challtestsrv: its names resolve to what they were pointed at, and its records are set over HTTP.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx

from benchmarks.lab.processes import Process, free_ports
from tests.journeys.acme.client import EAB, Setting

_PER_NET = 250
_HOOK = """#!/bin/sh
# Sets and clears TXT records: set NAME VALUE, clear NAME.
set -eu
name=${{2%.}}.
case "$1" in
  set) path=set-txt body="{{\\"host\\":\\"$name\\",\\"value\\":\\"$3\\"}}";;
  clear) path=clear-txt body="{{\\"host\\":\\"$name\\"}}";;
esac
exec curl --silent --show-error --fail --noproxy '*' --data "$body" "{url}/$path"
"""


class Ground:
    """The DNS and the ports at which the server under test has to look; lends addresses that nobody else uses."""

    def __init__(self, folder: Path) -> None:
        dns_port, management_port, self.http_port, self.tls_port = free_ports(4)
        self.folder = folder
        self.dns = f"127.0.0.1:{dns_port}"
        """Where the server's resolver has to ask, over UDP and TCP."""
        self._management = f"http://127.0.0.1:{management_port}"
        self._http = httpx.Client(base_url=self._management, trust_env=False)
        self._addresses = itertools.count()
        self._lock = threading.Lock()
        self._hook = folder / "dns-hook"
        self._hook.write_text(_HOOK.format(url=self._management))
        self._hook.chmod(0o755)
        off = [word for kind in ("http01", "https01", "tlsalpn01") for word in (f"-{kind}", "")]
        where = ["-dns01", self.dns, "-management", f"127.0.0.1:{management_port}", "-defaultIPv6", ""]
        self._process = Process("challtestsrv", ["pebble-challtestsrv", *where, *off], folder / "dns.log")

    def setting(self, directory_url: str, ca_bundle: Path, eab: EAB | None) -> Setting:
        """Return a setting with an address of its own."""
        with self._lock:
            net, host = divmod(next(self._addresses), _PER_NET)
        address = f"127.1.{net}.{host + 1}"
        return Setting(directory_url, ca_bundle, address, self.http_port, self.tls_port, self._hook, eab)

    def point(self, name: str, address: str) -> None:
        """Let a name resolve to an address."""
        body = {"host": f"{name}.", "addresses": [address]}
        with self._lock:
            self._http.post("/add-a", json=body).raise_for_status()

    def start(self) -> None:
        """Start the DNS."""
        self._process.start()
        self._process.await_ready(self._ready)

    def stop(self) -> None:
        """Stop it."""
        self._http.close()
        self._process.stop()

    def _ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self._http.post("/clear-a", json={"host": "ready.example.test."}).is_success
        return False


@contextlib.contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """Lend a ground."""
    found = Ground(folder)
    try:
        found.start()
        yield found
    finally:
        found.stop()
