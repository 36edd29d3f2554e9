"""One deployment of a group: what is to be done, how far it got and, in the end, its outcome."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from agent.deployment.installation import Installation, Snapshot
from agent.deployment.journal import JournalFolder
from agent.deployment.outcome import DeploymentOutcome, Progress
from agent.deployment.prepare import Prepared
from connectors.targets.base import Probe, Role, Runner
from core.errors import CertctlError


class Tools(msgspec.Struct, frozen=True):
    """What a deployment works with on this host."""

    journals: JournalFolder
    scratch: Path
    runner: Runner
    probe: Probe


class Member:
    """One deployment among those that are committed together. ``error`` is why its last try failed."""

    def __init__(self, prepared: Prepared, progress: Progress, journals: JournalFolder) -> None:
        self.prepared = prepared
        self.progress = progress
        self.outcome: DeploymentOutcome | None = None
        self._journals = journals
        self.begin()

    def begin(self) -> None:
        """Start from what is on the disk now; nothing may be published."""
        self.installation = Installation(self.prepared, self._journals)
        self.snapshot: Snapshot | None = None
        self.error: CertctlError | None = None
        self.obstacle: CertctlError | None = None

    @property
    def target_id(self) -> str:
        """Return whose files these are."""
        return self.prepared.item.target_id

    @property
    def fingerprint(self) -> str:
        """Return the certificate that shall be served."""
        return self.prepared.item.fingerprint

    @property
    def paths(self) -> set[Path]:
        """Return the configured paths."""
        return {file.path for file in self.prepared.files}

    @property
    def published(self) -> dict[Role, Path]:
        """Return the configured path of each file."""
        return {file.spec.role: file.path for file in self.prepared.files}

    @property
    def is_first(self) -> bool:
        """Say whether nothing stood at the paths before this one was published."""
        journal = self.installation.journal
        return journal is not None and journal.is_first


@contextmanager
def doing(members: Iterable[Member], step: str, *, record: bool = True) -> Iterator[None]:
    """Time a step that is done once for all of them."""
    with ExitStack() as stack:
        for member in members:
            stack.enter_context(member.progress.doing(step, record=record))
        yield
