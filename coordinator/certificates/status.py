"""How a certificate stands, on two axes: its life, and whether it is served. One function for every reader."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from coordinator.bindings.drift import Drift
from core.alerts import Alert, AlertRules

Life = Literal["pending", "valid", "due", "expired", "revoked"]
Service = Literal["served", "partly", "drifted", "outdated", "not served", "unknown"]
"""``outdated``: every target still serves an earlier version than it should; ``partly``: some do, or serve nothing;
``drifted``: somewhere an installation is not as it was left, and all others are served."""

IMPORTED = "imported"
"""The source of a certificate that was issued elsewhere, and the holder of that version."""
_UNHELD = "no agent has a key for it; bind it to a target or an agent"


_FOREIGN = {IMPORTED: f"it was issued elsewhere, and {_UNHELD}", "client": ""}


class Holder(msgspec.Struct):
    """An agent that keeps a key for the certificate, and the newest version it has."""

    agent_id: str
    version_id: str | None
    generation: int | None
    serial: str | None
    fingerprint: str | None
    not_before: datetime | None
    not_after: datetime | None
    issued_at: datetime | None
    renew_at: datetime | None
    revoked_at: datetime | None
    failures: int
    failing: bool
    reason: str


class Binding(msgspec.Struct):
    """A target that should serve the certificate; ``reason`` says why it does not serve the desired version.

    ``drift``: what the agent found when it looked again at what it had installed, empty when all is as it was.
    """

    target_id: str
    target_name: str
    agent_id: str
    desired_version_id: str | None
    served_version_id: str | None
    served_at: datetime | None
    drift: Drift
    drift_since: datetime | None
    failures: int
    failing: bool
    reason: str


class Imported(msgspec.Struct):
    """The version whose key nobody here holds, where there is no other: issued elsewhere, or to a client.

    ``holder`` is ``imported`` or ``client``.
    """

    holder: str
    not_before: datetime
    not_after: datetime
    revoked_at: datetime | None


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


def status(
    holders: Sequence[Holder],
    bindings: Sequence[Binding],
    rules: AlertRules,
    now: datetime,
    imported: Imported | None = None,
) -> Status:
    """Return how a certificate with these holders and bindings stands at ``now``; ``rules`` are its policy's.

    The function ``stand_anew`` of the schema follows the same rules, for lists.
    """
    served = [b for b in bindings if b.desired_version_id and b.served_version_id == b.desired_version_id]
    before = [b for b in bindings if b.served_version_id]
    issued = any(b.desired_version_id for b in bindings)
    foreign = None if holders else imported
    ends = [h.not_after for h in holders if h.not_after] or ([foreign.not_after] if foreign else [])
    due = [h.renew_at for h in holders if h.renew_at]
    reasons = [reason for reason in (*(h.reason for h in holders), *(b.reason for b in bindings)) if reason]
    return Status(
        life=_life_elsewhere(foreign, now) if foreign else _life(holders, now),
        service=_service(served, before, bindings) if issued else "unknown",
        served_on=len(served),
        wanted_on=len(bindings),
        expires_at=min(ends, default=None),
        renew_at=min(due, default=None),
        failing=any(h.failing for h in holders) or any(b.failing for b in bindings),
        alert=_alert(holders, foreign, rules, now),
        reason=next(iter(reasons), "" if holders else _FOREIGN[foreign.holder] if foreign else _UNHELD),
        holders=list(holders),
        bindings=list(bindings),
    )


def _alert(holders: Sequence[Holder], foreign: Imported | None, rules: AlertRules, now: datetime) -> Alert | None:
    spans = [(h.issued_at, h.not_after) for h in holders if h.issued_at and h.not_after and not h.revoked_at]
    if foreign and not foreign.revoked_at:
        spans.append((foreign.not_before, foreign.not_after))
    reached = [alert for begin, end in spans for alert in rules.due(begin, end, begin, now)]
    return min(reached, key=lambda alert: alert.threshold_days, default=None)


def _life_elsewhere(foreign: Imported, now: datetime) -> Life:
    if foreign.revoked_at:
        return "revoked"
    return "expired" if foreign.not_after <= now else "valid"


def _life(holders: Sequence[Holder], now: datetime) -> Life:
    if not holders or any(h.version_id is None for h in holders):
        return "pending"
    if any(h.revoked_at for h in holders):
        return "revoked"
    if any(h.not_after and h.not_after <= now for h in holders):
        return "expired"
    return "due" if any(h.renew_at and h.renew_at <= now for h in holders) else "valid"


def _service(served: Sequence[Binding], before: Sequence[Binding], wanted: Sequence[Binding]) -> Service:
    """Say it from the targets that serve what they should, that serve something of ours, and all of them."""
    drifted, sound = sum(bool(b.drift) for b in wanted), sum(not b.drift for b in served)
    if drifted and sound + drifted == len(wanted):
        return "drifted"
    if len(served) == len(wanted):
        return "served"
    if served:
        return "partly"
    return "outdated" if len(before) == len(wanted) else "not served"
