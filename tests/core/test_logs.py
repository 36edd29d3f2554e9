"""What a log may hold when something fails: where, and never with which values."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAILING = """
import sys
import structlog
from core import logs
logs.configure("info", sys.argv[1])
def fail(password):
    raise ValueError("no such thing")
try:
    fail("-".join(["correct", "horse", "battery"]))
except ValueError:
    structlog.get_logger().exception("failed")
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_tells_where_and_no_values_of_variables(form: str) -> None:
    argv = [sys.executable, "-c", FAILING, form]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stderr
    assert "no such thing" in said
    assert "in fail" in said
    assert "correct-horse-battery" not in said
