"""The undo journal on a disk that is full, and files that are there already."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import structlog

from agent.deployment.files import Attributes, replace_with_file
from agent.deployment.journal import Journal, JournalFolder
from core.errors import Transient
from core.secret import Secret
from tests.agent.test_files import room_for

JOURNAL = Journal(
    target_id="tgt-a",
    target_type="nginx",
    service="nginx",
    validate_action=None,
    reload_action=None,
    layout="current",
    store="/nowhere",
    files=(),
    previous=None,
    new=0,
    current_before=None,
    created=(0,),
)
BACK = msgspec.structs.replace(JOURNAL, files_back=True)


def test_a_journal_that_does_not_fit_is_explained_and_leaves_nothing(tmp_path: Path) -> None:
    with room_for(10), pytest.raises(Transient, match=r"writing the undo journal failed at .*/\.tgt-a\.tmp"):
        JournalFolder(tmp_path).write(JOURNAL)
    assert list(tmp_path.iterdir()) == []


def test_a_note_that_does_not_fit_is_done_without(tmp_path: Path) -> None:
    """The journal that is there says less than is true: a repetition puts back what is back."""
    folder = JournalFolder(tmp_path)
    folder.write(JOURNAL)
    with structlog.testing.capture_logs() as logged, room_for(10):
        folder.write(BACK)
    assert [entry["event"] for entry in logged] == ["undo_not_noted"]
    assert folder.read("tgt-a") == JOURNAL
    folder.write(BACK)
    assert folder.read("tgt-a") == BACK


def test_no_note_is_made_where_no_journal_is(tmp_path: Path) -> None:
    """The journal never got onto the disk, and so nothing that needs one was done."""
    JournalFolder(tmp_path).write(BACK)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_already_needs_no_room(tmp_path: Path) -> None:
    path, there = tmp_path / "a.pem", Attributes(0o640)
    replace_with_file(path, ".a", Secret(b"content"), there)
    inode = path.stat().st_ino
    with room_for(0):
        replace_with_file(path, ".a", Secret(b"content"), there)
    assert path.stat().st_ino == inode
    for content, attributes in ((b"changed", there), (b"changed", Attributes(0o600))):
        replace_with_file(path, ".a", Secret(content), attributes)
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (content, attributes.mode)
    path.rename(tmp_path / "b.pem")
    path.symlink_to(tmp_path / "b.pem")
    replace_with_file(path, ".a", Secret(b"changed"), Attributes(0o600))
    assert not path.is_symlink()
