"""Polls that wait for minutes: signs of life, what ends them early, and what is kept of agents while they wait."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from coordinator import serving
from coordinator.agents import polling, store, watch
from coordinator.app import create_app
from core import wire
from core.errors import Transient
from tests.coordinator.database.conftest import until
from tests.coordinator.world import FakeAgent, World, bearer, done, problem

pytestmark = pytest.mark.anyio


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life come much more often."""
    monkeypatch.setattr(polling, "HEARTBEAT_S", 0.02)


async def wait_for_work(world: World, *agents: FakeAgent) -> list[asyncio.Task[httpx.Response]]:
    """Let these agents wait for ten minutes."""
    query = {"wait": 600}
    tasks = [asyncio.create_task(each.call("GET", "/work", params={"boot": each.boot, **query})) for each in agents]
    await until(lambda: all(each.id in world.ctx.polls.waiting for each in agents))
    return tasks


async def ended(task: asyncio.Task[httpx.Response]) -> wire.Work:
    async with asyncio.timeout(5):
        return msgspec.convert(done(await task), wire.Work)


@contextlib.asynccontextmanager
async def listening(world: World) -> AsyncIterator[int]:
    """Serve on a real socket; give its port."""
    bound = serving._bind("127.0.0.1", 0, "CERTCTL_SERVER_PORT")
    server = serving.server(create_app(world.ctx))
    task = asyncio.create_task(server.serve([bound]))
    try:
        yield bound.getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def test_an_answer_that_is_waited_for_begins_with_signs_of_life(world: World, beats: None) -> None:
    agent = await world.agent()
    (task,) = await wait_for_work(world, agent)
    world.ctx.polls.signs.clear()
    await until(lambda: agent.id in world.ctx.polls.signs)
    await world.certificate(agent_id=agent.id)
    (item,) = (await ended(task)).items
    assert isinstance(item, wire.IssuanceItem)
    body = task.result().content
    assert body.startswith(b"  "), "at once, and later"
    assert "Content-Length" not in task.result().headers
    assert not world.ctx.polls.waiting


async def test_an_answer_says_how_long_the_next_poll_may_wait(world: World) -> None:
    agent = await world.agent()
    query = {"boot": agent.boot, "wait": 0}
    work = msgspec.convert(done(await agent.call("GET", "/work", params=query)), wire.Work)
    assert (work.wait_s, work.spread_s) == (polling.LONGEST_WAIT_S, 0)
    done(await agent.call("GET", "/work", params={"boot": agent.boot, "wait": 0.1}))
    problem(await agent.call("GET", "/work", params={"boot": agent.boot, "wait": work.wait_s + 1}), 400, "wait")


async def test_the_more_agents_wait_the_wider_they_are_to_come_back(world: World) -> None:
    agents = [await world.agent(f"web-{number}") for number in range(3)]
    tasks = await wait_for_work(world, *agents)
    assert world.ctx.polls.spread_s == 3 / polling._RETURNS_PER_S
    world.ctx.polls.waiting.update({str(number): world.ctx.polls.waiting[agents[0].id] for number in range(100_000)})
    assert world.ctx.polls.work((), None).spread_s == polling._LONGEST_SPREAD_S
    for number in range(100_000):
        del world.ctx.polls.waiting[str(number)]
    world.ctx.stopping = True
    world.ctx.db.wakeups.wake_everybody()
    assert [(await ended(task)).items for task in tasks] == [(), (), ()]


async def test_signs_of_life_are_stored_together_each_with_its_age(world: World) -> None:
    agents = [await world.agent(f"web-{number}") for number in range(3)]
    await world.execute("UPDATE agents SET last_seen_at = now() - interval '1 hour', skew_ms = 5")
    now = time.monotonic()
    polls = world.ctx.polls
    polls.saw(agents[0].id, int(time.time() * 1000) - 90_000)
    polls.saw(agents[0].id)
    polls.signs[agents[1].id] = polling.Sign(now - 600, None)
    await watch.store_signs(world.ctx)
    rows = await world.rows("SELECT name, now() - last_seen_at AS age, skew_ms FROM agents ORDER BY name")
    ages = [row["age"].total_seconds() for row in rows]
    assert ages[0] < 10
    assert 600 <= ages[1] < 610
    assert ages[2] >= 3600, "was not seen"
    assert -92_000 < rows[0]["skew_ms"] < -88_000
    assert [row["skew_ms"] for row in rows[1:]] == [5, 5]
    assert polls.signs == {}


async def test_signs_of_life_outlast_a_database_that_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await world.agent()
    await world.execute("UPDATE agents SET last_seen_at = now() - interval '1 hour'")

    async def away(*_: object) -> None:
        world.ctx.polls.saw("ag-new")
        detail = "database is not reachable"
        raise Transient(detail)

    world.ctx.polls.saw(agent.id)
    with monkeypatch.context() as patched:
        patched.setattr(store, "touch", away)
        with pytest.raises(Transient):
            await watch.store_signs(world.ctx)
    assert set(world.ctx.polls.signs) == {agent.id, "ag-new"}
    await watch.store_signs(world.ctx)
    assert (await world.get(f"/api/v1/agents/{agent.id}"))["online"] is True


async def test_the_poll_of_a_retired_agent_ends(world: World) -> None:
    gone, other = await world.agent("web-1"), await world.agent("web-2")
    tasks = await wait_for_work(world, gone, other)
    await watch.check(world.ctx)
    await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    await world.execute("UPDATE agents SET retired_at = now() WHERE id = $1", gone.id)
    await watch.check(world.ctx)
    assert (await ended(tasks[0])).items == ()
    problem(await gone.call("GET", "/work", params={"boot": gone.boot}), 410)
    assert list(world.ctx.polls.waiting) == [other.id]
    await world.certificate(agent_id=other.id)
    assert (await ended(tasks[1])).items


async def test_the_open_poll_of_an_agent_that_is_retired_here_ends_at_once(world: World) -> None:
    agent = await world.agent()
    (task,) = await wait_for_work(world, agent)
    done(await world.call("DELETE", f"/api/v1/agents/{agent.id}"))
    assert (await ended(task)).items == ()
    problem(await agent.call("GET", "/work", params={"boot": agent.boot}), 410)


async def test_a_poll_does_not_outlive_its_session(world: World) -> None:
    agent = await world.agent()
    (task,) = await wait_for_work(world, agent)
    await world.execute("UPDATE agent_sessions SET expires_at = now() - interval '1 second'")
    await watch.check(world.ctx)
    assert (await ended(task)).items == ()
    problem(await agent.call("GET", "/work", params={"boot": agent.boot}), 401)


async def test_work_whose_wake_up_was_lost_is_found(world: World) -> None:
    agent = await world.agent()
    await world.certificate(agent_id=agent.id)
    await world.execute("UPDATE jobs SET not_before = now() + interval '1 hour'")
    (task,) = await wait_for_work(world, agent)
    await world.execute("UPDATE jobs SET not_before = now()")
    await watch.check(world.ctx)
    assert len((await ended(task)).items) == 1


async def test_an_agent_that_asks_again_ends_the_poll_that_it_lost(world: World) -> None:
    agent = await world.agent()
    (lost,) = await wait_for_work(world, agent)
    (present,) = await wait_for_work(world, agent)
    assert (await ended(lost)).items == ()
    assert agent.id in world.ctx.polls.waiting
    await world.certificate(agent_id=agent.id)
    assert (await ended(present)).items


async def test_an_agent_that_hangs_up_is_forgotten(world: World) -> None:
    agent = await world.agent()
    async with listening(world) as port:
        _, writer = await ask(agent, port, await asyncio.open_connection("127.0.0.1", port))
        writer.close()
        await until(lambda: agent.id not in world.ctx.polls.waiting)


async def test_an_agent_that_takes_nothing_any_more_is_cut_off(
    world: World, beats: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert serving._UNACKNOWLEDGED_MS < wire.HEARTBEAT_S * 1000
    monkeypatch.setattr(serving, "_UNACKNOWLEDGED_MS", 300)
    monkeypatch.setattr(polling, "HEARTBEAT_S", 0.0005)
    agent = await world.agent()
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    async with listening(world) as port:
        deaf.connect(("127.0.0.1", port))
        _, writer = await ask(agent, port, await asyncio.open_connection(sock=deaf, limit=1))
        with contextlib.closing(writer):
            await until(lambda: agent.id not in world.ctx.polls.waiting)


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def ask(agent: FakeAgent, port: int, streams: Streams) -> Streams:
    """Send a poll on a connection and wait until it is open."""
    head = f"GET /api/v1/agents/{agent.id}/work?boot={agent.boot}&wait=600 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    fields = "".join(f"{name}: {value}\r\n" for name, value in bearer(agent.token).items())
    streams[1].write(f"{head}{fields}\r\n".encode())
    await until(lambda: agent.id in agent.world.ctx.polls.waiting)
    return streams
