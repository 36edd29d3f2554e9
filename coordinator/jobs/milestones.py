"""A run told as its steps – requested, key, CSR, signed, deployed, served – each with its time and what proves it.

Pure: rows in, steps out. Attempts that failed are told as well; retries repeat the steps that they repeat.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

import msgspec

from core.states import JobKind, JobState

StepName = Literal[
    "requested",
    "key",
    "csr",
    "approval asked",
    "approved",
    "signed",
    "delivered",
    "deployed",
    "served",
    "stored",
    "failed",
    "cancelled",
]
_ISSUANCE: dict[str, StepName] = {
    "queued": "requested",
    "key": "key",
    "csr": "csr",
    "awaitingapproval": "approval asked",
    "awaitingca": "approved",
    "signed": "signed",
}
_DEPLOYMENT: dict[str, StepName] = {"delivered": "delivered", "reloaded": "deployed", "completed": "served"}
_ENDS: dict[str, StepName] = {"failed": "failed", "cancelled": "cancelled"}
_PROOFS: dict[StepName, tuple[str, ...]] = {
    "csr": ("spki_sha256",),
    "approval asked": ("approval_id",),
    "approved": ("approval_id", "votes"),
    "signed": ("version_id", "fingerprint", "serial", "issuer_id", "issuer_ski"),
    "deployed": ("version_id",),
    "served": ("version_id", "served_fingerprint", "report", "signature"),
    "stored": ("version_id", "report", "signature"),
    "failed": ("served_fingerprint", "report", "signature"),
}


class RunStep(msgspec.Struct):
    """One step. ``ms`` is how long it took, where that was measured.

    ``evidence`` by step: ``csr`` the SHA-256 of the public key; ``approved`` the approval, which has the votes;
    ``signed`` version, fingerprint, serial number and the CA key; ``served`` the fingerprint that the agent saw on the
    wire, with its report (base64 of the bytes that were signed) and the signature under its identity key; ``stored``
    the report of what was read back at a target that names no probe; ``failed``
    step, cause, and the report where there is one.
    """

    step: StepName
    at: datetime
    ms: float | None
    job_id: str
    agent_id: str | None
    target_id: str | None
    evidence: dict[str, str]


class Attempt(Protocol):
    """What this needs to know of a job."""

    id: str
    kind: str
    agent_id: str | None
    target_id: str | None
    trigger: str
    state: str
    failure: dict[str, Any] | None
    timeline: list[dict[str, Any]]


def steps(jobs: Sequence[Attempt], proofs: Mapping[str, Mapping[str, Any]]) -> list[RunStep]:
    """Return the steps of a run in their order; ``proofs`` are what is known of each job by its id."""
    found = [step for job in jobs for step in _of(job, proofs.get(job.id, {}))]
    return sorted(found, key=lambda step: step.at)


def _of(job: Attempt, proof: Mapping[str, Any]) -> Iterator[RunStep]:
    names = _ENDS | (_ISSUANCE if job.kind == JobKind.ISSUANCE else _DEPLOYMENT)
    for entry in job.timeline:
        name = names.get(entry["step"])
        if name is None or (name == "approved" and not proof.get("approval_id")):
            continue
        if name == "served" and not proof.get("served_fingerprint"):
            name = "stored"
        evidence = {key: str(proof[key]) for key in _PROOFS.get(name, ()) if proof.get(key)}
        if name == "requested":
            evidence = {"trigger": job.trigger}
        if job.failure and job.state in {JobState.FAILED, JobState.CANCELLED} and name in _ENDS.values():
            evidence |= {"step": str(job.failure["step"]), "cause": str(job.failure["cause"])}
        at = msgspec.convert(entry["at"], datetime)
        yield RunStep(name, at, entry.get("ms"), job.id, job.agent_id, job.target_id, evidence)
