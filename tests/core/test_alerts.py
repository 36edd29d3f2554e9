"""Alerts before a certificate's end: which thresholds fall due, once each, and how bad each of them is."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.alerts import AlertRules, Severity
from core.renewal import is_failing, retry_delay

ISSUED = datetime(2026, 3, 1, tzinfo=UTC)
END = ISSUED + timedelta(days=47)
RULES = AlertRules((30, 14, 7, 0), {30: "warning", 7: "error", 0: "critical"}, {"critical": ["pager", "mail"]})


def told(since_days: float, until_days: float, rules: AlertRules = RULES) -> list[int]:
    """Return the thresholds told between two moments, given in days before the end."""
    since, until = END - timedelta(days=since_days), END - timedelta(days=until_days)
    return [alert.threshold_days for alert in rules.due(ISSUED, END, since, until)]


@pytest.mark.parametrize(
    "since,until,thresholds",
    [(47, 31, []), (31, 30, [30]), (30, 29, []), (15, 6, [7, 14]), (1, 0, [0]), (0, -3, []), (47, -1, [0, 7, 14, 30])],
)
def test_a_threshold_falls_due_when_it_is_reached(since: float, until: float, thresholds: list[int]) -> None:
    assert told(since, until) == thresholds


@given(st.lists(st.floats(-5, 47), min_size=2, max_size=8))
def test_looking_often_tells_each_threshold_once(looks: list[float]) -> None:
    moments = sorted(looks, reverse=True)
    found = [days for pair in itertools.pairwise(moments) for days in told(*pair)]
    assert sorted(found) == told(moments[0], moments[-1])


def test_a_short_lived_certificate_is_not_alarming_for_being_so() -> None:
    end = ISSUED + timedelta(days=6)
    due = RULES.due(ISSUED, end, ISSUED - timedelta(days=90), end + timedelta(days=1))
    assert [alert.threshold_days for alert in due] == [0]


@pytest.mark.parametrize(
    "days,severity", [(0, "critical"), (5, "error"), (7, "error"), (14, "warning"), (60, "warning")]
)
def test_the_severity_is_that_of_the_nearest_entry_above(days: int, severity: Severity) -> None:
    assert RULES.severity(days) == severity
    assert AlertRules((), {}, {}).severity(days) == severity, "and so it is when nothing is said"


def test_an_alert_says_where_it_goes() -> None:
    (last, seventh, *_) = RULES.due(ISSUED, END, ISSUED, END)
    assert (last.severity, last.channels, last.at) == ("critical", ("pager", "mail"), END)
    assert (seventh.severity, seventh.channels) == ("error", ())


@pytest.mark.parametrize("failures,seconds", [(1, 30), (2, 60), (3, 120), (4, 3600), (400, 3600)])
def test_retries_follow_the_policy_and_never_end(failures: int, seconds: float) -> None:
    delay = retry_delay(failures, timedelta(days=90), first=timedelta(seconds=30), most=3).total_seconds()
    assert 0.8 * seconds <= delay <= 1.2 * seconds
    assert is_failing(failures, 3) is (failures > 3)
