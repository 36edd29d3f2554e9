"""PostgreSQL goes away while the coordinator runs: callers are told to come back, and it recovers by itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.lab.processes import free_ports
from coordinator.database.embedded import EmbeddedPostgres
from coordinator.loops import service as loops
from tests.coordinator.database.conftest import until, value_of
from tests.coordinator.world import done, open_world, problem, variables
from tests.postgres import FAST

pytestmark = pytest.mark.anyio


async def test_requests_get_503_health_stays_and_everything_comes_back(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    settings = {**FAST, "listen_addresses": "127.0.0.1", "port": str(port)}
    server = EmbeddedPostgres(tmp_path / "database", settings=settings)
    local = await server.start()
    (tmp_path / "database" / "postgres" / "pg_hba.conf").write_text(
        "local all all trust\nhost all all 127.0.0.1/32 trust\n"
    )
    await value_of(local, "SELECT pg_reload_conf()")
    url = f"postgresql://certctl@127.0.0.1:{port}/certctl"
    try:
        async with open_world(variables(url, tmp_path / "data")) as world:
            agent = await world.agent()
            running = asyncio.create_task(loops.run(world.ctx))
            waiting = asyncio.create_task(agent.call("GET", "/work", params={"boot": agent.boot, "wait": 30}))
            await until(lambda: f"agent:{agent.id}" in world.ctx.db.wakeups._waiters)
            await server.stop()
            await until(lambda: not world.ctx.db.wakeups.connected)
            for path in ("/ready", "/api/v1/certificates"):
                response = await world.call("GET", path)
                assert problem(response, 503)["title"] == "Temporarily unavailable"
                assert int(response.headers["retry-after"]) > 0
            problem(await world.call("POST", "/api/v1/certificates", json={"common_name": "a.example.com"}), 503)
            assert (await world.get("/health", key=""))["status"] == "healthy"

            await server.start()
            await until(lambda: world.ctx.db.wakeups.connected)
            assert (await world.get("/ready", key=""))["status"] == "ready"
            await world.certificate(agent_id=agent.id)
            async with asyncio.timeout(10):
                response = await waiting
            # The poll outlives the gap, or ends with it; either way the next one brings the work.
            items = done(response)["items"] if response.is_success else []
            if not items:
                problem(response, 503)
                items = await agent.poll()
            assert len(items) == 1
            assert not running.done()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    finally:
        await server.stop()
