"""The wall clock of one process, which libfaketime reads from a file each time; durations go on as they are."""

from __future__ import annotations

from pathlib import Path

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


class Clock:
    """A clock that can be set. ``variables`` is the environment of the process that shall go by it."""

    def __init__(self, folder: Path) -> None:
        if not _LIBRARIES:
            message = "faketime is not installed; on Debian: apt-get install faketime"
            raise FileNotFoundError(message)
        self._file = folder / "clock"
        self.set(0)
        self.variables = {
            "LD_PRELOAD": str(_LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset_s: int) -> None:
        """Let it be off by some seconds, within a second from now."""
        staged = self._file.with_suffix(".new")
        staged.write_text(f"{offset_s:+d}\n")
        staged.replace(self._file)
