"""The file system's edge: small private files, durable names, and causes a person can act on.

A private file is written whole or not at all, and is on the disk before anybody relies on it.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.crash import crash_point
from core.errors import CertctlError, Misconfigured, Transient


def write_private(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` with mode 0600: to a temporary file, flushed to disk, then renamed."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with explained(f"writing {path}"):
        try:
            _write(staged, content)
            crash_point("file.staged")
            staged.replace(path)
        except OSError:
            with suppress(OSError):
                staged.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def _write(path: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with naming(path), os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sweep(folder: Path, pattern: str = ".*") -> None:
    """Remove what a crash left half-written. Call it before anything else, while nobody writes."""
    for leftover in folder.glob(pattern):
        leftover.unlink()


def own_folder(folder: Path, variable: str) -> None:
    """Make a folder of the agent's own, 0700 when it is new; raise ``Misconfigured`` that names the ``variable``."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        others_may_write = folder.stat().st_mode & stat.S_IWOTH
        # A file without a name, where the system has such: a crash leaves nothing behind.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remedy = "give a folder of the agent's own user, on a file system with room"
        raise Misconfigured(f"{variable}: {folder} cannot be written to ({error.strerror}); {remedy}") from error
    if others_may_write:
        raise Misconfigured(f"{variable}: every user may write in {folder}; run: chmod o-w {folder}")


def make_private_folder(folder: Path) -> None:
    """Make one folder, 0700 and durable, unless it is there."""
    if not folder.is_dir():
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable, so that a rename there survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give errors the path that they are about: those of open files come without one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn the system's errors into ours; ``doing`` completes the sentence "… failed"."""
    try:
        yield
    except OSError as error:
        raise _explain(error, doing) from error


def _explain(error: OSError, doing: str) -> CertctlError:
    what = f"{doing} failed at {error.filename}" if error.filename else f"{doing} failed"
    match error.errno:
        case errno.ENOSPC:
            return Transient(f"{what}: {_no_room(error.filename)}")
        case errno.EDQUOT:
            return Transient(f"{what}: the quota of the agent's user (uid {os.geteuid()}) is used up; make room there")
        case errno.EROFS:
            remedy = "see whether the kernel mounted it so after an error (dmesg) and mount it writable again; "
            remedy += "under systemd, add the folder to ReadWritePaths= of the agent's unit"
            return Misconfigured(f"{what}: the file system is read-only for the agent; {remedy}")
        case errno.EACCES | errno.EPERM:
            who = f"the agent (uid {os.geteuid()})"
            return Misconfigured(f"{what}: {who} may not do this; give it the right to write in that folder")
        case errno.ENAMETOOLONG | errno.ENOTDIR | errno.ELOOP | errno.EISDIR:
            return Misconfigured(f"{what}: {error.strerror}; choose another path")
        case _:
            return Transient(f"{what}: {error.strerror or error}")


def _no_room(where: str | None) -> str:
    """Tell a disk without blocks from one without inodes, where `df` shows plenty of room."""
    if where is None:
        return "the disk is full; make room (df shows where)"
    folder = Path(os.fsdecode(where)).parent
    with suppress(OSError):
        facts = os.statvfs(folder)
        if facts.f_files and not facts.f_favail and facts.f_bavail:
            return "its file system has room but can hold no more files (see df -i); remove some there"
    return "the disk is full; make room there"
