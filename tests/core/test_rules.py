"""The pure rules: ids, states, renewal times, retries, the clock."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clock import ManualClock, SystemClock, seconds_until
from core.errors import Conflict, InvalidInput
from core.ids import check_chosen, new_id, uuid7
from core.renewal import LAST_DEPLOYMENT_RETRY, backdating, renew_at, retry_delay
from core.states import FINAL, FIRST, LIVE, JobKind, JobState, check_transition, may_follow

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

ALLOWED = {
    JobKind.ISSUANCE: {
        ("AwaitingCSR", "AwaitingApproval"),
        ("AwaitingCSR", "AwaitingCA"),
        ("AwaitingCSR", "Completed"),
        ("AwaitingCSR", "Failed"),
        ("AwaitingCSR", "Cancelled"),
        ("AwaitingApproval", "AwaitingCA"),
        ("AwaitingApproval", "Failed"),
        ("AwaitingApproval", "Cancelled"),
        ("AwaitingCA", "Completed"),
        ("AwaitingCA", "Failed"),
        ("AwaitingCA", "Cancelled"),
    },
    JobKind.DEPLOYMENT: {
        ("Pending", "Running"),
        ("Pending", "Cancelled"),
        ("Pending", "Failed"),
        ("Running", "Completed"),
        ("Running", "Failed"),
        ("Running", "Cancelled"),
    },
}


@pytest.mark.parametrize("kind", JobKind)
def test_exactly_these_steps_are_possible(kind: JobKind) -> None:
    found = {(a.value, b.value) for a, b in itertools.product(JobState, JobState) if may_follow(kind, a, b)}
    assert found == ALLOWED[kind]
    for old, new in itertools.product(JobState, JobState):
        if (str(old), str(new)) not in found:
            with pytest.raises(Conflict, match=f"{kind} job is {old} and cannot become {new}"):
                check_transition(kind, old, new)


def test_every_state_is_live_or_final_and_every_kind_begins_and_ends() -> None:
    assert set(JobState) == FINAL | LIVE
    assert not FINAL & LIVE
    for kind in JobKind:
        reached = {FIRST[kind]}
        while more := {b for a in reached for b in JobState if may_follow(kind, a, b)} - reached:
            reached |= more
        assert reached > FINAL
        assert all(any(may_follow(kind, state, new) for new in FINAL) for state in reached - FINAL)


def test_ids_sort_by_time_and_say_what_they_are() -> None:
    made = [new_id("mc") for _ in range(500)]
    assert len(set(made)) == 500
    assert [i[:12] for i in made] == sorted(i[:12] for i in made)
    assert all(check_chosen("mc", each) == each for each in made)
    value = uuid7()
    assert (len(value), value[6] >> 4, value[8] >> 6) == (16, 7, 0b10)


@pytest.mark.parametrize("chosen", ["mc-a", "mc-api-prod", "mc-0", "mc-" + "a" * 64])
def test_an_id_may_be_chosen(chosen: str) -> None:
    assert check_chosen("mc", chosen) == chosen


@pytest.mark.parametrize(
    "chosen",
    ["", "mc", "mc-", "api", "tgt-a", "mc--a", "mc-a-", "mc-A", "mc-ä", "mc-a.b", "mc-a/b", "mc-a\n", "mc-" + "a" * 65],
)
def test_an_id_of_another_form_is_refused(chosen: str) -> None:
    with pytest.raises(InvalidInput, match="mc-api-prod") as refused:
        check_chosen("mc", chosen)
    assert refused.value.errors[0].field == "id"


LIFETIMES = {
    "a minute": (timedelta(minutes=1), timedelta(seconds=20), timedelta(seconds=6)),
    "an hour": (timedelta(hours=1), timedelta(minutes=20), timedelta(minutes=5)),
    "six days": (timedelta(days=6), timedelta(days=2), timedelta(minutes=5)),
    "47 days": (timedelta(days=47), timedelta(days=47) / 3, timedelta(minutes=5)),
    "a year": (timedelta(days=365), timedelta(days=365) / 3, timedelta(minutes=5)),
}


@pytest.mark.parametrize("name", LIFETIMES)
def test_a_certificate_is_due_when_a_third_is_left(name: str) -> None:
    lifetime, left, set_back = LIFETIMES[name]
    assert backdating(lifetime) == set_back
    assert renew_at(NOW - set_back, NOW + lifetime, NOW) == NOW + lifetime - left


@pytest.mark.parametrize(
    "lifetime,days_before,left",
    [
        (timedelta(days=365), 30, timedelta(days=30)),
        (timedelta(days=60), 29, timedelta(days=29)),
        (timedelta(days=60), 30, timedelta(days=20)),  # half of the lifetime: a third it is
        (timedelta(days=6), 30, timedelta(days=2)),
        (timedelta(minutes=1), 1, timedelta(seconds=20)),
    ],
)
def test_a_policys_own_window_counts_when_it_is_shorter_than_half(
    lifetime: timedelta, days_before: int, left: timedelta
) -> None:
    assert renew_at(NOW, NOW + lifetime, NOW, days_before) == NOW + lifetime - left


@given(st.integers(60, 100 * 366 * 86400), st.one_of(st.none(), st.integers(0, 400)))
def test_no_certificate_is_due_in_its_first_half(seconds: int, days_before: int | None) -> None:
    lifetime = timedelta(seconds=seconds)
    due = renew_at(NOW - backdating(lifetime), NOW + lifetime, NOW, days_before)
    assert lifetime / 2 <= due - NOW <= lifetime


@given(st.integers(0, 10_000))
def test_retries_wait_longer_and_longer_up_to_an_hour(failures: int) -> None:
    usual = min(3600.0, 2.0 * 2 ** min(max(failures - 1, 0), 20))
    assert 0.8 * usual <= retry_delay(failures).total_seconds() <= 1.2 * usual


@pytest.mark.parametrize(
    "lifetime,cap_s", [(timedelta(minutes=1), 5), (timedelta(hours=1), 180), (timedelta(days=47), 3600)]
)
def test_retries_of_a_short_lived_certificate_never_wait_past_its_time(lifetime: timedelta, cap_s: float) -> None:
    assert 0.8 * cap_s <= retry_delay(50, lifetime).total_seconds() <= 1.2 * cap_s


def test_a_deployment_waits_a_quarter_of_an_hour_at_most() -> None:
    for lifetime, cap_s in ((timedelta(minutes=1), 5), (timedelta(days=90), 900)):
        assert 0.8 * cap_s <= retry_delay(50, lifetime, LAST_DEPLOYMENT_RETRY).total_seconds() <= 1.2 * cap_s


def test_a_manual_clock_stands_still_and_tells_when_it_moves() -> None:
    clock, moved = ManualClock(NOW), []
    clock.on_move(lambda: moved.append(clock.now()))
    assert clock.now() == clock.now() == NOW
    clock.advance(timedelta(days=1))
    assert moved == [NOW + timedelta(days=1)]
    assert seconds_until(clock, NOW + timedelta(days=1, seconds=7)) == 7
    assert seconds_until(clock, NOW) == 0
    assert SystemClock().now().tzinfo is UTC
