"""Following what happens: once, in order, across coordinators, after a break as well, and nobody is told too much."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from coordinator import serving
from coordinator.app import create_app
from coordinator.events import service
from tests.coordinator.database.conftest import until
from tests.coordinator.world import KEYS, World, bearer, problem

pytestmark = pytest.mark.anyio


class Stream:
    """One caller that follows events."""

    def __init__(self, response: httpx.Response) -> None:
        self.lines = response.aiter_lines()
        self.last_id = ""

    async def next(self) -> dict[str, Any]:
        """Return the next event; ``type`` is its type where it has one."""
        found: dict[str, Any] = {}
        async with asyncio.timeout(10):
            async for line in self.lines:
                name, _, value = line.partition(": ")
                if name == "id":
                    self.last_id = value
                elif name == "event":
                    found["type"] = value
                elif name == "data":
                    found |= json.loads(value)
                elif not line and found:
                    return found
        raise EOFError

    async def begun(self) -> None:
        """Wait until what happens from now on is told."""
        async with asyncio.timeout(10):
            async for line in self.lines:
                if line.startswith("id: "):
                    self.last_id = line.removeprefix("id: ")
                    return


@contextlib.asynccontextmanager
async def served(world: World) -> AsyncIterator[str]:
    """Serve on a real socket; give its URL."""
    bound = serving._bind("127.0.0.1", 0, "CERTCTL_SERVER_PORT")
    server = serving.server(create_app(world.ctx))
    task = asyncio.create_task(server.serve([bound]))
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/api/v1/events"
    finally:
        world.ctx.stopping = True
        world.ctx.db.wakeups.wake_everybody()
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def following(
    url: str, headers: dict[str, str] | None = None, *, after: str = "", **query: str
) -> AsyncIterator[Stream]:
    """Follow events as an admin, or with other headers."""
    headers = {**(headers or bearer(KEYS["admin"])), **({"Last-Event-ID": after} if after else {})}
    async with httpx.AsyncClient() as client, client.stream("GET", url, headers=headers, params=query) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"] == "text/event-stream"
        stream = Stream(response)
        if not after:
            await stream.begun()
        yield stream


async def test_what_happens_is_told_as_it_happens(world: World) -> None:
    async with served(world) as url, following(url) as stream:
        certificate_id, _ = await world.certificate()
        found = await stream.next()
        assert (found["action"], found["resource_id"]) == ("certificate.created", certificate_id)
        assert found["actor"].startswith("key:")
        assert found["details"]["common_name"] == "www.example.com"


async def test_events_of_all_coordinators_come_in_order_and_once(replicas: tuple[World, World]) -> None:
    one, two = replicas
    async with served(one) as url, following(url) as stream:
        made = [(await (one, two)[n % 2].certificate(common_name=f"a{n}.example.com"))[0] for n in range(20)]
        assert [(await stream.next())["resource_id"] for _ in made] == made


async def test_who_comes_back_misses_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_AT_ONCE", 3)
    async with served(world) as url:
        async with following(url) as stream:
            first, _ = await world.certificate(common_name="first.example.com")
            assert (await stream.next())["resource_id"] == first
            last = stream.last_id
        missed = [(await world.certificate(common_name=f"a{n}.example.com"))[0] for n in range(10)]
        async with following(url, after=last) as stream:
            assert [(await stream.next())["resource_id"] for _ in missed] == missed
        async with following(url, after=stream.last_id) as stream:
            newest, _ = await world.certificate(common_name="newest.example.com")
            assert (await stream.next())["resource_id"] == newest


async def test_what_is_committed_late_is_told_in_its_place(world: World) -> None:
    async with served(world) as url, following(url) as stream:
        async with world.ctx.db.transaction() as tx:
            sql = """INSERT INTO audit_events (actor, action, resource_type, resource_id)
                     VALUES ('system', 'certificate.slow', 'certificate', 'mc-slow')"""
            await tx.execute(sql)
            certificate_id, _ = await world.certificate()
            await asyncio.sleep(0.2)
        assert (await stream.next())["resource_id"] == "mc-slow", "it began before the other one"
        assert (await stream.next())["resource_id"] == certificate_id


async def test_a_place_of_another_trail_begins_anew(world: World) -> None:
    async with served(world) as url:
        for foreign in ("9.1.1", "1.999999999999.1"):
            async with following(url, after=foreign) as stream:
                assert (await stream.next())["type"] == "reset"
                certificate_id, _ = await world.certificate()
                assert (await stream.next())["resource_id"] == certificate_id
        async with httpx.AsyncClient() as client:
            response = await client.get(url, headers={**bearer(KEYS["admin"]), "Last-Event-ID": "x"})
            problem(response, 400, "Last-Event-ID")
            problem(await client.get(f"{url}?after=1.2", headers=bearer(KEYS["admin"])), 400, "after")


async def test_nobody_is_told_more_than_they_may_know(world: World) -> None:
    await world.post("/api/v1/teams", {"id": "team-web", "name": "web"})
    body = {"name": "limited", "role": "auditor", "teams": ["team-web"]}
    limited = bearer((await world.post("/api/v1/api-keys", body))["key"])
    async with (
        served(world) as url,
        following(url, limited) as part,
        following(url, bearer(KEYS["viewer"])) as viewer,
        following(url, bearer(KEYS["auditor"])) as auditor,
    ):
        await world.post("/api/v1/api-keys", {"name": "secret plan", "role": "viewer"})
        foreign, _ = await world.certificate(common_name="foreign.example.com")
        own, _ = await world.certificate(common_name="own.example.com", team_id="team-web")
        agent = await world.agent()
        seen = await part.next()
        assert seen["resource_id"] == own
        assert not {"actor", "details", "request_id"} & set(seen)
        assert (await part.next())["resource_id"] == agent.id
        assert [(await viewer.next())["resource_id"] for _ in range(3)] == [foreign, own, agent.id]
        assert (await auditor.next())["action"] == "api_key.created"


async def test_one_thing_can_be_followed_alone(world: World) -> None:
    certificate_id, _ = await world.certificate()
    async with served(world) as url, following(url, resource_id=certificate_id) as stream:
        await world.certificate(common_name="other.example.com")
        await world.call("DELETE", f"/api/v1/certificates/{certificate_id}")
        assert (await stream.next())["action"] == "certificate.archived"


async def test_signs_of_life_carry_the_place(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "HEARTBEAT_S", 0.05)
    async with served(world) as url, following(url) as stream:
        comments = [line async for line in _some(stream.lines, 8) if line.startswith((":", "id: "))]
        assert ": alive" in comments
        assert any(line.startswith("id: ") for line in comments)


async def _some(lines: AsyncIterator[str], most: int) -> AsyncIterator[str]:
    for _ in range(most):
        yield await anext(lines)


async def test_a_stream_ends_after_a_while_and_with_its_credential(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LONGEST_S", 0.2)
    async with served(world) as url, following(url) as stream:
        with pytest.raises(EOFError):
            await stream.next()


async def test_one_caller_has_a_few_streams_and_gets_them_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MOST_OF_ONE", 2)
    async with served(world) as url:
        async with following(url), following(url):
            async with httpx.AsyncClient() as client:
                response = await client.get(url, headers=bearer(KEYS["admin"]))
                problem(response, 429)
                assert response.headers["retry-after"]
            async with following(url, bearer(KEYS["viewer"])):
                pass
        await until(lambda: not world.ctx.streams._open)
        async with following(url):
            pass


async def test_a_stop_ends_streams_at_once(world: World) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with served(world) as url:
            stream = await stack.enter_async_context(following(url))
        with pytest.raises(EOFError):
            await stream.next()
