"""What this agent is about: said to the coordinator with every poll, and shown on the local page."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, field

import trio


@dataclass
class Activity:
    """``boot`` names this process, ``held`` the jobs in hand and their certificates, ``ended`` what others came to."""

    boot: str = field(default_factory=lambda: secrets.token_hex(8))
    held: dict[str, str] = field(default_factory=dict)
    connected: bool = False
    last_error: str = ""
    ended: dict[str, int] = field(
        default_factory=lambda: {"served": 0, "stored": 0, "unchanged": 0, "failed": 0, "issued": 0}
    )
    _answered_at: float = -math.inf

    def note_answer(self) -> None:
        """Remember that the coordinator answered a poll just now."""
        self.connected, self.last_error, self._answered_at = True, "", trio.current_time()

    def note_trouble(self, detail: str) -> None:
        """Remember what stands between this agent and its coordinator."""
        self.connected, self.last_error = False, detail

    def silent_s(self) -> float:
        """Return the seconds since the coordinator answered a poll; infinite before the first answer."""
        return trio.current_time() - self._answered_at
