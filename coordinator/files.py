"""The few files that the coordinator writes: complete and on the disk before they have their name, by one at a time.

What a crash left half-written has the name that the next attempt uses, so it never stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from core.crash import crash_point


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder's lock against other coordinators that start on it; it ends with the process, if not before.

    A file system that locks no folders (NFS) is taken as it is.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Put a file at ``path`` by one rename; the caller is ``alone_in`` its folder. Raises ``OSError``."""
    staged = path.with_name(f".{path.name}.new")
    staged.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(staged, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    crash_point("start.file_staged")
    staged.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
