"""Two minutes of the soak: one fault after another, and nothing lost or done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from benchmarks.lab.processes import REPOSITORY

ARGV = [sys.executable, "-m", "benchmarks.soak", "--minutes", "2", "--agents", "40", "--processes", "4"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and small disks")
@pytest.mark.timeout(600)
def test_two_minutes_of_trouble() -> None:
    soak = subprocess.Popen(ARGV, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = soak.communicate(timeout=540)
    finally:
        soak.send_signal(signal.SIGKILL)  # all that it started ends with it
        soak.wait()
    assert soak.returncode == 0, said
    assert "findings: 0" in said
