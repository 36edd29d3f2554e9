"""How a certificate stands, on two axes: its life, and whether it is served. One function for every reader."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeVar

import msgspec

from coordinator.database.driver import Record as Row
from core.alerts import Alert, AlertRules

T = TypeVar("T", bound=msgspec.Struct)
Life = Literal["pending", "valid", "due", "expired", "revoked"]
Service = Literal["served", "partly", "outdated", "not served", "unknown"]
"""``outdated``: every target still serves an earlier version than it should; ``partly``: some do, or serve nothing."""


_UNHELD = "no agent has a key for it; bind it to a target or an agent"


class Holder(msgspec.Struct):
    """An agent that keeps a key for the certificate, and the newest version it has."""

    agent_id: str
    version_id: str | None
    generation: int | None
    serial: str | None
    fingerprint: str | None
    not_before: datetime | None
    not_after: datetime | None
    renew_at: datetime | None
    failures: int
    failing: bool
    reason: str


class Binding(msgspec.Struct):
    """A target that should serve the certificate; ``reason`` says why it does not serve the desired version."""

    target_id: str
    target_name: str
    agent_id: str
    desired_version_id: str | None
    served_version_id: str | None
    served_at: datetime | None
    failures: int
    failing: bool
    reason: str


class Status(msgspec.Struct):
    """A certificate's state. ``expires_at`` is the earliest end of its live versions.

    ``failing``: somewhere the retries of its renewal policy are used up, and somebody has to look. ``alert``: the most
    urgent of that policy's thresholds that a version has reached, with its severity and channels.
    """

    life: Life
    service: Service
    served_on: int
    wanted_on: int
    expires_at: datetime | None
    renew_at: datetime | None
    failing: bool
    alert: Alert | None
    reason: str
    holders: list[Holder]
    bindings: list[Binding]


def status(holders: Sequence[Row], bindings: Sequence[Row], now: datetime) -> Status:
    """Return how a certificate with these holders and bindings stands at ``now``."""
    served = [b for b in bindings if b["desired_version_id"] and b["served_version_id"] == b["desired_version_id"]]
    before = [b for b in bindings if b["served_version_id"]]
    issued = any(b["desired_version_id"] for b in bindings)
    ends = [h["not_after"] for h in holders if h["not_after"]]
    due = [h["renew_at"] for h in holders if h["renew_at"]]
    reasons = [row["reason"] for row in (*holders, *bindings) if row["reason"]]
    return Status(
        life=_life(holders, now),
        service=_service(len(served), len(before), len(bindings)) if issued else "unknown",
        served_on=len(served),
        wanted_on=len(bindings),
        expires_at=min(ends, default=None),
        renew_at=min(due, default=None),
        failing=any(row["failing"] for row in (*holders, *bindings)),
        alert=_alert(holders, now),
        reason=next(iter(reasons), "" if holders else _UNHELD),
        holders=[_shape(Holder, row) for row in holders],
        bindings=[_shape(Binding, row) for row in bindings],
    )


def _alert(holders: Sequence[Row], now: datetime) -> Alert | None:
    reached = [
        alert
        for row in holders
        if row["not_after"] and not row["revoked_at"]
        for alert in _rules(row).due(row["issued_at"], row["not_after"], row["issued_at"], now)
    ]
    return min(reached, key=lambda alert: alert.threshold_days, default=None)


def _rules(row: Row) -> AlertRules:
    severities = {int(days): severity for days, severity in row["alert_severity_map"].items()}
    return AlertRules(row["alert_thresholds_days"], severities, row["alert_channels"])


def _shape(kind: type[T], row: Row) -> T:
    return kind(**{name: row[name] for name in kind.__struct_fields__})


def _life(holders: Sequence[Row], now: datetime) -> Life:
    if not holders or any(h["version_id"] is None for h in holders):
        return "pending"
    if any(h["revoked_at"] for h in holders):
        return "revoked"
    if any(h["not_after"] <= now for h in holders):
        return "expired"
    return "due" if any(h["renew_at"] and h["renew_at"] <= now for h in holders) else "valid"


def _service(served: int, before: int, wanted: int) -> Service:
    """Say it from counts of targets: that serve what they should, that serve something of ours, and all."""
    if served == wanted:
        return "served"
    if served:
        return "partly"
    return "outdated" if before == wanted else "not served"
