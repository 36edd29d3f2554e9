"""Pauses, what is told of a lasting trouble, and loops that are kept running – on a clock that jumps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from agent.backoff import FIRST_S, JITTER, LONGEST_S, TELL_AGAIN_S, Backoff, until_answered
from agent.supervision import LONG_RUN_S, supervised
from core.errors import Refused, TooManyRequests, Transient

pytestmark = pytest.mark.trio
Entries = list[MutableMapping[str, Any]]


@pytest.fixture
def logged() -> Iterator[Entries]:
    with structlog.testing.capture_logs() as entries:
        yield entries


async def waited(backoff: Backoff, until: trio.Event | None = None) -> float:
    started = trio.current_time()
    await backoff.pause(until)
    return trio.current_time() - started


async def test_a_fleet_comes_back_over_the_time_that_it_was_told(autojump_clock: MockClock) -> None:
    pauses = []
    for _ in range(200):
        backoff = Backoff()
        backoff.spread_s = 20
        pauses.append(await waited(backoff))
    assert min(pauses) < 2
    assert 18 < max(pauses) <= 20
    backoff = Backoff()
    backoff.spread_s = LONGEST_S * 100
    assert max([await waited(backoff) for _ in range(50)]) <= LONGEST_S * (1 + JITTER)


async def test_pauses_double_up_to_a_bound_and_vary(autojump_clock: MockClock) -> None:
    backoff, middle = Backoff(), FIRST_S
    pauses = []
    for _ in range(200):
        pauses.append((await waited(backoff), middle))
        middle = min(middle * 2, LONGEST_S)
    assert all((1 - JITTER) * middle <= pause <= (1 + JITTER) * middle for pause, middle in pauses)
    late = [pause for pause, middle in pauses if middle == LONGEST_S]
    assert max(late) - min(late) > LONGEST_S / 2
    backoff.reset()
    assert await waited(backoff) <= FIRST_S * (1 + JITTER)


async def test_a_pause_ends_with_what_is_waited_for(autojump_clock: MockClock) -> None:
    stopping = trio.Event()
    stopping.set()
    assert await waited(Backoff(), stopping) == 0


async def test_what_the_other_side_asked_for_comes_on_top(autojump_clock: MockClock) -> None:
    pauses = []
    for _ in range(100):
        started = trio.current_time()
        await Backoff().pause(least_s=7)
        pauses.append(trio.current_time() - started)
    assert 7 + FIRST_S * (1 - JITTER) <= min(pauses) < max(pauses) <= 7 + FIRST_S * (1 + JITTER)


async def test_a_call_is_not_repeated_before_the_other_side_wants_it(autojump_clock: MockClock) -> None:
    waits = [60.0, 5.0]

    async def call() -> float:
        await trio.lowlevel.checkpoint()
        if waits:
            raise TooManyRequests("later", retry_after_s=waits.pop())
        return trio.current_time()

    started = trio.current_time()
    assert 65 < await until_answered("call", call) - started < 67


def failing(count: float, detail: Callable[[int], str] = lambda _number: "away") -> tuple[Callable[[], Any], list[int]]:
    """Return a call that fails so many times for now, and the numbers of its attempts."""
    attempts: list[int] = []

    async def call() -> str:
        attempts.append(len(attempts))
        await trio.lowlevel.checkpoint()
        if len(attempts) <= count:
            raise Transient(detail(len(attempts)))
        return "answer"

    return call, attempts


async def test_a_call_is_repeated_until_it_is_answered(autojump_clock: MockClock, logged: Entries) -> None:
    call, attempts = failing(5)
    noted: list[str] = []
    assert await until_answered("call", call, note=noted.append) == "answer"
    assert len(attempts) == 6
    assert noted == ["away"] * 5
    assert [entry["detail"] for entry in logged] == ["away"]


async def test_what_fails_for_good_is_not_repeated(autojump_clock: MockClock) -> None:
    async def call() -> None:
        await trio.lowlevel.checkpoint()
        raise Refused("no")

    with pytest.raises(Refused):
        await until_answered("call", call)


async def test_hours_of_the_same_trouble_fill_no_log(autojump_clock: MockClock, logged: Entries) -> None:
    call, attempts = failing(float("inf"))
    with trio.move_on_after(6 * 3600):
        await until_answered("call", call)
    assert len(attempts) > 6 * 3600 / (LONGEST_S * (1 + JITTER))
    assert 6 * 3600 / (TELL_AGAIN_S + 60) <= len(logged) <= 6 * 3600 / TELL_AGAIN_S + 1


async def test_a_new_trouble_is_told_at_once(autojump_clock: MockClock, logged: Entries) -> None:
    call, _ = failing(6, lambda number: "refused" if number < 4 else "not trusted")
    await until_answered("call", call)
    assert [entry["detail"] for entry in logged] == ["refused", "not trusted"]


async def test_a_stop_leaves_one_last_attempt(autojump_clock: MockClock) -> None:
    call, attempts = failing(float("inf"))
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def stop() -> None:
            await trio.sleep(100)
            attempts.clear()
            stopping.set()

        started = trio.current_time()
        with pytest.raises(Transient):
            await until_answered("call", call, stopping=stopping)
        assert trio.current_time() - started == 100
    assert len(attempts) == 1


async def test_a_loop_that_crashes_is_started_again(autojump_clock: MockClock, logged: Entries) -> None:
    runs = itertools.count(1)

    async def loop() -> None:
        await trio.lowlevel.checkpoint()
        if next(runs) < 4:
            raise ValueError("a defect")

    await supervised("loop", loop)
    assert next(runs) == 5
    assert [(entry["event"], entry["loop"]) for entry in logged] == [("loop_crashed", "loop")] * 3


async def test_the_crash_of_a_task_within_a_loop_counts_and_cancellation_passes(
    autojump_clock: MockClock, logged: Entries
) -> None:
    starts: list[float] = []

    async def crash_later() -> None:
        await trio.sleep(LONG_RUN_S * 2)
        raise ValueError("a defect")

    async def loop() -> None:
        starts.append(trio.current_time())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash_later)
            nursery.start_soon(trio.sleep_forever)

    with trio.move_on_after(3600) as scope:
        await supervised("loop", loop)
    assert scope.cancelled_caught
    pauses = [after - before - LONG_RUN_S * 2 for before, after in itertools.pairwise(starts)]
    assert len(pauses) > 20
    assert max(pauses) <= FIRST_S * (1 + JITTER) + 0.001
