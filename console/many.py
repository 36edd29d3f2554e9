"""What is read of operations on many certificates, and of files that are imported; as in ``console.model``."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Revocation(msgspec.Struct, frozen=True):
    """What was revoked, and the issuance jobs that replace it."""

    reason: str
    version_ids: tuple[str, ...]
    job_ids: tuple[str, ...]


class Operation(msgspec.Struct, frozen=True):
    """What is done to many certificates, and how far it has come."""

    id: str
    kind: str
    state: str
    actor: str
    total: int
    waiting: int
    succeeded: int
    skipped: int
    failed: int
    cancelled: int
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def done(self) -> int:
        """Return of how many certificates it is known what became of them."""
        return self.total - self.waiting


class SampleCertificate(msgspec.Struct, frozen=True):
    """A certificate among those that an operation is about."""

    id: str
    name: str


class Begun(msgspec.Struct, frozen=True):
    """An operation that was started, or planned: then with a snapshot to start it with."""

    operation: Operation
    snapshot: str | None
    sample: tuple[SampleCertificate, ...]


class OperationItem(msgspec.Struct, frozen=True):
    """What became of one certificate of an operation."""

    certificate_id: str
    outcome: str
    detail: str
    job_ids: tuple[str, ...]


class ImportedEntry(msgspec.Struct, frozen=True):
    """What became of one entry of an imported file."""

    entry: str
    outcome: str
    subject: str = ""
    certificate_id: str | None = None
    detail: str = ""


class Imported(msgspec.Struct, frozen=True):
    """What became of an imported file."""

    failed: int
    entries: tuple[ImportedEntry, ...]
