"""The coordinator answers as its OpenAPI document says: a bounded look; ``make schemathesis`` looks for longer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.coordinator.conformance import examine

SECONDS = 35


@pytest.mark.slow
def test_every_operation_answers_as_it_is_described(database_url: str, tmp_path: Path) -> None:
    examined = examine(database_url, tmp_path, f"--max-time={SECONDS}", "--seed=1", "--max-examples=5")
    assert examined.code == 0, examined.said
    tried, failed = re.findall(r"(\d+) generated, (\d+) passed", examined.said)[0]
    assert int(tried) == int(failed) > 100, examined.said
    assert "request_failed" not in examined.log
