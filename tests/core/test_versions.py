"""Ranges of versions."""

from __future__ import annotations

import pytest

from core.errors import InvalidInput
from core.versions import Bounds, version_range


@pytest.mark.parametrize(
    "text,bounds",
    [
        (">=1.2,<2", Bounds((1, 2, 0, 0), (2, 0, 0, 0))),
        (">1.2", Bounds((1, 2, 0, 1), None)),
        ("<=v2.0.1", Bounds(None, (2, 0, 1, 1))),
        ("==1.2.3", Bounds((1, 2, 3, 0), (1, 2, 3, 1))),
        ("1.2.3", Bounds((1, 2, 3, 0), (1, 2, 3, 1))),
        (">= 1, >= 1.5 , < 3, < 2.1", Bounds((1, 5, 0, 0), (2, 1, 0, 0))),
    ],
)
def test_a_range_is_two_bounds(text: str, bounds: Bounds) -> None:
    assert version_range(text, field="match_version") == bounds


@pytest.mark.parametrize("text", ["", ">=", "~1.2", "1.2.3.4.5", ">=1.2,", ">=2,<1", "<1,>=1", "1.x", "one", "1.-2"])
def test_a_range_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        version_range(text, field="match_version")
    assert refused.value.errors[0].field == "match_version"
