"""Messages between agent and coordinator: JSON bodies as typed structs.

Unknown fields are ignored here, and only here, so that an agent one version away keeps working. ``bytes`` travel as
base64. Durations are milliseconds measured with a monotonic timer on the side that worked; instants are never compared
across hosts.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from core.evidence import ErrorType, Evidence
from core.names import Name

PROTOCOL_VERSION = 1
PROTOCOL_HEADER = "Certctl-Protocol"
TIME_HEADER = "Certctl-Agent-Time"
"""The agent's wall clock in Unix milliseconds, sent with every request; the coordinator derives the skew from it."""

REPORT_CONTEXT = b"certctl agent report v1\0"
NONCE_CONTEXT = b"certctl agent nonce v1\0"
"""Prefixes of what an identity key signs, so that no signature of one kind can serve as another."""


HEARTBEAT_S = 45.0
"""How often a coordinator sends a space to an agent that waits for work: less than the minute after which proxies and
firewalls cut silent connections."""


class Metadata(msgspec.Struct, frozen=True):
    """What an agent says about its host; shown to operators, trusted for nothing."""

    hostname: str = ""
    os: str = ""
    architecture: str = ""
    address: str = ""
    version: str = ""


class Enrollment(msgspec.Struct, frozen=True):
    """First contact: public keys (raw, 32 bytes each) under a one-time token. Repeating it is harmless."""

    token: str
    name: str
    identity_key: bytes
    sealing_key: bytes
    time_ms: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    metadata: Metadata = Metadata()


class Enrolled(msgspec.Struct, frozen=True):
    """The answer to an enrollment."""

    agent_id: str
    name: str


class Nonce(msgspec.Struct, frozen=True):
    """A challenge to be signed once, within a minute."""

    nonce: bytes


class TokenRequest(msgspec.Struct, frozen=True):
    """``signature`` is Ed25519 over NONCE_CONTEXT + agent id + NUL + nonce."""

    nonce: bytes
    signature: bytes
    metadata: Metadata = Metadata()


class Token(msgspec.Struct, frozen=True):
    """A bearer token for the agent's own routes."""

    token: str
    expires_in_s: int


class IssuanceItem(msgspec.Struct, frozen=True, tag="issuance", tag_field="kind"):
    """Make a key and a CSR with exactly these names.

    ``sealed_key`` is empty, or a key (PKCS#8 PEM) that the coordinator made, for this agent alone (``core.hpke``): an
    agent whose host allows that may use it, every other makes its own. ``traceparent`` is where its trace goes on, if
    there is one.
    """

    job_id: str
    lease_epoch: int
    certificate_id: str
    common_name: str
    names: tuple[Name, ...]
    key_algorithm: str
    traceparent: str = ""
    sealed_key: bytes = b""


class DeploymentItem(msgspec.Struct, frozen=True, tag="deployment", tag_field="kind"):
    """Install one version of a certificate in one target.

    ``chain`` is DER, leaf first, without the root; ``root`` is DER as well, or empty where the coordinator does not
    know it. ``config`` is the target's own, decoded by its connector; its secrets are in ``sealed`` by their paths,
    each for this agent alone (``core.hpke``). ``traceparent`` is where its trace goes on, if there is one.
    """

    job_id: str
    lease_epoch: int
    certificate_id: str
    version_id: str
    target_id: str
    target_type: str
    config: dict[str, Any]
    chain: tuple[bytes, ...]
    fingerprint: str
    spki_sha256: str
    names: tuple[Name, ...] = ()
    sealed: dict[str, bytes] = {}
    traceparent: str = ""
    root: bytes = b""


class TrialItem(msgspec.Struct, frozen=True):
    """Try a deployment to a target without changing anything; offered until its report is stored.

    There is no lease: a trial that is done twice does no harm. The fields are those of a ``DeploymentItem``; ``names``
    are those of the certificate that should be there, none when there is none yet.
    """

    trial_id: str
    target_id: str
    target_type: str
    config: dict[str, Any]
    names: tuple[Name, ...] = ()
    sealed: dict[str, bytes] = {}


class ChallengeItem(msgspec.Struct, frozen=True):
    """The answer to an ACME challenge, to be shown where ``name`` leads, or to be taken away when it is ``over``.

    There is no lease: an answer that is shown twice does no harm. It is offered until the report is stored.
    """

    challenge_id: str
    type: str
    name: Name
    token: str
    key_authorization: str
    over: bool = False


class LookItem(msgspec.Struct, frozen=True):
    """A challenge of an ACME client to look at from where the agent stands, and CAA for ``caa_identities`` if any.

    There is no lease: a look that is taken twice does no harm. Where it may lead, by which ports and resolvers, says
    the agent's host alone.
    """

    look_id: str
    type: str
    name: Name
    wildcard: bool
    token: str
    thumbprint: str
    account_url: str
    caa_identities: tuple[str, ...] = ()
    persist_issuers: tuple[str, ...] = ()


class AuditHead(msgspec.Struct, frozen=True):
    """The end of the coordinator's audit trail: what was sealed up to here cannot be changed without it showing.

    ``head`` is the SHA-256 of ``core.trail`` in hex, ``signature`` that of the sealing key.
    """

    number: int
    head: str
    events: int
    key_id: str
    signature: bytes
    sealed_at: datetime


class Work(msgspec.Struct, frozen=True):
    """The answer to a poll; empty when nothing came up while it waited.

    ``wait_s`` is the longest wait that the next poll may ask for; 0 from a coordinator that does not say. Should the
    coordinator go away, its agents come back spread over ``spread_s`` seconds. ``audit_head`` is for the agent to
    keep: one that it has elsewhere is what an attacker of the database cannot change.
    """

    items: tuple[IssuanceItem | DeploymentItem, ...] = ()
    wait_s: float = 0.0
    spread_s: float = 0.0
    audit_head: AuditHead | None = None
    trials: tuple[TrialItem, ...] = ()
    challenges: tuple[ChallengeItem, ...] = ()
    looks: tuple[LookItem, ...] = ()


class CSRSubmission(msgspec.Struct, frozen=True):
    """A CSR (DER, PKCS#10) for an issuance job. Submitting the same one again gives the same answer."""

    lease_epoch: int
    csr: bytes
    key_ms: float = 0.0
    csr_ms: float = 0.0


class CSRAnswer(msgspec.Struct, frozen=True):
    """``issued`` with the chain (DER, leaf first, no root), or ``pending`` while a CA or an approver is asked."""

    state: Literal["issued", "pending"]
    version_id: str = ""
    chain: tuple[bytes, ...] = ()


class Step(msgspec.Struct, frozen=True):
    """One finished step of a job with its duration."""

    name: str
    ms: float
    detail: str = ""


class Failure(msgspec.Struct, frozen=True):
    """Why a job did not succeed, for a person. ``transient`` says whether trying again alone may help."""

    step: str
    cause: str
    transient: bool = True


class JobReport(msgspec.Struct, frozen=True):
    """How a job ended on the agent's host.

    ``served``: the new certificate was seen on the wire. ``unchanged``: it was already installed and seen. ``stored``:
    it was read back where it belongs, and the target does not say where anybody could see it. ``failed``: it is not
    served; ``undo`` then says whether the old state is back. ``served_fingerprint`` is what was last seen.
    """

    agent_id: str
    job_id: str
    lease_epoch: int
    outcome: Literal["served", "stored", "unchanged", "failed"]
    steps: tuple[Step, ...] = ()
    failure: Failure | None = None
    served_fingerprint: str = ""
    undo: Literal["not_needed", "done", "failed"] = "not_needed"


class TrialReport(msgspec.Struct, frozen=True):
    """How a trial went: its steps, and the first that failed. The same again changes nothing."""

    steps: Annotated[tuple[Step, ...], msgspec.Meta(max_length=50)] = ()
    failure: Failure | None = None


class ChallengeReport(msgspec.Struct, frozen=True):
    """What became of an answer: it is ``shown`` at ``where``, could not be, or is ``gone``; it may be said again."""

    state: Literal["shown", "failed", "gone"]
    where: Annotated[str, msgspec.Meta(max_length=300)] = ""
    problem: Annotated[str, msgspec.Meta(max_length=2000)] = ""


LookState = Literal["seen", "failed", "busy", "none"]
"""How a challenge looked: as it has to, or not. ``busy``: there was no time for it; ``none``: the agent's host does not
let it look."""


class LookReport(msgspec.Struct, frozen=True):
    """How a challenge looked from where an agent stands; ``type`` is that of the ACME error when it ``failed``.

    ``evidence`` is of the challenge, and of CAA. The same again changes nothing.
    """

    state: LookState
    type: ErrorType | Literal[""] = ""
    detail: Annotated[str, msgspec.Meta(max_length=2000)] = ""
    evidence: Annotated[tuple[Evidence, ...], msgspec.Meta(max_length=2)] = ()


MOST_FINDINGS = 100
InstalledState = Literal["in place", "changed", "missing", "served differs"]
"""How an installation stands when it is looked at again: ``changed`` and ``missing`` are about what was installed,
``served differs`` is about what a client is shown, and counts more."""


class Finding(msgspec.Struct, frozen=True):
    """What an agent found of a version that it had installed. ``served_fingerprint`` is empty when nothing answered."""

    target_id: str
    version_id: str
    state: InstalledState
    cause: Annotated[str, msgspec.Meta(max_length=2000)] = ""
    served_fingerprint: str = ""


class Findings(msgspec.Struct, frozen=True):
    """What an agent found that is not as it should be, or is again. The same again changes nothing."""

    findings: Annotated[tuple[Finding, ...], msgspec.Meta(min_length=1, max_length=MOST_FINDINGS)]


class FindingsTaken(msgspec.Struct, frozen=True):
    """``unwanted`` are targets of which the agent need not look at that version any more."""

    unwanted: tuple[str, ...] = ()


class SignedReport(msgspec.Struct, frozen=True):
    """A ``JobReport`` as the JSON bytes that were signed; ``signature`` is Ed25519 over REPORT_CONTEXT + payload."""

    payload: bytes
    signature: bytes


class Receipt(msgspec.Struct, frozen=True):
    """The coordinator has stored the report."""

    state: str
