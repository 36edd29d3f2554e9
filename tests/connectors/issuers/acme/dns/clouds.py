"""What the stand-ins of three clouds have in common: zones within zones, and record sets written as a whole."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from connectors.issuers.acme.dns.base import Provider
from connectors.issuers.acme.polling import Timer
from core.errors import CertctlError
from tests.connectors.issuers.acme.service import Asked, Reply, Service


@dataclass
class Zone:
    """A zone with its record sets: TTL and values, as the service spells them, by name without a dot at the end."""

    key: str
    name: str
    public: bool = True
    sets: dict[str, tuple[int, tuple[Any, ...]]] = field(default_factory=dict)


ZONES = (
    ("z1", "example.com", True),
    ("z2", "sub.example.com", True),
    ("z3", "www.sub.example.com", False),
    ("z4", "a.example.com", True),
    ("z5", "b.example.com", True),
    ("z6", "example-a.com", True),
    ("z7", "example.org", True),
    ("z8", "twice.test", True),
    ("z9", "twice.test", True),
)
PAGE = 2


@dataclass(frozen=True)
class Wrong:
    """A configuration that is wrong in one way, and how that is told."""

    changes: dict[str, Any]
    kind: type[CertctlError]
    said: str


class Cloud(ABC):
    """A service. ``secrets`` are what must be seen nowhere, ``wrong`` are configurations that it refuses."""

    secrets: ClassVar[tuple[str, ...]]
    wrong: ClassVar[dict[str, Wrong]]

    def __init__(self) -> None:
        self.zones = [Zone(key, name, public) for key, name, public in ZONES]
        self.lock = threading.Lock()
        self.throttling = 0
        self.failing: Reply | None = None
        self.conflicts = 0
        self.waits = 0
        """So often a change is looked at before all servers have it."""
        self.meanwhile: Callable[[], object] = lambda: None
        """What happens when a record set was read."""
        self.meeting: threading.Barrier | None = None
        """Where readers wait for each other, so that all of them have seen the same."""

    @abstractmethod
    def provider(self, service: Service, timer: Timer, **changes: Any) -> Provider:
        """Return what writes to it."""

    @abstractmethod
    def plain(self, value: Any) -> str:  # noqa: ANN401 - each has values of its own kind
        """Return a value that is spelled as the service does it."""

    @abstractmethod
    def spelled(self, value: str) -> Any:  # noqa: ANN401 - see above
        """Spell one."""

    @abstractmethod
    def throttle(self) -> Reply:
        """Return what is said to somebody who asks too much."""

    @abstractmethod
    def serve(self, asked: Asked) -> Reply:
        """Answer who may ask."""

    def __call__(self, asked: Asked) -> Reply:
        with self.lock:
            if self.failing is not None:
                return self.failing
            if self.throttling and not self.signs_in(asked):
                self.throttling -= 1
                return self.throttle()
        return self.serve(asked)

    def signs_in(self, _asked: Asked) -> bool:
        """Say whether somebody asks for a token."""
        return False

    def zone(self, name: str) -> Zone:
        return next(zone for zone in self.zones if zone.name == name)

    def values(self, zone: str, fqdn: str) -> list[str]:
        """Return the values of a name, sorted."""
        return sorted(map(self.plain, self.zone(zone).sets.get(fqdn, (0, ()))[1]))

    def seen_together(self) -> None:
        """Let the first readers wait until as many have read as were to meet, and let others write meanwhile."""
        self.meanwhile()
        meeting = self.meeting
        if meeting is not None and not meeting.broken:
            meeting.wait(10)
            self.meeting = None
