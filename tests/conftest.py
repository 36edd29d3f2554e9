"""What holds for every test: journeys are marked by their folder, and in CI a skip has to be on the list below.

Event loops are chosen by the folders themselves: pytest-trio in ``tests/agent``, anyio's plugin elsewhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

JOURNEYS = Path(__file__).parent / "journeys"

EXPECTED_SKIPS = re.compile(r"needs (macOS|Windows|root|an ordinary user|Python 3\.1[2-9])\b")
"""How the reason of a skip begins that CI accepts: what one host cannot be all at once. A missing program is none."""


hypothesis.settings.register_profile("certctl", deadline=None)  # no test is failed by a clock
hypothesis.settings.load_profile("certctl")


FIRST = ("journeys/test_soak.py", "journeys/crash/test_matrix.py", "journeys/targets/test_chapters.py")
"""What takes minutes and waits more than it computes: begun first, it ends before the rest does."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in ``tests/journeys``; begin with what takes longest."""
    for item in items:
        if item.path.is_relative_to(JOURNEYS):
            item.add_marker(pytest.mark.journey)
    places = {JOURNEYS.parent / name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that was skipped for a reason CI does not accept."""
    report = yield
    if not hasattr(report, "wasxfail"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fail a module that was skipped as a whole for a reason CI does not accept."""
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not (report.skipped and os.environ.get("CI") and isinstance(report.longrepr, tuple)):
        return
    path, line, text = report.longrepr
    reason = text.removeprefix("Skipped: ")
    if not EXPECTED_SKIPS.match(reason):
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: skipped in CI without leave: {reason}"
