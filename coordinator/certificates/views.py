"""What callers send and read of certificates."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

from coordinator.certificates.revocation import Reason
from coordinator.certificates.status import Status
from coordinator.profiles.service import Lifetime
from coordinator.web.resource import patch_of
from coordinator.web.table import Strict
from core.keys import KeyAlgorithm

Short = Annotated[str, msgspec.Meta(max_length=128)]
MOST_TARGETS = 500


class Certificate(msgspec.Struct):
    """What is wanted and how it stands; ``status`` has two axes, life and service.

    ``agent_id`` holds a key for it beside the agents of its targets. An archived one is not renewed and served nowhere.
    ``source`` is how it came here: ``api``, or ``imported`` when it was issued elsewhere.
    """

    id: str
    name: str
    common_name: str
    sans: list[str]
    profile_id: str
    issuer_id: str
    renewal_policy_id: str
    owner_id: str
    team_id: str
    environment: str
    tags: dict[str, str]
    key_algorithm: str
    lifetime_s: int
    target_ids: list[str]
    agent_id: str | None
    archived_at: datetime | None
    source: str
    revision: int
    created_at: datetime
    updated_at: datetime
    status: Status


class Owned(Strict, kw_only=True):
    """Whose a certificate is, and by which rules it is renewed."""

    profile_id: str = "prof-default"
    issuer_id: str | None = None
    renewal_policy_id: str = "rp-default"
    owner_id: str = "default"
    team_id: str = "default"
    environment: Short = ""
    tags: dict[Short, Annotated[str, msgspec.Meta(max_length=1000)]] = msgspec.field(default_factory=dict)


class CertificateBody(Owned, kw_only=True):
    """Only ``common_name`` is needed. With ``target_ids`` or ``agent_id`` the issuance starts at once."""

    common_name: str
    sans: tuple[str, ...] = ()
    name: Short = ""
    key_algorithm: KeyAlgorithm | None = None
    lifetime_s: Lifetime | None = None
    target_ids: Annotated[tuple[str, ...], msgspec.Meta(max_length=MOST_TARGETS)] = ()
    agent_id: str | None = None


class CreateCertificate(CertificateBody, kw_only=True):
    """Only ``common_name`` is needed; ``id`` may be chosen.

    With ``target_ids`` or ``agent_id`` the issuance starts at once.
    """

    id: str | None = None


class PatchCertificate(patch_of(CertificateBody)):  # type: ignore[misc]  # made of the body's fields at run time
    """The fields to change; null brings back a default. ``archived`` false takes an archived one up again."""

    archived: bool | msgspec.UnsetType = msgspec.UNSET


class Changed(msgspec.Struct):
    """A certificate as it is now, and the jobs of the issuance that this began.

    The first one's id names the run to follow; none means that what is issued already is still what is wanted.
    """

    certificate: Certificate
    job_ids: list[str]

    @property
    def revision(self) -> int:
        """Return what the entity tag is made of."""
        return self.certificate.revision


class Renewal(msgspec.Struct):
    """The issuance jobs of a renewal; ``run_id`` is what to follow.

    There are none where only an ACME client holds the certificate: it is told to replace it (RFC 9773).
    """

    certificate_id: str
    job_ids: list[str]
    run_id: str | None


class Revoke(Strict):
    """Why (RFC 5280 section 5.3.1), and whether to ``renew``: unless said, by the reason.

    What has ceased operation or is on hold is not renewed; all else is, as long as somebody holds it.
    """

    reason: Reason = "unspecified"
    renew: bool | None = None


class Revocation(msgspec.Struct):
    """The versions that were revoked, and the issuance jobs that replace them."""

    certificate_id: str
    reason: str
    version_ids: list[str]
    job_ids: list[str]


class Deploy(Strict):
    """``target_id`` is the only target that is meant."""

    target_id: str | None = None


class Sent(msgspec.Struct):
    """The deployment jobs, those already in hand included."""

    certificate_id: str
    job_ids: list[str]


class Version(msgspec.Struct):
    """One issued certificate; ``pem`` is leaf first, without the root. One that was imported has no ``issuer_id``."""

    id: str
    certificate_id: str
    generation: int
    holder: str
    issuer_id: str | None
    serial: str
    fingerprint: str
    spki_sha256: str
    key_algorithm: str
    not_before: datetime
    not_after: datetime
    revoked_at: datetime | None
    revocation_reason: str | None
    created_at: datetime
    pem: str


class TimelineEntry(msgspec.Struct):
    """One thing that happened: an audit event, or a step of a job with its duration in ``details``.

    ``what`` is the event's action or the step's name, ``actor`` who did it: for a step, the job's agent.
    """

    id: str
    at: datetime
    source: str
    what: str
    actor: str
    job_id: str | None
    target_id: str | None
    details: dict[str, Any]
