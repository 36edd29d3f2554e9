"""How many perspectives have to agree, in every mix of what they say."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import get_args

import pytest

from coordinator.enrollment.acme.quorum import State, Verdict, judge, may_dissent
from core.wire import LookState

STATES: tuple[State, ...] = (*get_args(LookState), "silent")


@pytest.mark.parametrize("number,allowed", [(0, 0), (1, 0), (2, 1), (3, 1), (5, 1), (6, 2), (20, 2)])
def test_the_table_of_the_baseline_requirements(number: int, allowed: int) -> None:
    assert may_dissent(number) == allowed


@pytest.mark.parametrize(
    "states,least,verdict",
    [
        ("seen seen", 2, "corroborated"),
        ("seen failed", 2, "corroborated"),
        ("failed failed", 2, "refused"),
        ("seen seen failed", 2, "corroborated"),
        ("seen failed failed", 2, "refused"),
        ("seen seen seen seen failed failed", 2, "corroborated"),
        ("seen seen seen failed failed failed", 2, "refused"),
        ("seen seen none", 2, "corroborated"),
        ("seen seen none", 3, "too few"),
        ("seen none", 2, "too few"),
        ("failed none", 2, "too few"),
        ("seen", 1, "corroborated"),
        ("failed", 1, "refused"),
        ("", 1, "too few"),
        ("seen silent", 2, "open"),
        ("seen busy", 2, "too few"),
        ("seen seen busy", 2, "corroborated"),
        ("seen failed busy", 2, "too few"),
        ("seen seen silent", 2, "corroborated"),
        ("failed failed silent", 2, "refused"),
        ("failed silent silent", 2, "open"),
        ("silent silent", 2, "open"),
    ],
)
def test_verdicts(states: str, least: int, verdict: Verdict) -> None:
    assert judge(states.split(), least) == verdict  # type: ignore[arg-type]  # words of that kind


def mixes() -> list[tuple[State, ...]]:
    return [mix for size in range(8) for mix in itertools.combinations_with_replacement(STATES, size)]


@pytest.mark.parametrize("least", [1, 2, 3, 6])
def test_what_holds_for_every_mix(least: int) -> None:
    """No verdict is reached by silence, by those who are none, or against the table."""
    for mix in mixes():
        count, verdict = Counter(mix), judge(mix, least)
        asked = count.total() - count["none"]
        if verdict == "corroborated":
            assert count["seen"] + count["failed"] >= least, mix
            assert asked - count["seen"] <= may_dissent(asked), mix
        if verdict == "refused":
            assert count["failed"] > may_dissent(asked), mix
            assert asked >= least, mix
        if verdict == "open":
            assert count["silent"], mix


def test_a_clear_verdict_stays_when_the_silent_speak() -> None:
    """So that nobody waits for them: they may turn it into no verdict only by being no perspectives at all."""
    for mix in mixes():
        for least in (1, 2, 3):
            before = judge(mix, least)
            if before in {"corroborated", "refused"} and "silent" in mix:
                place = mix.index("silent")
                for said in get_args(LookState):
                    after = judge((*mix[:place], said, *mix[place + 1 :]), least)
                    assert after == before or (said == "none" and after == "too few"), (mix, said)
