"""Job states and what may follow what; pure tables, checked by one function.

Issuance:    AwaitingCSR → (AwaitingApproval →) AwaitingCA → Completed | Failed | Cancelled
Deployment:  Pending → Running → Completed | Failed | Cancelled

Completed, Failed and Cancelled are final: a retry is a new job, one attempt higher.
"""

from __future__ import annotations

from enum import StrEnum

from core.errors import Conflict


class JobKind(StrEnum):
    """What a job brings about."""

    ISSUANCE = "issuance"
    DEPLOYMENT = "deployment"


class JobState(StrEnum):
    """Where a job stands."""

    AWAITING_CSR = "AwaitingCSR"
    AWAITING_APPROVAL = "AwaitingApproval"
    AWAITING_CA = "AwaitingCA"
    PENDING = "Pending"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


FINAL = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})
LIVE = frozenset(JobState) - FINAL

_ENDS = {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}
_NEXT: dict[JobKind, dict[JobState, set[JobState]]] = {
    JobKind.ISSUANCE: {
        JobState.AWAITING_CSR: {JobState.AWAITING_APPROVAL, JobState.AWAITING_CA, *_ENDS},
        JobState.AWAITING_APPROVAL: {JobState.AWAITING_CA, JobState.FAILED, JobState.CANCELLED},
        JobState.AWAITING_CA: _ENDS,
    },
    JobKind.DEPLOYMENT: {
        JobState.PENDING: {JobState.RUNNING, JobState.CANCELLED, JobState.FAILED},
        JobState.RUNNING: _ENDS,
    },
}
FIRST = {JobKind.ISSUANCE: JobState.AWAITING_CSR, JobKind.DEPLOYMENT: JobState.PENDING}


def may_follow(kind: JobKind, old: JobState, new: JobState) -> bool:
    """Say whether a job of ``kind`` may go from ``old`` to ``new``."""
    return new in _NEXT[kind].get(old, ())


def check_transition(kind: JobKind, old: JobState, new: JobState) -> None:
    """Raise ``Conflict`` when the step is not in the table."""
    if not may_follow(kind, old, new):
        message = f"{kind} job is {old} and cannot become {new}"
        raise Conflict(message)
