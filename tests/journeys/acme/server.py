"""What the matrix needs of a server, whoever's it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

from tests.journeys.acme.client import Feature, Setting, Spared


class Server(Protocol):
    """A server with a directory for anybody and one for external accounts only; they may be the same."""

    can: ClassVar[frozenset[Feature]]
    """What it can; nothing else is asked of it."""
    spares: ClassVar[Mapping[Spared, str]]
    """Why a client does not do here what it can."""

    @property
    def name(self) -> str:
        """What it is called, with its version."""

    def lend(self, *, bound: bool) -> Setting:
        """Return a setting with an address of its own; when ``bound``, with an external account of its own."""

    def point(self, name: str, address: str) -> None:
        """Let a name resolve to an address."""

    def anchors_pem(self) -> str:
        """Return the roots that what it issues chains to."""

    def is_revoked(self, chain: Sequence[bytes]) -> bool:
        """Say whether relying parties would learn that the leaf of a chain in DER is revoked."""

    def hasten(self, chain: Sequence[bytes]) -> None:
        """Let renewal information say that this one is to be renewed at once."""
