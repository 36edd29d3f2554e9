"""The loops run on one coordinator at a time; another takes over when it ends, dies or is frozen."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from datetime import timedelta

import pytest

from coordinator.database.connection import Connection
from coordinator.loops import service as loops
from coordinator.loops import store, turn
from tests.coordinator.database.conftest import until
from tests.coordinator.world import World

pytestmark = pytest.mark.anyio


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Count the ticks of a loop that is in a hurry, by the context it runs in."""
    counted = Counter[int]()

    async def tick(ctx: object) -> float:
        counted[id(ctx)] += 1
        return 0.01

    monkeypatch.setattr(loops, "LOOPS", (loops.Loop("hurry", 0.01, tick),))
    return counted


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_loops_run_on_one_coordinator_and_move_when_it_stops(
    replicas: tuple[World, World], ticks: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn, "KEEP_EVERY_S", 0.01)
    one, two = replicas
    first = asyncio.create_task(loops.run(one.ctx))
    await until(lambda: ticks[id(one.ctx)] > 1)
    second = asyncio.create_task(loops.run(two.ctx))
    await until(lambda: ticks[id(one.ctx)] > 50)
    assert ticks[id(two.ctx)] == 0
    await ended(first)
    until_then = ticks[id(one.ctx)]
    await until(lambda: ticks[id(two.ctx)] > 1)
    assert ticks[id(one.ctx)] == until_then
    await ended(second)
    assert await one.value("SELECT count(*) FROM loops_turn") == 0


async def test_another_takes_over_when_a_turn_is_not_extended(
    replicas: tuple[World, World], ticks: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn, "KEEP_EVERY_S", 0.01)
    one, two = replicas
    async with one.ctx.db.connection() as conn:
        assert await store.take_turn(conn, "somebody who died", timedelta(minutes=1))
    running = asyncio.create_task(loops.run(two.ctx))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await until(lambda: ticks[id(two.ctx)] > 0)
    await one.execute("UPDATE loops_turn SET until = now() - interval '1 second'")
    await until(lambda: ticks[id(two.ctx)] > 1)
    await ended(running)


async def test_a_turn_is_over_for_its_runner_before_it_is_free_for_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_turn = store.take_turn

    async def slowly(conn: Connection, runner: str, length: timedelta) -> bool:
        await asyncio.sleep(0.3)
        return await take_turn(conn, runner, length)

    monkeypatch.setattr(turn, "TURN_S", 0.6)
    monkeypatch.setattr(store, "take_turn", slowly)
    own = turn.Turn("one")
    assert await own.take(world.ctx)
    assert own.ours
    await until(lambda: not own.ours)
    assert await world.value("SELECT until > clock_timestamp() FROM loops_turn")
