"""The files of one target: look, stage, publish, and put back.

The layouts differ in ``publish`` alone. ``current``: the configured paths are links through one ``current`` link, and
its rename switches all files at once. ``separate`` and ``combined``: one rename per file. Putting back works from the
journal in every layout, as often as it is tried. Everything here is synchronous and knows no service.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from agent.deployment.files import (
    Attributes,
    Existing,
    group_id,
    look,
    make_folder,
    remove,
    replace_with_file,
    replace_with_link,
    user_id,
)
from agent.deployment.journal import Journal, JournalFile, JournalFolder
from agent.deployment.prepare import PlannedFile, Prepared
from agent.deployment.versions import VersionStore
from agent.files import explained
from connectors.targets.base import PRIVATE_ROLES, FileSpec, Layout, Role
from core.crash import crash_point
from core.errors import Misconfigured
from core.secret import Secret


class Difference(msgspec.Struct, frozen=True):
    """A configured path that is not as it shall be: nothing is there (``missing``), or something else."""

    missing: bool
    words: str


class Snapshot(msgspec.Struct, frozen=True):
    """What stood at the configured paths, and what shall. ``previous`` is the version that holds the former already."""

    existing: tuple[Existing, ...]
    contents: tuple[Secret[bytes], ...]
    wanted: tuple[Attributes, ...]
    previous: int | None
    differences: tuple[Difference, ...]

    @property
    def complete(self) -> bool:
        """Say whether everything is as it shall be."""
        return not self.differences

    @property
    def anything(self) -> bool:
        """Say whether any path had content."""
        return any(found.content is not None for found in self.existing)


class Installation:
    """One version on its way into one target; the caller holds the service's lock."""

    def __init__(self, prepared: Prepared, journals: JournalFolder) -> None:
        self._prepared = prepared
        self._files = prepared.files
        self._journals = journals
        self.store = VersionStore.beside(prepared.files[0].path, prepared.item.target_id)
        self.journal: Journal | None = None
        self._created: list[int] = []

    def look(self) -> Snapshot:
        """Return what is installed; raise ``Refused`` when a path holds something that is not ours to replace."""
        with explained("looking at the installed files"):
            self.store.sweep()
            existing = tuple(look(file.path, file.spec.role) for file in self._files)
            contents = tuple(_content(file.spec, found) for file, found in zip(self._files, existing, strict=True))
            wanted = tuple(_wanted(file.spec, found) for file, found in zip(self._files, existing, strict=True))
            previous = self._previous(existing)
            differences = tuple(self._differences(existing, contents, wanted))
            return Snapshot(existing, contents, wanted, previous, differences)

    def stage(self, snapshot: Snapshot) -> None:
        """Write the new version, unpublished."""
        with explained("writing the new files"):
            for file in self._files:
                make_folder(file.path.parent)
            contents = [
                (file.spec.role, content, attributes)
                for file, content, attributes in zip(self._files, snapshot.contents, snapshot.wanted, strict=True)
            ]
            self.store.stage(contents)

    def staged(self) -> dict[Role, Path]:
        """Return where the staged files are."""
        return {file.spec.role: self.store.staged(file.spec.role) for file in self._files}

    def publish(self, snapshot: Snapshot) -> None:
        """Keep what was there, write the journal, and make the staged version the one that is configured."""
        with explained("installing the new files"):
            current_before = self.store.current()
            previous = snapshot.previous
            if previous is None and snapshot.anything:
                previous = self.store.adopt(self._adoptable(snapshot))
                self._created.append(previous)
            new = self.store.commit()
            self._created.append(new)
            crash_point("deploy.numbered")
            self.journal = self._make_journal(snapshot, previous, new, current_before)
            self._journals.write(self.journal)
            crash_point("deploy.journaled")
            publish(self.store, self._files, self.journal)

    def discard(self) -> None:
        """Remove what was staged, when nothing was published."""
        with explained("removing the staged files"):
            self.store.sweep()
            self.store.discard(self._created)

    def settle(self) -> None:
        """Forget the undo: from here on the new version is the state to come back to."""
        self._journals.delete(self._prepared.item.target_id)
        crash_point("deploy.settled")

    def prune(self) -> None:
        """Remove versions that are no longer kept."""
        with explained("removing old versions"):
            self.store.prune(self._prepared.config.keep)

    def _previous(self, existing: Sequence[Existing]) -> int | None:
        """Return the published version if it holds, byte for byte, what readers of the paths see."""
        current = self.store.current()
        if current is None:
            return None
        for file, found in zip(self._files, existing, strict=True):
            kept = self.store.path(current, file.spec.role)
            content = Secret(kept.read_bytes()) if kept.exists() else None
            if content != found.content:
                return None
        return current

    def _differences(
        self, existing: Sequence[Existing], contents: Sequence[Secret[bytes]], wanted: Sequence[Attributes]
    ) -> Iterator[Difference]:
        for file, found, content, attributes in zip(self._files, existing, contents, wanted, strict=True):
            linked = _is_linked(self._prepared.config.layout, file.spec.role)
            link = self.store.link_target(file.path, file.spec.role)
            if found.content is None:
                yield Difference(missing=True, words=f"{file.path} is gone")
            elif found.content != content:
                yield Difference(missing=False, words=f"{file.path} holds something else")
            elif not attributes.fits(found.attributes):
                yield Difference(missing=False, words=f"{file.path} has another owner, mode or context")
            elif (found.kind, found.link) != (("link", link) if linked else ("file", "")):
                kind = "the link" if linked else "the plain file"
                yield Difference(missing=False, words=f"{file.path} is not {kind} that was installed any more")

    def _adoptable(self, snapshot: Snapshot) -> list[tuple[Role, Secret[bytes], Attributes]]:
        return [
            (file.spec.role, found.content, _settable(found.attributes))
            for file, found in zip(self._files, snapshot.existing, strict=True)
            if found.content is not None
        ]

    def _make_journal(self, snapshot: Snapshot, previous: int | None, new: int, current_before: int | None) -> Journal:
        config, item = self._prepared.config, self._prepared.item
        return Journal(
            target_id=item.target_id,
            target_type=item.target_type,
            service=config.service,
            validate_action=config.validate_action,
            reload_action=config.reload_action,
            layout=config.layout,
            api=self._prepared.commands.api is not None,
            store=str(self.store.root),
            files=tuple(
                JournalFile(file.spec.role, str(file.path), found.kind, found.link)
                for file, found in zip(self._files, snapshot.existing, strict=True)
            ),
            previous=previous,
            new=new,
            current_before=current_before,
            created=tuple(self._created),
        )


def publish(store: VersionStore, files: Sequence[PlannedFile], journal: Journal) -> None:
    """Make the journal's new version the one that the configured paths show."""
    if journal.layout == "current":
        # Each link shows what its path showed before, until the one rename below switches them together.
        store.point(journal.previous)
        for file in files:
            if _is_linked(journal.layout, file.spec.role):
                link = store.link_target(file.path, file.spec.role)
                replace_with_link(file.path, _temporary(journal.target_id, file.spec.role), link)
                crash_point("deploy.linked")
        store.point(journal.new)
    for file in files:
        if not _is_linked(journal.layout, file.spec.role):
            _copy_version(store, journal.new, file.spec.role, file.path, journal.target_id)
            crash_point("deploy.replaced")
    store.point(journal.new)
    crash_point("deploy.published")


def put_back(journal: Journal) -> None:
    """Restore every path to what stood there, contents, attributes and kind; harmless to repeat."""
    with explained("putting the previous files back"):
        store = VersionStore(Path(journal.store))
        if journal.previous is None or journal.previous in store.numbers():
            store.point(journal.previous)
        crash_point("deploy.undo_switched")
        for file in journal.files:
            _put_back_file(store, journal, file)
            crash_point("deploy.undo_file")
        store.point(journal.current_before)
        store.discard(journal.created)
        crash_point("deploy.undo_files")


def _put_back_file(store: VersionStore, journal: Journal, file: JournalFile) -> None:
    path, temporary = Path(file.path), _temporary(journal.target_id, file.role)
    path.with_name(temporary).unlink(missing_ok=True)
    if file.was == "link":
        replace_with_link(path, temporary, file.link)
    elif file.was == "absent":
        remove(path)
    elif journal.previous is not None and store.path(journal.previous, file.role).exists():
        _copy_version(store, journal.previous, file.role, path, journal.target_id)
    elif path.is_symlink() or not path.is_file():
        # A crash late in an earlier undo leaves the file back and its copy gone; here both are gone.
        raise Misconfigured(f"the copy of {path} in {store.root} is gone; install a certificate and key there by hand")


def _copy_version(store: VersionStore, version: int, role: Role, path: Path, target_id: str) -> None:
    kept = look(store.path(version, role), role)
    if kept.content is None:
        raise Misconfigured(f"{store.path(version, role)} is gone; nothing can be installed from it")
    replace_with_file(path, _temporary(target_id, role), kept.content, _settable(kept.attributes))


def _content(spec: FileSpec, found: Existing) -> Secret[bytes]:
    return spec.content if spec.merge is None else spec.merge(found.content)


def _wanted(spec: FileSpec, found: Existing) -> Attributes:
    """Config value, else the existing file's, else the default; a key is never left readable for everybody."""
    uid, gid, context = user_id(spec.owner), group_id(spec.group), b""
    mode = spec.mode
    if found.content is not None:
        if mode is None:
            mode = found.attributes.mode & (0o640 if spec.role in PRIVATE_ROLES else 0o644)
        kept = _settable(found.attributes)
        uid, gid = (kept.uid if uid == -1 else uid), (kept.gid if gid == -1 else gid)
        context = kept.context
    return Attributes(spec.default_mode if mode is None else mode, uid, gid, context)


def _is_linked(layout: Layout, role: Role) -> bool:
    """Say whether a path is a link; never one that is watched, since no watcher sees the switch behind a link."""
    return layout == "current" and role != "config"


def _settable(attributes: Attributes) -> Attributes:
    """Owners can be inherited by root alone; anybody else keeps the files it makes."""
    return attributes if os.geteuid() == 0 else Attributes(attributes.mode, context=attributes.context)


def _temporary(target_id: str, role: Role) -> str:
    return f".certctl-{target_id}-{role}.tmp"
