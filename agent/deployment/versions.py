"""The versions of one target on disk: ``<folder>/.certctl/<target>/versions/<n>/``, and ``current``, a link to one.

A version is written into a temporary folder, made durable and renamed into place, so a numbered folder is always
complete. ``current`` names the version that is published; in the layout ``current`` it *is* the publication.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from agent.deployment.files import Attributes, make_folder, remove, replace_with_link, write_new
from agent.files import sync_folder
from agent.policy import STORE_FOLDER
from connectors.targets.base import Role
from core.crash import crash_point
from core.secret import Secret

CURRENT = "current"
_NEXT = ".current"
_STAGED = ".staged"
_ADOPTED = ".adopted"
_REMOVED = ".removed"


class VersionStore:
    """Versions of one target below ``root``; synchronous."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._versions = root / "versions"

    @classmethod
    def beside(cls, path: Path, target_id: str) -> VersionStore:
        """Return the store of a target whose first file is ``path``."""
        return cls(path.parent / STORE_FOLDER / target_id)

    def numbers(self) -> list[int]:
        """Return the complete versions, oldest first."""
        if not self._versions.is_dir():
            return []
        return sorted(int(entry.name) for entry in self._versions.iterdir() if entry.name.isdecimal())

    def current(self) -> int | None:
        """Return the published version, None when there is none or its folder is gone."""
        link = self.root / CURRENT
        if not link.is_symlink() or not link.is_dir():
            return None
        name = link.readlink().name
        return int(name) if name.isdecimal() else None

    def path(self, version: int, role: Role) -> Path:
        """Return the file of ``role`` in a version."""
        return self._versions / str(version) / _named(role)

    def link_target(self, path: Path, role: Role) -> str:
        """Return the text of a link at ``path`` that follows ``current``; relative, so that it holds in a container."""
        return os.path.relpath(self.root / CURRENT / _named(role), start=path.parent)

    def staged(self, role: Role) -> Path:
        """Return the file of ``role`` in the staged, not yet numbered version."""
        return self._versions / _STAGED / _named(role)

    def stage(self, files: Sequence[tuple[Role, Secret[bytes], Attributes]]) -> None:
        """Write the files of a version to come."""
        self._write(_STAGED, files)
        crash_point("deploy.staged")

    def commit(self) -> int:
        """Give the staged version its number."""
        return self._number(_STAGED)

    def adopt(self, files: Sequence[tuple[Role, Secret[bytes], Attributes]]) -> int:
        """Keep what stood at the configured paths as a version; 0 when it is the first."""
        self._write(_ADOPTED, files)
        version = self._number(_ADOPTED)
        crash_point("deploy.adopted")
        return version

    def point(self, version: int | None) -> None:
        """Make ``current`` name ``version`` by one rename; None removes it."""
        if version is None:
            remove(self.root / _NEXT)
            remove(self.root / CURRENT)
        else:
            replace_with_link(self.root / CURRENT, _NEXT, f"versions/{version}")

    def sweep(self) -> None:
        """Remove what an interrupted attempt left half-written."""
        for name in (_STAGED, _ADOPTED, _REMOVED):
            _remove_folder(self._versions / name)

    def discard(self, versions: Sequence[int]) -> None:
        """Remove versions, and the store's own folders when nothing is left in them."""
        removed = self._versions / _REMOVED
        _remove_folder(removed)
        for version in versions:
            folder = self._versions / str(version)
            if folder.is_dir():
                folder.rename(removed)
                crash_point("deploy.unnumbered")
                _remove_folder(removed)
                crash_point("deploy.discarded")
        for folder in (self._versions, self.root, self.root.parent):
            if not folder.is_dir() or any(folder.iterdir()):
                return
            folder.rmdir()

    def prune(self, keep: int) -> None:
        """Remove all but the published version and the ``keep`` ones before it."""
        current = self.current()
        earlier = [version for version in self.numbers() if version != current]
        self.discard(earlier[: max(0, len(earlier) - keep)])
        crash_point("deploy.pruned")

    def _write(self, name: str, files: Sequence[tuple[Role, Secret[bytes], Attributes]]) -> None:
        make_folder(self._versions)
        folder = self._versions / name
        _remove_folder(folder)
        folder.mkdir(mode=0o700)
        for role, content, attributes in files:
            write_new(folder / _named(role), content, attributes)
        folder.chmod(0o755)
        sync_folder(folder)

    def _number(self, name: str) -> int:
        version = max(self.numbers(), default=-1) + 1
        (self._versions / name).rename(self._versions / str(version))
        sync_folder(self._versions)
        return version


def _named(role: Role) -> str:
    return role if role == "keystore" else f"{role}.pem"


def _remove_folder(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)
        sync_folder(folder.parent)
