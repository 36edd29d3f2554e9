"""Small file systems that fill up at a chosen moment; mounting them needs root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK = os.sysconf("SC_PAGE_SIZE")
"""What the smallest file takes on a tmpfs."""
_FILLER = ".filler"


class Disk:
    """A tmpfs of 4 MiB and 400 inodes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, *, leaving: int = 0) -> None:
        """Leave so many blocks."""
        facts = os.statvfs(self.folder)
        with (self.folder / _FILLER).open("wb") as filler:
            filler.write(b"\0" * (facts.f_bavail - leaving) * facts.f_frsize)
        assert os.statvfs(self.folder).f_bavail == leaving

    def use_up_inodes(self) -> None:
        """Leave blocks, but no inode for one more file."""
        crowd = self.folder / _FILLER
        crowd.mkdir()
        for number in range(os.statvfs(self.folder).f_favail):
            (crowd / str(number)).touch()

    def clear(self) -> None:
        """Take away what filled it."""
        crowd = self.folder / _FILLER
        if crowd.is_dir():
            for file in crowd.iterdir():
                file.unlink()
            crowd.rmdir()
        else:
            crowd.unlink()

    def remount(self, mode: str) -> None:
        """Make it ``ro`` or ``rw``."""
        subprocess.run(["mount", "-o", f"remount,{mode}", self.folder], check=True)


@contextmanager
def mounted(folder: Path, mode: str) -> Iterator[Disk]:
    """Mount one at a new folder."""
    folder.mkdir(parents=True)
    options = f"size=4m,nr_inodes=400,mode={mode}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "certctl-test", folder], check=True)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
