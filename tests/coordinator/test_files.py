"""The coordinator's own files: whole or not there, and nothing beside them, whoever was interrupted."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.files import alone_in, write_durably
from tests.agent.disk import recorded, restore

WRITE = "from pathlib import Path; from coordinator.files import write_durably; write_durably(Path({!r}), b'new')"


def test_a_file_is_private_unless_it_is_meant_for_others(tmp_path: Path) -> None:
    write_durably(tmp_path / "key", b"secret")
    write_durably(tmp_path / "root", b"public", mode=0o644)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("key", "root")] == [0o600, 0o644]


def test_a_write_that_was_cut_off_leaves_the_old_file_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_durably(path, b"old")
    dying = {**os.environ, "CERTCTL_CRASH_POINT": "start.file_staged"}
    died = subprocess.run([sys.executable, "-c", WRITE.format(str(path))], env=dying, check=False)
    assert died.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    with alone_in(tmp_path):
        write_durably(path, b"newer")
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]
    assert path.read_bytes() == b"newer"


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_power_cut_leaves_a_whole_file_and_the_new_one_when_it_was_relied_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None
) -> None:
    path = tmp_path / "root" / "key"
    path.parent.mkdir()
    if before:
        write_durably(path, before)
    with recorded(path.parent, monkeypatch) as disk:
        write_durably(path, b"new")
        disk.mark("relied on")
    assert disk.operations > 5
    for tree, promised in disk.found.items():
        restore(path.parent, tree)
        found = path.read_bytes() if path.exists() else None
        assert found in ({b"new"} if promised else {before, b"new"}), tree
        write_durably(path, b"newer")
        assert [entry.name for entry in path.parent.iterdir()] == ["key"]


def test_one_at_a_time_and_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    script = (
        f"from pathlib import Path; from coordinator.files import alone_in\nwith alone_in(Path({str(tmp_path)!r})):"
    )
    script += "\n print('in', flush=True)\n input()"
    other = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with other:
        assert other.stdout
        assert other.stdout.readline() == b"in\n"
        folder = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(folder)
        other.kill()
    with alone_in(tmp_path):
        pass
