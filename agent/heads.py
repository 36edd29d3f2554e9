"""Heads of the coordinator's audit trail, kept where an attacker of the coordinator's database cannot change them.

``audit-heads.jsonl`` in the state folder gets a line whenever a poll's answer brings another head; the newest lines
stay when it grows too long. ``certctl-coordinator audit verify --heads`` reads it. Nothing here is worth stopping work
for: a head that cannot be written is told once and left out.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import structlog

from core.wire import AuditHead

log = structlog.get_logger(__name__)
FILE = "audit-heads.jsonl"
MOST_BYTES = 256 * 1024


class HeadLog:
    """The file, and the last head that is in it."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE
        self._last: AuditHead | None = None
        self._troubled = False

    def keep(self, head: AuditHead | None) -> None:
        """Append a head unless it is the last one."""
        if head is None or head == self._last:
            return
        before, self._last = self._last, head
        if before is not None and head.number <= before.number:
            log.warning("audit_head_went_back", number=head.number, before=before.number)
        try:
            self._append(msgspec.json.encode(head) + b"\n")
            self._troubled = False
        except OSError as error:
            if not self._troubled:
                log.warning("audit_head_not_kept", path=str(self._path), error=error.strerror)
            self._troubled = True

    def _append(self, line: bytes) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self._path, flags, 0o600), "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size + len(line) > MOST_BYTES:
                file.seek(size - MOST_BYTES // 2)
                newest = file.read().partition(b"\n")[2]
                file.truncate(0)
                file.write(newest)
            elif size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                line = b"\n" + line  # what a crash cut off stays a line of its own
            file.write(line)
