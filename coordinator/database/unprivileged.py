"""How PostgreSQL, which refuses to run as root, is run when the coordinator is root.

Preferred: a user namespace in which root wears an ordinary user's number. The files stay root's, every folder keeps
its permissions, and PostgreSQL has no privilege outside of root's own files. Where the kernel or the container forbids
namespaces: an existing system user, provided that it can already reach the folders. No parent folder's permissions
are ever changed; what cannot work without that is refused with the remedies.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import Misconfigured

SYSTEM_USERS = ("certctl", "postgres")
MAPPED_USERS = ("certctl", "postgres", "nobody", "daemon")
REMEDIES = (
    "run the coordinator as an ordinary user, or set CERTCTL_DATABASE_URL to a PostgreSQL server of your own "
    "(15 or newer)"
)


@dataclass(frozen=True)
class Launcher:
    """What precedes PostgreSQL's argv, and which user of the system then owns its files."""

    prefix: tuple[str, ...]
    uid: int

    def own(self, folder: Path) -> None:
        """Hand ``folder`` and all below it to that user, unless it has them already."""
        if folder.lstat().st_uid == self.uid:
            return
        for path in _deepest_first(folder):
            os.chown(path, self.uid, -1, follow_symlinks=False)


async def launcher_for(folders: list[Path]) -> Launcher:
    """Return the way to run PostgreSQL here, when it has to reach all of ``folders``."""
    if os.geteuid() != 0:
        return Launcher((), os.geteuid())
    mapped = next(_users(MAPPED_USERS), None)
    if mapped is not None and await _works(namespace := _namespace(mapped)):
        return Launcher(namespace, 0)
    blocked = None
    for user in _users(SYSTEM_USERS):
        blocked = next((parent for folder in folders for parent in folder.parents if not passable(parent, user)), None)
        if blocked is None and shutil.which("setpriv"):
            prefix = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--")
            return Launcher(prefix, user.pw_uid)
    raise Misconfigured(_why_not(blocked))


def _namespace(user: pwd.struct_passwd) -> tuple[str, ...]:
    return ("unshare", "--user", f"--map-user={user.pw_uid}", "--")


def passable(folder: Path, user: pwd.struct_passwd) -> bool:
    """Tell whether ``user`` may walk through ``folder`` by its permission bits (primary group only)."""
    status = folder.stat()
    if status.st_uid == user.pw_uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == user.pw_gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _users(names: tuple[str, ...]) -> Iterator[pwd.struct_passwd]:
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return (known[name] for name in names if name in known)


async def _works(prefix: tuple[str, ...]) -> bool:
    if shutil.which(prefix[0]) is None:
        return False
    null = asyncio.subprocess.DEVNULL
    probe = await asyncio.create_subprocess_exec(*prefix, "true", stdin=null, stdout=null, stderr=null)
    return await probe.wait() == 0


def _why_not(blocked: Path | None) -> str:
    why = "user namespaces are not allowed here"
    if blocked is not None:
        why += f" and the system user cannot pass through {blocked}"
    else:
        why += f" and there is no system user named {' or '.join(SYSTEM_USERS)}"
    return f"PostgreSQL does not run as root, {why}: {REMEDIES}"


def _deepest_first(folder: Path) -> Iterator[Path]:
    """Yield ``folder`` last, so that an interrupted change of owner is seen as not done."""
    for parent, _, files in os.walk(folder, topdown=False):
        yield from (Path(parent, name) for name in files)
        yield Path(parent)
