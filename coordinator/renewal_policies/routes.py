"""Renewal policies over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from coordinator.database.connection import Transaction
from coordinator.database.driver import Record as Row
from coordinator.policies import service as policies
from coordinator.renewal_policies import service, store
from coordinator.web.paging import PageQuery
from coordinator.web.resource import Resource, Use, routes_of
from coordinator.web.table import Permission, Strict
from core.alerts import Severity

Days = Annotated[int, msgspec.Meta(ge=0, le=3650)]
Channels = Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=64)], ...], msgspec.Meta(max_length=20)]
OnDrift = Literal["repair", "report"]


class RenewalPolicyBody(Strict):
    """When certificates are renewed, and who is told.

    ``days_before`` counts when it is less than half of the lifetime; without it a third of the lifetime is left. After
    ``max_retries`` failures in a row the certificate is failing, and tried again at the longest pause. With
    ``agent_group_id`` only what agents of that group hold is renewed by itself. ``alert_severity_map`` goes from days
    to the severity of thresholds up to there, ``alert_channels`` from severities to channels. ``on_drift`` is what
    happens when an agent finds that an installation was changed behind its back: ``repair`` installs it again.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    description: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    auto_renew: bool = True
    days_before: Annotated[int, msgspec.Meta(ge=1, le=3650)] | None = None
    max_retries: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 10
    retry_interval_s: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 2
    alert_thresholds_days: Annotated[tuple[Days, ...], msgspec.Meta(max_length=20)] = (30, 14, 7, 0)
    alert_channels: dict[Severity, Channels] = msgspec.field(default_factory=dict)
    alert_severity_map: dict[Annotated[str, msgspec.Meta(pattern="^[0-9]{1,4}$")], Severity] = msgspec.field(
        default_factory=dict
    )
    agent_group_id: str | None = None
    on_drift: OnDrift = "repair"


class RenewalPolicy(msgspec.Struct):
    """A renewal policy as it is."""

    id: str
    name: str
    description: str
    auto_renew: bool
    days_before: int | None
    max_retries: int
    retry_interval_s: int
    alert_thresholds_days: list[int]
    alert_channels: dict[str, list[str]]
    alert_severity_map: dict[str, str]
    agent_group_id: str | None
    on_drift: OnDrift
    revision: int
    created_at: datetime
    updated_at: datetime


class RenewalPolicyQuery(PageQuery):
    """Filters of the list of renewal policies."""

    name: str | None = None
    auto_renew: bool | None = None
    agent_group_id: str | None = None


async def _follows(tx: Transaction, row: Row, before: Row | None) -> None:
    await service.policy_changed(tx, row, before)
    await policies.renewal_policy_changed(tx, row, before)


RENEWAL_POLICIES = Resource(
    "renewal_policy",
    "/api/v1/renewal-policies",
    "rp",
    store.TABLE,
    store.LISTING,
    RenewalPolicyBody,
    RenewalPolicy,
    Permission.POLICIES_WRITE,
    RenewalPolicyQuery,
    follows=_follows,
    uses=(Use("certificates", "renewal_policy_id", "certificates"),),
    references={"agent_group_id": "agent_group_id"},
    kept=frozenset({"rp-default"}),
)
ROUTES = routes_of(RENEWAL_POLICIES)
