"""What lists of further resources are read as; the same rules as in ``console.model``."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Team(msgspec.Struct, frozen=True):
    """A team."""

    id: str
    name: str
    description: str
    revision: int


class Owner(msgspec.Struct, frozen=True):
    """Somebody who answers for certificates."""

    id: str
    name: str
    email: str
    team_id: str
    revision: int


class AgentGroup(msgspec.Struct, frozen=True):
    """Agents by what they say of their hosts."""

    id: str
    name: str
    description: str
    match_os: str
    match_architecture: str
    match_ip_cidr: str
    match_version: str
    revision: int


class GroupMember(msgspec.Struct, frozen=True):
    """An agent of a group."""

    id: str
    name: str
    hostname: str
    os: str
    version: str
    membership: str
    online: bool


class RenewalPolicy(msgspec.Struct, frozen=True):
    """When certificates are renewed, and who is told."""

    id: str
    name: str
    auto_renew: bool
    days_before: int | None
    max_retries: int
    agent_group_id: str | None
    revision: int


class Policy(msgspec.Struct, frozen=True):
    """A rule that certificates are held against."""

    id: str
    name: str
    type: str
    severity: str
    enforce: str
    enabled: bool
    revision: int


class Violation(msgspec.Struct, frozen=True):
    """A certificate that breaks a rule, until ``closed_at``."""

    id: str
    rule_id: str
    rule_name: str
    certificate_id: str
    common_name: str
    severity: str
    message: str
    created_at: datetime
    closed_at: datetime | None


class APIKey(msgspec.Struct, frozen=True):
    """A key without its value."""

    id: str
    name: str
    role: str
    teams: tuple[str, ...] | None
    environments: tuple[str, ...] | None
    expires_at: datetime | None
    disabled_at: datetime | None
    last_used_at: datetime | None
    revision: int


class ACMEEABKey(msgspec.Struct, frozen=True):
    """A key that an ACME account is bound with, without its value."""

    id: str
    name: str
    profile_ids: tuple[str, ...]
    allowed_names: tuple[str, ...]
    team_id: str
    expires_at: datetime | None
    disabled_at: datetime | None
    revision: int


class ACMEAccount(msgspec.Struct, frozen=True):
    """An account of an ACME client."""

    id: str
    profile_id: str
    contact: tuple[str, ...]
    status: str
    eab_key_id: str | None
    created_at: datetime


class ACMEOrder(msgspec.Struct, frozen=True):
    """An order of an ACME client."""

    id: str
    account_id: str
    profile_id: str
    certificate_id: str | None
    created_at: datetime
    expires_at: datetime


class CAOrder(msgspec.Struct, frozen=True):
    """An order at an authority elsewhere."""

    id: str
    certificate_id: str
    issuer_id: str
    status: str
    authority_status: str
    problem: str
    created_at: datetime


class IssuerAccount(msgspec.Struct, frozen=True):
    """An account at an authority."""

    id: str
    directory_url: str
    state: str
    url: str
    blocked_until: datetime | None


class PersonSession(msgspec.Struct, frozen=True):
    """Somebody who has signed in."""

    id: str
    name: str
    email: str
    role: str
    last_seen_at: datetime
    expires_at: datetime


class Deployment(msgspec.Struct, frozen=True):
    """A target that should serve a certificate."""

    target_id: str
    target_name: str
    agent_id: str
    desired_generation: int | None
    served_generation: int | None
    served_until: datetime | None
    reason: str


class TimelineEntry(msgspec.Struct, frozen=True):
    """One thing that happened to a certificate."""

    id: str
    at: datetime
    source: str
    what: str
    actor: str
    target_id: str | None


class IssuerKey(msgspec.Struct, frozen=True):
    """A key of an authority."""

    ski: str
    subject: str
    key_algorithm: str
    not_after: datetime
    is_current: bool


class KindOfThing(msgspec.Struct, frozen=True):
    """A type of targets, issuers or policies."""

    type: str
    description: str


class SavedView(msgspec.Struct, frozen=True):
    """Filters of a list under a name."""

    id: str
    owner: str
    name: str
    page: str
    shared: bool
    revision: int
