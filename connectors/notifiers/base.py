"""What a way of telling people has to do."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import msgspec

DEADLINE_S = 20.0
"""How long one message may take, whatever the receiver does."""


class Message(msgspec.Struct, frozen=True):
    """What is told. ``id`` stays the same when it is sent again: by it a receiver knows that it has it already."""

    id: str
    type: str
    severity: str
    subject: str
    message: str
    certificate_id: str | None
    created_at: datetime


class Notifier(Protocol):
    """One channel, ready to be used."""

    async def send(self, message: Message, recipient: str) -> None:
        """Send a message within ``DEADLINE_S``; raise ``Transient`` with a cause for a person when it was not taken.

        A message may have arrived although this raises.
        """
