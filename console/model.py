"""Answers of the API as far as they are shown; fields that are not named here are ignored."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

FINAL_STATES = frozenset({"Completed", "Failed", "Cancelled"})


class Holder(msgspec.Struct, frozen=True):
    """An agent that keeps a key for a certificate, and its newest version."""

    agent_id: str
    version_id: str | None
    generation: int | None
    serial: str | None
    fingerprint: str | None
    not_after: datetime | None
    renew_at: datetime | None
    failures: int = 0
    reason: str = ""


class Binding(msgspec.Struct, frozen=True):
    """A target that should serve a certificate."""

    target_id: str
    target_name: str
    agent_id: str
    desired_version_id: str | None
    served_version_id: str | None
    served_at: datetime | None
    drift: str = ""
    failures: int = 0
    reason: str = ""

    @property
    def is_served(self) -> bool:
        """Say whether the target serves what it should."""
        return self.desired_version_id is not None and self.served_version_id == self.desired_version_id


class Status(msgspec.Struct, frozen=True):
    """How a certificate stands: its life, and whether it is served."""

    life: str
    service: str
    served_on: int
    wanted_on: int
    expires_at: datetime | None
    renew_at: datetime | None
    reason: str = ""
    holders: tuple[Holder, ...] = ()
    bindings: tuple[Binding, ...] = ()


class Certificate(msgspec.Struct, frozen=True):
    """What is wanted."""

    id: str
    name: str
    common_name: str
    sans: tuple[str, ...]
    profile_id: str
    issuer_id: str
    key_algorithm: str
    lifetime_s: int
    created_at: datetime
    status: Status
    owner_id: str = ""
    team_id: str = ""
    environment: str = ""
    tags: dict[str, str] = {}


class Version(msgspec.Struct, frozen=True):
    """One issued certificate."""

    id: str
    generation: int
    holder: str
    serial: str
    fingerprint: str
    not_before: datetime
    not_after: datetime
    revoked_at: datetime | None = None


class Created(msgspec.Struct, frozen=True):
    """A new certificate, and the jobs of its issuance; the first one's id names the run."""

    certificate: Certificate
    job_ids: tuple[str, ...]


class Renewal(msgspec.Struct, frozen=True):
    """A renewal that was started."""

    certificate_id: str
    job_ids: tuple[str, ...]
    run_id: str | None


class Agent(msgspec.Struct, frozen=True):
    """An agent and its host."""

    id: str
    name: str
    hostname: str
    os: str
    architecture: str
    address: str
    version: str
    skew_ms: int
    last_seen_at: datetime
    enrolled_at: datetime
    retired_at: datetime | None
    online: bool


class TrialStep(msgspec.Struct, frozen=True):
    """A step of a trial that succeeded."""

    name: str
    ms: float


class TrialFailure(msgspec.Struct, frozen=True):
    """The step that a deployment would fail in, and why."""

    step: str
    cause: str


class Trial(msgspec.Struct, frozen=True):
    """A deployment tried out without changing anything; ``ok`` is None until it has ended."""

    id: str
    ok: bool | None
    requested_at: datetime
    steps: list[TrialStep] = []
    failure: TrialFailure | None = None
    finished_at: datetime | None = None


class Target(msgspec.Struct, frozen=True):
    """A place where certificates are installed."""

    id: str
    name: str
    type: str
    agent_id: str
    config: dict[str, Any]
    created_at: datetime
    last_test: Trial | None = None
    drift: str = ""


class Step(msgspec.Struct, frozen=True):
    """One entry of a job's timeline: a mark of the coordinator (``step``) or finished work (``name``, ``ms``)."""

    at: datetime
    step: str = ""
    name: str = ""
    ms: float | None = None
    detail: str = ""

    @property
    def label(self) -> str:
        """Return what happened."""
        return self.step or self.name


class Failure(msgspec.Struct, frozen=True):
    """Why a job did not succeed."""

    step: str
    cause: str
    transient: bool = True


class Job(msgspec.Struct, frozen=True):
    """One attempt."""

    id: str
    kind: str
    run_id: str
    certificate_id: str
    agent_id: str | None
    target_id: str | None
    state: str
    trigger: str
    attempt: int
    not_before: datetime
    failure: Failure | None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    timeline: tuple[Step, ...] = ()
    undo: str = ""
    served_fingerprint: str = ""

    @property
    def part(self) -> tuple[str, str | None, str | None]:
        """Return what this attempt is about; attempts at the same thing share it."""
        return self.kind, self.agent_id, self.target_id

    @property
    def is_live(self) -> bool:
        """Say whether the attempt goes on."""
        return self.state not in FINAL_STATES


class RunStep(msgspec.Struct, frozen=True):
    """One step of a run, and what proves it."""

    step: str
    at: datetime
    ms: float | None
    agent_id: str | None
    target_id: str | None
    evidence: dict[str, str]


class Run(msgspec.Struct, frozen=True):
    """What one request brought about; ``seen`` counts the entries of all timelines."""

    id: str
    certificate_id: str
    state: str
    seen: int
    jobs: tuple[Job, ...]
    steps: tuple[RunStep, ...] = ()


class Profile(msgspec.Struct, frozen=True):
    """What may be issued."""

    id: str
    name: str
    description: str
    default_issuer_id: str
    key_algorithms: tuple[str, ...]
    default_lifetime_s: int
    max_lifetime_s: int
    extended_key_usages: tuple[str, ...]
    allowed_names: tuple[str, ...]
    enabled: bool
    created_at: datetime


class Issuer(msgspec.Struct, frozen=True):
    """A certificate authority."""

    id: str
    name: str
    type: str
    enabled: bool
    created_at: datetime


class AuditEvent(msgspec.Struct, frozen=True):
    """One thing that happened."""

    id: int
    at: datetime
    actor: str
    action: str
    resource_type: str
    resource_id: str
    details: dict[str, Any]


class EnrollmentToken(msgspec.Struct, frozen=True):
    """An enrollment token without its value."""

    id: str
    note: str
    created_by: str
    created_at: datetime
    expires_at: datetime
    used_by: str | None
    used_at: datetime | None


class CreatedToken(msgspec.Struct, frozen=True):
    """A new enrollment token with its value."""

    id: str
    token: str
    expires_at: datetime


class Release(msgspec.Struct, frozen=True):
    """The coordinator's version."""

    version: str


class Caller(msgspec.Struct, frozen=True):
    """Who the coordinator takes the caller for."""

    user: str
    role: str
    permissions: tuple[str, ...] = ()


class Change(msgspec.Struct, frozen=True):
    """What an approval is about: a field that differs from the last version."""

    field: str
    before: str
    after: str


class Vote(msgspec.Struct, frozen=True):
    """What somebody said."""

    by: str
    name: str
    vote: str
    note: str
    at: datetime


class Wanted(msgspec.Struct, frozen=True):
    """What will be signed."""

    common_name: str
    names: tuple[str, ...]
    key_algorithm: str
    lifetime_s: int
    issuer_id: str


class Approval(msgspec.Struct, frozen=True):
    """An issuance that needs other persons' word."""

    id: str
    state: str
    certificate_id: str
    job_id: str
    profile_id: str
    requested_by: tuple[str, ...]
    required: int
    approved: int
    wanted: Wanted
    changes: tuple[Change, ...]
    votes: tuple[Vote, ...]
    reason: str
    expires_at: datetime


class Notification(msgspec.Struct, frozen=True):
    """A message on a channel."""

    id: str
    type: str
    severity: str
    channel: str
    recipient: str
    subject: str
    message: str
    status: str
    retry_count: int
    last_error: str
    read_at: datetime | None
    created_at: datetime


class Loop(msgspec.Struct, frozen=True):
    """Something that the coordinators do by themselves."""

    name: str
    purpose: str
    last_run_at: datetime | None
    last_ms: float | None
    last_error: str


class NotificationCounts(msgspec.Struct, frozen=True):
    """How many notifications want to be looked at."""

    unread: int
    pending: int
    failed: int
    dead: int
