"""A disk that a power cut empties of all that was not flushed: what may be found afterwards, cut by cut.

It watches real file operations of this process below one folder: Python's audit events come before each operation, and
``os.fsync`` is wrapped. The rules are those of POSIX and no kinder: a name is safe when its folder was flushed after
it, a file's content when the file was. Of what was not flushed, any folder's names may have survived and others' not,
and contents all or none. Only orders *within* one folder are kept.
"""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

_MOST_DIRTY = 4
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.truncate", "os.chmod"}


class File(NamedTuple):
    """A file's content and rights."""

    content: bytes
    mode: int


class Link(NamedTuple):
    """A symbolic link."""

    text: str


class Folder(NamedTuple):
    """A folder with all in it."""

    mode: int
    entries: tuple[tuple[str, File | Link | Folder], ...]


Node = File | Link | Folder
Names = dict[str, int]


class Disk:
    """What may be found below ``root`` after a cut at each moment; ``found`` maps each tree to the latest mark."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.found: dict[Folder, str] = {}
        self.operations = 0
        self._mark = ""
        self._held: dict[int, int] = {}
        self._modes: dict[int, int] = {}
        self._files: dict[int, bytes] = {}
        self._links: dict[int, str] = {}
        self._folders: dict[int, Names] = {}
        self._look()
        self._safe_files, self._safe_folders = dict(self._files), dict(self._folders)

    def mark(self, name: str) -> None:
        """Note what has been promised to somebody from here on."""
        self._mark = name
        self.cut()

    def cut(self) -> None:
        """Work out what a cut at this moment may leave."""
        self.operations += 1
        self._look()
        dirty = [ino for ino, names in self._folders.items() if names != self._safe_folders.get(ino, {})]
        for survived in _subsets(dirty):
            for contents in (self._safe_files, self._files):
                tree = self._tree(self.root.stat().st_ino, survived, contents)
                assert isinstance(tree, Folder)
                self.found[tree] = self._mark

    def flushed(self, descriptor: int) -> None:
        """Note that a file's content, or a folder's names, are safe."""
        self._look()
        ino = os.fstat(descriptor).st_ino
        if ino in self._folders:
            self._safe_folders[ino] = self._folders[ino]
        elif ino in self._files:
            self._safe_files[ino] = self._files[ino]

    def close(self) -> None:
        """Let go of the inodes, which were held so that no number is used twice."""
        for descriptor in self._held.values():
            os.close(descriptor)

    def _look(self) -> None:
        self._see(self.root)

    def _see(self, path: Path) -> int:
        facts = path.lstat()
        ino = facts.st_ino
        if ino not in self._held:
            self._held[ino] = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._modes[ino] = stat.S_IMODE(facts.st_mode)
        if stat.S_ISDIR(facts.st_mode):
            self._folders[ino] = {entry.name: self._see(entry) for entry in sorted(path.iterdir())}
        elif stat.S_ISLNK(facts.st_mode):
            self._links[ino] = str(path.readlink())
        else:
            self._files[ino] = path.read_bytes()
        return ino

    def _tree(self, ino: int, survived: set[int], contents: dict[int, bytes]) -> Node:
        if ino in self._links:
            return Link(self._links[ino])
        if ino in self._files:
            return File(contents.get(ino, b""), self._modes[ino])
        names = self._folders[ino] if ino in survived else self._safe_folders.get(ino, {})
        entries = ((name, self._tree(inner, survived, contents)) for name, inner in sorted(names.items()))
        return Folder(self._modes[ino], tuple(entries))


def _subsets(dirty: list[int]) -> Iterator[set[int]]:
    """Give the folders whose names survive: every choice of a few; none, each alone, and all of many."""
    sizes = range(len(dirty) + 1) if len(dirty) <= _MOST_DIRTY else (0, 1, len(dirty))
    for size in sizes:
        yield from (set(some) for some in itertools.combinations(dirty, size))


def restore(root: Path, tree: Folder) -> None:
    """Make ``root`` what ``tree`` says."""
    for entry in root.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    _fill(root, tree)


def _fill(folder: Path, tree: Folder) -> None:
    for name, node in tree.entries:
        path = folder / name
        match node:
            case Link(text):
                path.symlink_to(text)
            case File(content, mode):
                path.write_bytes(content)
                path.chmod(mode)
            case Folder(mode, _):
                path.mkdir()
                _fill(path, node)
                path.chmod(mode)


class _Watch:
    """The one audit hook of this process, which cannot be removed: it is idle while nobody watches."""

    def __init__(self) -> None:
        self.disk: Disk | None = None
        self.lock = threading.RLock()
        self._installed = False
        self._busy = False

    def install(self) -> None:
        if not self._installed:
            self._installed = True
            sys.addaudithook(self._hook)

    def tell(self, what: Callable[[Disk], None]) -> None:
        """Let the disk look, unless this comes from its own looking."""
        with self.lock:
            disk = self.disk
            if disk is None or self._busy:
                return
            self._busy = True
            try:
                what(disk)
            finally:
                self._busy = False

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.disk is None:
            return
        if event in _CHANGES or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            self.tell(Disk.cut)


_watch = _Watch()


@contextmanager
def recorded(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Record what happens below ``root``; all that is there now is safe. Nothing is flushed any more afterwards."""
    disk, fsync = Disk(root), os.fsync

    def flush(descriptor: int) -> None:
        fsync(descriptor)
        _watch.tell(lambda disk: disk.flushed(descriptor))
        _watch.tell(Disk.cut)

    _watch.install()
    _watch.disk = disk
    monkeypatch.setattr(os, "fsync", flush)
    try:
        yield disk
        _watch.tell(Disk.cut)
    finally:
        _watch.disk = None
        # From here on the power stays on, and nobody has to wait for a real disk.
        monkeypatch.setattr(os, "fsync", lambda _: None)
        disk.close()
