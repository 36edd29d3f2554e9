"""What a validation found, for the operator, and how it fails, for the client."""

from __future__ import annotations

from datetime import datetime

import msgspec

MOST_SHOWN = 200


class Step(msgspec.Struct, frozen=True):
    """One thing that was asked: of whom, and what came back."""

    asked: str
    of: str
    answer: str


class Evidence(msgspec.Struct, kw_only=True):
    """What was done for one challenge, in order; ``at`` is when it began."""

    at: datetime
    ms: float = 0.0
    steps: list[Step] = msgspec.field(default_factory=list)

    def note(self, asked: str, of: str, answer: str) -> None:
        """Note one step; what came back is made short and printable."""
        self.steps.append(Step(asked[:300], of[:100], printable(answer)))


class Failed(Exception):
    """A validation that failed; ``type`` is the error of RFC 8555 section 6.7 without its URN."""

    def __init__(self, type_: str, detail: str, evidence: Evidence | None = None) -> None:
        super().__init__(detail)
        self.type = type_
        self.detail = detail
        self.evidence = evidence


def printable(text: str) -> str:
    """Return at most so much of a text, without anything that a terminal would obey."""
    shown = "".join(each if each.isprintable() else "·" for each in text[: MOST_SHOWN + 1])
    return shown if len(shown) <= MOST_SHOWN else shown[:MOST_SHOWN] + "…"
