"""A disk that takes its time to flush, for the whole process."""

from __future__ import annotations

import os
import time

from benchmarks.fleet.config import Faults


def slow_down(faults: Faults) -> None:
    """Make each ``os.fsync`` of this process, all of which happen in worker threads, take longer by what they say."""
    flush = os.fsync

    def slow(descriptor: int) -> None:
        if faults.slow_disk_ms:
            time.sleep(faults.slow_disk_ms / 1000)
        flush(descriptor)

    setattr(os, "fsync", slow)  # noqa: B010 - a module's function is replaced on purpose
