"""The undo journal: what to put back, on disk before anything changes and gone when the change has proved itself.

One JSON file per target in ``<state_dir>/journal/``. It holds paths and version numbers, no keys and no commands: the
commands come from the connector and the host's policy again when it is read.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from agent.deployment.files import Attributes, make_folder, remove, replace_with_file
from agent.files import explained
from connectors.targets.base import Layout, Role
from core.errors import CertctlError, Misconfigured
from core.secret import Secret

log = structlog.get_logger(__name__)


class JournalFile(msgspec.Struct, frozen=True):
    """One configured path, and what stood there: nothing, a plain file, or a link with the text ``link``."""

    role: Role
    path: str
    was: Literal["absent", "file", "link"]
    link: str = ""


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """How to undo one change. ``previous`` holds the old contents; ``created`` are the versions this change made.

    ``api``: the daemon takes files by its API. ``files_back``: the files are as before, and only the daemon may not
    have loaded them again.
    """

    target_id: str
    target_type: str
    service: str
    validate_action: str | None
    reload_action: str | None
    layout: Layout
    store: str
    files: tuple[JournalFile, ...]
    previous: int | None
    new: int
    current_before: int | None
    created: tuple[int, ...]
    files_back: bool = False
    api: bool = False

    @property
    def paths(self) -> dict[Role, Path]:
        """Return the configured paths."""
        return {file.role: Path(file.path) for file in self.files}

    @property
    def is_first(self) -> bool:
        """Say whether nothing stood at any of the paths before."""
        return all(file.was == "absent" for file in self.files)


class JournalFolder:
    """The journals of this agent; synchronous."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, target_id: str) -> Path:
        """Return where the journal of a target is."""
        return self._folder / f"{target_id}.json"

    def targets(self) -> list[str]:
        """Return the targets whose last change was interrupted."""
        with explained("reading the undo journals"):
            if not self._folder.is_dir():
                return []
            return sorted(entry.stem for entry in self._folder.iterdir() if entry.suffix == ".json")

    def write(self, journal: Journal) -> None:
        """Store a journal durably.

        That the files are back is noted where a journal says otherwise, and only if there is room for the note: without
        it, a repetition puts back once more what is back already.
        """
        if not journal.files_back:
            self._write(journal)
        elif self.path(journal.target_id).exists():
            try:
                self._write(journal)
            except CertctlError as error:
                log.warning("undo_not_noted", target_id=journal.target_id, cause=error.detail)

    def _write(self, journal: Journal) -> None:
        temporary = f".{journal.target_id}.tmp"
        with explained("writing the undo journal"):
            make_folder(self._folder, 0o700)
            text = Secret(msgspec.json.encode(journal))
            try:
                replace_with_file(self.path(journal.target_id), temporary, text, Attributes(0o600))
            except OSError:
                with suppress(OSError):
                    (self._folder / temporary).unlink(missing_ok=True)
                raise

    def read(self, target_id: str) -> Journal | None:
        """Return a target's journal, None when its last change was finished."""
        path = self.path(target_id)
        try:
            with explained("reading the undo journal"):
                return msgspec.json.decode(path.read_bytes(), type=Journal) if path.exists() else None
        except msgspec.DecodeError as error:
            remedy = "compare the target's files with its .certctl folder, then delete the journal"
            raise Misconfigured(f"the undo journal {path} is damaged; {remedy}") from error

    def delete(self, target_id: str) -> None:
        """Forget a change that has proved itself or was undone."""
        with explained("removing the undo journal"):
            remove(self.path(target_id))
