"""Private files, and what the disk's errors become."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.files import explained, own_folder, write_private
from core.errors import CertctlError, Misconfigured, Transient


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file grow past ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_a_private_file_is_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_private(tmp_path / "key", b"secret")
    finally:
        os.umask(before)
    assert (mode(tmp_path / "key"), (tmp_path / "key").read_bytes()) == (0o600, b"secret")


def test_a_private_file_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"old")
    (tmp_path / "key").symlink_to("elsewhere")
    write_private(tmp_path / "key", b"new")
    assert not (tmp_path / "key").is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "key"]


def test_a_file_that_does_not_fit_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"old")
    with room_for(16), pytest.raises(Transient, match=f"writing {tmp_path}/key failed"):
        write_private(tmp_path / "key", b"n" * 100_000)
    assert (tmp_path / "key").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize(
    "number, kind, words",
    [
        (errno.ENOSPC, Transient, "the disk is full"),
        (errno.EDQUOT, Transient, "the quota of the agent's user"),
        (errno.EIO, Transient, "Input/output error"),
        (errno.EROFS, Misconfigured, "ReadWritePaths"),
        (errno.EACCES, Misconfigured, "give it the right"),
        (errno.ENAMETOOLONG, Misconfigured, "choose another path"),
    ],
)
def test_errors_of_the_system_say_what_to_do(number: int, kind: type[CertctlError], words: str) -> None:
    with pytest.raises(kind) as caught, explained("keeping it"):
        raise OSError(number, os.strerror(number), "/srv/x")
    assert caught.value.detail.startswith("keeping it failed at /srv/x: ")
    assert words in caught.value.detail


def test_a_file_system_without_inodes_is_told_from_a_full_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = tuple(os.statvfs(tmp_path))
    with pytest.raises(Transient) as caught, explained("keeping it"):
        raise OSError(errno.ENOSPC, "", str(tmp_path / "x"))
    assert caught.value.detail.endswith("the disk is full; make room there")
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result([*facts[:6], 0, 0, *facts[8:]]))
    with pytest.raises(Transient) as caught, explained("keeping it"):
        raise OSError(errno.ENOSPC, "", str(tmp_path / "x"))
    assert caught.value.detail.endswith("can hold no more files (see df -i); remove some there")


def test_an_open_file_is_named_in_what_went_wrong_with_it(tmp_path: Path) -> None:
    with room_for(16), pytest.raises(Transient, match=f"failed at {tmp_path}/.key"):
        write_private(tmp_path / "key", b"n" * 100_000)


def test_a_folder_of_its_own_is_made_private(tmp_path: Path) -> None:
    own_folder(tmp_path / "a" / "state", "CERTCTL_STATE_DIR")
    assert mode(tmp_path / "a" / "state") == 0o700
    assert list((tmp_path / "a" / "state").iterdir()) == []


def test_a_folder_that_everybody_may_write_in_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(Misconfigured, match=f"CERTCTL_KEY_DIR: .* chmod o-w {tmp_path}"):
        own_folder(tmp_path, "CERTCTL_KEY_DIR")


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(Misconfigured, match=r"CERTCTL_STATE_DIR: .* cannot be written to"):
        own_folder(tmp_path / "state" / "x", "CERTCTL_STATE_DIR")
