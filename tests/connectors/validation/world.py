"""A real challenge server with its DNS server, and the question that the tests ask."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import NamedTuple

import dns.message
import dns.query
import httpx

from benchmarks.lab.processes import Process, free_ports
from connectors.validation.service import Asked, Settings
from core.names import parse_name

TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"  # pragma: allowlist secret
THUMBPRINT = "9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"  # pragma: allowlist secret
KEY_AUTHORIZATION = f"{TOKEN}.{THUMBPRINT}"
ACCOUNT = "https://acme.example/account/1"
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
PATH = f"/.well-known/acme-challenge/{TOKEN}"


def asked(type_: str, name: str, *, wildcard: bool = False, token: str = TOKEN, account_url: str = ACCOUNT) -> Asked:
    """Return a challenge of an account of the tests."""
    return Asked(type_, parse_name(name), wildcard, token, THUMBPRINT, account_url)


class Ports(NamedTuple):
    """Where each server of the challenge server listens, all on 127.0.0.1."""

    dns: int
    http: int
    https: int
    tls: int
    management: int


class ChallengeServer:
    """pebble-challtestsrv: answers for any name with 127.0.0.1, and for what it was told."""

    def __init__(self, folder: Path) -> None:
        self.ports = Ports(*free_ports(5))
        where = [f"127.0.0.1:{port}" for port in self.ports]
        flags = "-dns01", "-http01", "-https01", "-tlsalpn01", "-management"
        argv = ["pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]
        argv += [part for pair in zip(flags, where, strict=True) for part in pair]
        self.process = Process("pebble-challtestsrv", argv, folder / "challtestsrv.log")

    def tell(self, command: str, /, **what: object) -> None:
        """Tell it what to answer."""
        httpx.post(f"http://127.0.0.1:{self.ports.management}/{command}", json=what).raise_for_status()

    def ready(self) -> bool:
        """Say whether it answers, over HTTP and as a DNS server."""
        try:
            httpx.get(f"http://127.0.0.1:{self.ports.management}/")
            httpx.get(f"http://127.0.0.1:{self.ports.http}/")
            query = dns.message.make_query("ready.test.", "A")
            dns.query.udp(query, "127.0.0.1", port=self.ports.dns, timeout=1)
        except (httpx.HTTPError, OSError, dns.exception.DNSException):
            return False
        return True

    def settings(self, **changed: object) -> Settings:
        """Return settings that ask it."""
        given: dict[str, object] = {
            "resolvers": (("127.0.0.1", self.ports.dns),),
            "http_port": self.ports.http,
            "tls_port": self.ports.tls,
            "allowed_networks": LOOPBACK,
        }
        return Settings(**(given | changed))  # type: ignore[arg-type] # a test's changes, by name
