"""What a validation is given, and what it leaves behind: settings, the question, the evidence, the failure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network
from socket import gethostname
from types import MappingProxyType

import anyio

from core.evidence import MOST_SHOWN, ErrorType, Evidence
from core.names import Name

AT_ONCE = 10
"""Validations of one type at the same time, where the settings say nothing else."""

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Settings:
    """How validations are done.

    ``resolvers`` are addresses and ports of recursive resolvers; with none, those of the system's resolv.conf (its
    hosts file is not read). ``allowed_networks`` may be dialled although they are refused otherwise, as private ones
    are without ``private_networks``. ``here`` is what firewalls have to let pass, in messages.
    ``concurrency`` is how many validations run at once by challenge type, those of dns-01 being for all that ask for
    TXT records. ``caa_identities`` are our names in CAA records; with none CAA is not checked. ``persist_issuers`` are
    those in the records of dns-persist-01.
    """

    resolvers: tuple[tuple[str, int], ...] = ()
    http_port: int = 80
    tls_port: int = 443
    allowed_networks: tuple[Network, ...] = ()
    private_networks: bool = True
    here: str = "the coordinator"
    concurrency: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    caa_identities: tuple[str, ...] = ()
    persist_issuers: tuple[str, ...] = ()
    deadline_s: float = 30.0
    connect_s: float = 5.0
    dns_s: float = 8.0


@dataclass(frozen=True)
class Asked:
    """One challenge to look at: its type, the name, and whose account it is.

    ``name`` is the one that a wildcard hangs on, with or without its ``*.``; ``thumbprint`` is the account key's
    (RFC 7638).
    """

    type: str
    name: Name
    wildcard: bool
    token: str
    thumbprint: str
    account_url: str


class Failed(Exception):
    """The name was not shown to be held; ``type`` is the last part of the ACME error's URN."""

    def __init__(self, type_: ErrorType, detail: str, evidence: Evidence) -> None:
        super().__init__(detail)
        self.type: ErrorType = type_
        self.detail = detail
        self.evidence = evidence


class Busy(Failed):
    """Nothing was asked: no place became free in time. The name may be looked at again later."""


@dataclass
class Record:
    """The notes of one validation while it runs; evidence is made of them when it ends, either way."""

    challenge: str
    name: str
    asked: str = ""
    doing: str = "beginning"
    addresses: list[str] = field(default_factory=list)
    resolvers: list[str] = field(default_factory=list)
    redirects: list[str] = field(default_factory=list)
    answer: str = ""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    at: datetime = field(init=False)
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.at = self.now()

    def evidence(self) -> Evidence:
        """Return the evidence as of now."""
        return Evidence(
            challenge=self.challenge,
            name=self.name,
            asked=self.asked,
            source=gethostname(),
            at=self.at,
            elapsed_ms=round((time.monotonic() - self._began) * 1000),
            addresses=tuple(self.addresses),
            resolvers=tuple(self.resolvers),
            redirects=tuple(self.redirects),
            answer=self.answer,
        )

    def failed(self, type_: ErrorType, detail: str) -> Failed:
        """Return the failure to raise; ``detail`` says what was found and what to do next."""
        return Failed(type_, detail, self.evidence())


def reason(error: Exception) -> str:
    """Say in few words what went wrong on a connection."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, anyio.EndOfStream | anyio.BrokenResourceError):
        return "the connection ended"
    return printable(str(error) or type(error).__name__)


def printable(text: str | bytes, most: int = MOST_SHOWN) -> str:
    """Return the beginning of a foreign text, with whatever does not print in ASCII as an escape."""
    if isinstance(text, bytes):
        text = text[:most].decode("ascii", "backslashreplace")
    shown = "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode() for c in text[:most])
    return shown if len(shown) <= most and len(text) <= most else shown[: most - 1] + "…"
