"""Installed files: what stands at a path, durable writes, atomic replacement.

Everything here is synchronous; the engine calls it in worker threads. A file is complete on the disk before its name
appears, and a name is replaced by one rename.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import stat
import sys
from pathlib import Path
from typing import Literal

import msgspec

from agent.files import naming, sync_folder
from connectors.targets.base import CONFIG_MARK, Role
from core.crash import crash_point
from core.errors import InvalidInput, Refused
from core.secret import Secret

MAX_BYTES = 1 << 20
_HIGHEST_ID = (1 << 32) - 2
_SELINUX = "security.selinux"

_PEM = re.compile(
    rb"^-----BEGIN (?:(?:TRUSTED |X509 )?CERTIFICATE|(?:(?:RSA|EC|ENCRYPTED) )?PRIVATE KEY)-----", re.MULTILINE
)
_KEYSTORE = re.compile(rb"\A(?:\xfe\xed\xfe\xed|\x30(?:\x80|\x81.|\x82..|\x83...)\x02\x01\x03\x30)", re.DOTALL)
"""JKS by its magic number, PKCS#12 by the version 3 that its outer sequence begins with (RFC 7292, section 4)."""


class Attributes(msgspec.Struct, frozen=True):
    """Mode, ownership and SELinux context of a file; -1 and an empty context leave what comes."""

    mode: int
    uid: int = -1
    gid: int = -1
    context: bytes = b""

    @classmethod
    def of(cls, path: int | Path, facts: os.stat_result) -> Attributes:
        """Return those of a file, given by a descriptor or by its path, whose ``facts`` are known."""
        return cls(stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid, _context(path))

    def fits(self, other: Attributes) -> bool:
        """Say whether a file with the attributes ``other`` needs no change."""
        same_owner = self.uid in {-1, other.uid} and self.gid in {-1, other.gid}
        return self.mode == other.mode and same_owner and self.context in {b"", other.context}


class Existing(msgspec.Struct, frozen=True):
    """What stands at a configured path. ``content`` is what a reader sees there, through links; None for nothing."""

    kind: Literal["absent", "file", "link"]
    link: str = ""
    content: Secret[bytes] | None = None
    attributes: Attributes = Attributes(0)


def look(path: Path, role: Role) -> Existing:
    """Return what stands at ``path``; raise ``Refused`` for what is not PEM, nor what its role has instead."""
    link = str(path.readlink()) if path.is_symlink() else ""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return Existing("link", link) if link else Existing("absent")
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_BYTES:
            raise Refused(f"{path} is not a certificate or key file and will not be replaced; choose another path")
        content = os.read(descriptor, MAX_BYTES)
        attributes = Attributes.of(descriptor, facts)
    finally:
        os.close(descriptor)
    if role == "config" and content.strip() and not content.startswith(CONFIG_MARK):
        remedy = f"choose another path, or give the file up with a first line {CONFIG_MARK.decode()!r}"
        raise Refused(f"{path} was not written by certctl and will not be replaced; {remedy}")
    if role != "config" and content.strip() and not (_KEYSTORE if role == "keystore" else _PEM).search(content):
        kind = "keystore (JKS or PKCS#12)" if role == "keystore" else "PEM certificate or key"
        problem = f"holds no {kind} and will not be replaced"
        raise Refused(f"{path} {problem}; choose another path or move the file away")
    return Existing("link" if link else "file", link, Secret(content), attributes)


def make_folder(folder: Path, mode: int = 0o755) -> None:
    """Make a folder and those above it that are missing, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    # The mode at once, since a folder that is there is not looked at again; a umask may have taken some of it.
    folder.mkdir(mode=mode, exist_ok=True)
    crash_point("deploy.folder_made")
    folder.chmod(mode)
    sync_folder(folder.parent)


def write_new(path: Path, content: Secret[bytes], attributes: Attributes) -> None:
    """Write a file that must not exist yet, durably; nobody else can read it before it has its owner."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with naming(path), os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content.reveal())
        file.flush()
        if attributes.uid != -1 or attributes.gid != -1:
            os.fchown(file.fileno(), attributes.uid, attributes.gid)
        os.fchmod(file.fileno(), attributes.mode)
        if attributes.context not in {b"", _context(file.fileno())}:
            os.setxattr(file.fileno(), _SELINUX, attributes.context)
        os.fsync(file.fileno())


def replace_with_file(path: Path, temporary: str, content: Secret[bytes], attributes: Attributes) -> None:
    """Put a file at ``path`` by one rename, unless it is there already; ``temporary`` is its name until then.

    What is there already needs no room: an undo on a full disk finds most of it so.
    """
    if _is_there(path, content, attributes):
        return
    beside = path.with_name(temporary)
    beside.unlink(missing_ok=True)
    write_new(beside, content, attributes)
    crash_point("deploy.beside")
    beside.replace(path)
    sync_folder(path.parent)


def _is_there(path: Path, content: Secret[bytes], attributes: Attributes) -> bool:
    """Say whether ``path`` is a plain file with this content and these attributes; whatever else is replaced."""
    try:
        facts = path.lstat()
        return (
            stat.S_ISREG(facts.st_mode)
            and facts.st_nlink == 1
            and attributes.fits(Attributes.of(path, facts))
            and facts.st_size == len(content.reveal())
            and path.read_bytes() == content.reveal()
        )
    except OSError:
        return False


def replace_with_link(path: Path, temporary: str, target: str) -> None:
    """Put a symbolic link at ``path`` by one rename, unless it is there already."""
    beside = path.with_name(temporary)
    beside.unlink(missing_ok=True)
    if path.is_symlink() and str(path.readlink()) == target:
        return
    beside.symlink_to(target)
    crash_point("deploy.link_beside")
    beside.replace(path)
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a name durably; nothing there is fine."""
    if path.parent.is_dir():
        path.unlink(missing_ok=True)
        sync_folder(path.parent)


def _context(path: int | Path) -> bytes:
    """Return a file's SELinux context; nothing where there are none."""
    if sys.platform != "linux":
        return b""
    try:
        return os.getxattr(path, _SELINUX)
    except OSError as error:
        if error.errno in {errno.ENODATA, errno.EOPNOTSUPP}:
            return b""
        raise


def user_id(name: str | None) -> int:
    """Return the number of a user given by name or number; -1 for None."""
    try:
        return -1 if name is None else _number(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError) as error:
        raise InvalidInput.of("config.owner", f"this host has no user {name!r}"[:200]) from error


def group_id(name: str | None) -> int:
    """Return the number of a group given by name or number; -1 for None."""
    try:
        return -1 if name is None else _number(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except (KeyError, ValueError) as error:
        raise InvalidInput.of("config.group", f"this host has no group {name!r}"[:200]) from error


def _number(text: str) -> int:
    """Read the number of a user or group; the highest one stands for "leave it" and is nobody's."""
    if len(text) > len(str(_HIGHEST_ID)) or int(text) > _HIGHEST_ID:
        raise ValueError(text)
    return int(text)
