"""When people are told that a certificate is about to end: which of a policy's thresholds were crossed, and how bad.

Nothing is sent here. Whoever sends keeps the moment up to which he has looked, and asks for what came after it: so a
threshold is told once, and one that was crossed while nobody looked is told late rather than never.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

import msgspec

Severity = Literal["warning", "error", "critical"]
SEVERITIES: tuple[Severity, ...] = ("warning", "error", "critical")
_USUAL: dict[int, Severity] = {7: "error", 0: "critical"}


class Alert(msgspec.Struct, frozen=True):
    """A threshold in days before the end, crossed at ``at``."""

    threshold_days: int
    at: datetime
    severity: Severity
    channels: tuple[str, ...]


class AlertRules(msgspec.Struct, frozen=True):
    """What a renewal policy says about alerts; ``severity_map`` goes from days to the severity up to there."""

    thresholds_days: Sequence[int]
    severity_map: Mapping[int, Severity]
    channels: Mapping[Severity, Sequence[str]]

    def severity(self, threshold_days: int) -> Severity:
        """Return the severity of the nearest entry at or above a threshold; beyond all of them it is a warning."""
        entries = self.severity_map or _USUAL
        above = [days for days in entries if days >= threshold_days]
        return entries[min(above)] if above else "warning"

    def due(self, issued_at: datetime, not_after: datetime, since: datetime, until: datetime) -> tuple[Alert, ...]:
        """Return the alerts that fell due after ``since`` and up to ``until``, the most urgent first.

        A threshold that lies before the issue says nothing: a certificate of six days is not alarming for being so.
        """
        found = []
        for days in sorted(set(self.thresholds_days)):
            at = not_after - timedelta(days=days)
            if max(since, issued_at) < at <= until:
                severity = self.severity(days)
                found.append(Alert(days, at, severity, tuple(self.channels.get(severity, ()))))
        return tuple(found)
