"""Wake-ups within one hub and between hubs on a real server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import pytest

from coordinator.database import driver, wakeups
from coordinator.database.wakeups import MAX_PAYLOAD_BYTES, WakeUps, payloads
from tests.coordinator.database.conftest import until

pytestmark = pytest.mark.anyio

LONG_S = 20.0


@contextlib.asynccontextmanager
async def hub_on(dsn: str) -> AsyncIterator[WakeUps]:
    hub = WakeUps(dsn)
    await hub.start()
    try:
        yield hub
    finally:
        await hub.close()


@contextlib.asynccontextmanager
async def overheard(dsn: str) -> AsyncIterator[list[str]]:
    """Collect what is notified on the channel, in the order in which it arrives."""
    connection = await driver.connect(dsn, {})
    heard: list[str] = []
    await connection.add_listener(wakeups.CHANNEL, lambda *notification: heard.append(notification[3]))
    try:
        yield heard
    finally:
        await connection.close()


async def cut(dsn: str, connect: Callable[..., Awaitable[driver.RawConnection]] = driver.connect) -> None:
    """End every connection of hubs to this database."""
    connection = await connect(dsn, {})
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'certctl wake-ups'"
    )
    await connection.close()


async def test_a_wake_up_between_the_look_and_the_wait_is_not_missed(empty_database_url: str) -> None:
    async with hub_on(empty_database_url) as hub:
        with hub.subscribe("agent:1") as waiter:
            hub.notify(["agent:1", "agent:2"])
            hub.notify(["agent:1"])
            assert await waiter.wait(0) is True
            assert await waiter.wait(0) is False, "several count once"


async def test_only_the_topics_own_waiters_are_woken_and_nothing_is_left(empty_database_url: str) -> None:
    async with hub_on(empty_database_url) as hub:
        with hub.subscribe("a") as first, hub.subscribe("a") as second, hub.subscribe("b") as other:
            waits = [asyncio.create_task(waiter.wait(LONG_S)) for waiter in (first, second)]
            await asyncio.sleep(0)
            hub.notify(["a"])
            assert await asyncio.gather(*waits) == [True, True]
            assert await other.wait(0.01) is False
        assert hub._waiters == {}
        hub.notify(["a"])
        with hub.subscribe("a") as late:
            assert await late.wait(0) is False


async def test_a_wait_that_is_cancelled_leaves_the_waiter_usable(empty_database_url: str) -> None:
    async with hub_on(empty_database_url) as hub:
        with hub.subscribe("a") as waiter:
            wait = asyncio.create_task(waiter.wait(LONG_S))
            await asyncio.sleep(0)
            wait.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wait
            hub.notify(["a"])
            assert await waiter.wait(LONG_S) is True


async def test_another_replica_is_woken_and_our_own_message_is_ignored(empty_database_url: str) -> None:
    dsn = empty_database_url
    async with hub_on(dsn) as here, hub_on(dsn) as there:
        with here.subscribe("job") as own, there.subscribe("job") as foreign, here.subscribe("last") as last:
            here.notify(["job"])
            assert await own.wait(0) is True
            assert await foreign.wait(LONG_S) is True
            there.notify(["last"])
            assert await last.wait(LONG_S) is True, "messages come in order, so our own one has been heard by now"
            assert await own.wait(0) is False


async def test_what_was_said_just_before_the_end_is_heard(empty_database_url: str) -> None:
    dsn = empty_database_url
    async with overheard(dsn) as heard, hub_on(dsn) as there, hub_on(dsn) as here:
        with there.subscribe("last") as waiter:
            here.notify(["first"])
            while not heard:  # noqa: ASYNC110 - the next batch has to wait a moment
                await asyncio.sleep(0)
            here.notify(["last"])
            await here.close()
            assert await waiter.wait(LONG_S) is True


async def test_what_was_being_sent_when_the_connection_broke_is_kept() -> None:
    class Broken:
        add_termination_listener = staticmethod(lambda _callback: None)

        async def execute(self, *_: object) -> str:
            hub.notify(["later"])
            raise ConnectionResetError

    hub = WakeUps("postgresql://nowhere")
    hub.notify(["earlier"])
    with pytest.raises(ConnectionResetError):
        await hub._tell_others(cast("driver.RawConnection", Broken()), lambda: None)
    assert list(hub._pending) == ["earlier", "later"]
    assert hub._work.is_set()


async def test_topics_that_gather_go_out_in_few_messages(empty_database_url: str) -> None:
    topics = [f"agent:ag-{number:030}" for number in range(1000)]
    async with hub_on(empty_database_url) as hub, overheard(empty_database_url) as heard:
        for topic in topics:
            hub.notify([topic])
            hub.notify([topic])
        await until(lambda: sum(payload.count("\n") for payload in heard) == len(topics))
        assert len(heard) == len(list(payloads(hub._replica, topics))) == 6


def test_no_message_is_longer_than_the_server_takes() -> None:
    topics = ["ü" * 100, *(f"agent:{number}" for number in range(5000)), "x" * 200]
    packed = list(payloads("replica", topics))
    assert [topic for payload in packed for topic in payload.split("\n")[1:]] == topics
    assert all(len(payload.encode()) <= MAX_PAYLOAD_BYTES for payload in packed)
    assert all(payload.startswith("replica\n") for payload in packed)


@pytest.mark.parametrize("topic", ["", "two\nlines", "nul\0", "x" * 201, "ü" * 101])
async def test_what_is_no_topic_is_refused(topic: str) -> None:
    hub = WakeUps("postgresql://nowhere")
    with pytest.raises(ValueError, match="topic"):
        hub.notify([topic])
    with pytest.raises(ValueError, match="topic"):
        hub.subscribe(topic)


async def test_after_a_loss_everybody_is_woken_once_and_both_directions_work(empty_database_url: str) -> None:
    async with hub_on(empty_database_url) as here, hub_on(empty_database_url) as there:
        with there.subscribe("job:1") as waiter:
            await waiter.wait(0)
            await cut(empty_database_url)
            await until(lambda: not there.connected)
            assert await waiter.wait(LONG_S) is True
            await until(lambda: here.connected and there.connected)
            await waiter.wait(0)
            here.notify(["job:1"])
            assert await waiter.wait(LONG_S) is True


async def test_what_could_not_be_sent_is_sent_later(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hub_on(empty_database_url) as here, overheard(empty_database_url) as heard:
        real = driver.connect
        away = asyncio.Event()

        async def refuse(*_: object, **__: object) -> driver.RawConnection:
            away.set()
            raise ConnectionRefusedError

        monkeypatch.setattr(driver, "connect", refuse)
        await cut(empty_database_url, real)
        await away.wait()
        here.notify(["job:1"])
        monkeypatch.setattr(driver, "connect", real)
        await until(lambda: any(payload.endswith("\njob:1") for payload in heard))


async def test_too_much_for_a_server_that_is_away_becomes_one_wake_up_for_all(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeups, "MAX_PENDING", 3)
    async with hub_on(empty_database_url) as here, hub_on(empty_database_url) as there:
        with there.subscribe("unrelated") as waiter:
            await waiter.wait(0)
            here.notify(["a", "b", "c", "d"])
            assert await waiter.wait(LONG_S) is True


async def test_closing_ends_every_wait_and_later_ones_at_once(empty_database_url: str) -> None:
    async with hub_on(empty_database_url) as hub:
        with hub.subscribe("a") as waiter:
            wait = asyncio.create_task(waiter.wait(LONG_S))
            await asyncio.sleep(0)
            await hub.close()
            assert await wait is False
            assert await waiter.wait(LONG_S) is False


async def test_ten_thousand_waiters_are_cheap(empty_database_url: str) -> None:
    async with hub_on(empty_database_url) as here, hub_on(empty_database_url) as there:
        with contextlib.ExitStack() as stack:
            waiters = [stack.enter_context(there.subscribe(f"agent:{number}")) for number in range(10_000)]
            waits = [asyncio.create_task(waiter.wait(LONG_S)) for waiter in waiters]
            await asyncio.sleep(0)
            here.notify([waiter.topic for waiter in waiters])
            assert all(await asyncio.gather(*waits))
        assert there._waiters == {}
