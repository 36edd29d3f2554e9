"""Answers about how everything stands and what happens, as far as they are shown."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec


class CertificateNumbers(msgspec.Struct, frozen=True):
    """Certificates by life and by service."""

    total: int
    life: dict[str, int]
    service: dict[str, int]
    failing: int


class AgentNumbers(msgspec.Struct, frozen=True):
    """Agents."""

    total: int
    online: int
    offline: int


class JobNumbers(msgspec.Struct, frozen=True):
    """Jobs in hand."""

    live: int


class Overview(msgspec.Struct, frozen=True):
    """How everything stands."""

    certificates: CertificateNumbers
    agents: AgentNumbers
    jobs: JobNumbers


class AtRisk(msgspec.Struct, frozen=True):
    """A certificate that ends, or is not served, unless something changes."""

    id: str
    name: str
    life: str
    service: str
    expires_at: datetime | None
    reason: str
    why: tuple[str, ...]


class Horizon(msgspec.Struct, frozen=True):
    """What is at risk."""

    at_risk: tuple[AtRisk, ...]


class Hit(msgspec.Struct, frozen=True):
    """Something that a search found."""

    kind: str
    id: str
    name: str
    detail: str


class Found(msgspec.Struct, frozen=True):
    """What a search found; ``more`` names the kinds of which there is more."""

    hits: tuple[Hit, ...]
    more: tuple[str, ...]


class Event(msgspec.Struct, frozen=True):
    """Something that happened, as it is told at once; without an action it is a break."""

    at: datetime | None = None
    action: str = ""
    resource_id: str = ""
    details: dict[str, Any] = {}
