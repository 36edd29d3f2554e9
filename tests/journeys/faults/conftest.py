"""Lets the shared questions tell what they found, as test modules do."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.journeys.faults.questions")
