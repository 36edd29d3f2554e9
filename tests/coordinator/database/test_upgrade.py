"""From nothing, and from the released schema with rows in it, to the newest: by two coordinators that start at once."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coordinator.bindings import service as bindings
from coordinator.certificates import lives
from coordinator.database import driver
from coordinator.database.migrations import migrate, own_migrations, read_migrations
from tests.coordinator.database.released import ROWS, fill
from tests.coordinator.world import World, open_world, variables

pytestmark = pytest.mark.anyio
CERTIFICATES = "/api/v1/certificates"


@pytest.fixture
async def released_database_url(empty_database_url: str, tmp_path: Path) -> str:
    """A database of the first released version, with what it has done in it."""
    with_first = tmp_path / "released"
    with_first.mkdir()
    (first,) = [entry for entry in own_migrations().iterdir() if entry.name == "0001_initial.sql"]
    shutil.copy(str(first), with_first)
    assert [str(done) for done in await migrate(empty_database_url, with_first)] == ["0001_initial"]
    connection = await driver.connect(empty_database_url, {})
    try:
        await fill(connection)
    finally:
        await connection.close()
    return empty_database_url


async def start_two(database_url: str, folder: Path) -> tuple[dict[str, str], int]:
    """Start two coordinators at once, use both, and end them; return life and service of each certificate."""
    both = asyncio.Barrier(2)

    async def coordinator(name: str) -> tuple[dict[str, str], int]:
        async with open_world(variables(database_url, folder / name), at=datetime.now(UTC)) as world:
            await both.wait()
            agent = await world.agent(f"new-{name}")
            certificate_id, _ = await world.certificate(agent_id=agent.id, common_name=f"{name}.test")
            await agent.work()
            found = await look(world)
            assert found.pop(certificate_id) == "valid, unknown"
            await both.wait()
            return found, await world.value("SELECT count(*) FROM schema_migrations")

    one, two = await asyncio.gather(coordinator("one"), coordinator("two"))
    assert one[1] == two[1]
    return one


async def look(world: World) -> dict[str, str]:
    rows = (await world.get(CERTIFICATES))["data"]
    return {row["id"]: f"{row['status']['life']}, {row['status']['service']}" for row in rows}


async def test_two_coordinators_that_start_at_once_on_nothing_both_serve(
    empty_database_url: str, tmp_path: Path
) -> None:
    _, applied = await start_two(empty_database_url, tmp_path)
    assert applied == len(read_migrations(own_migrations()))


async def test_two_coordinators_that_start_at_once_bring_a_released_installation_along(
    released_database_url: str, tmp_path: Path
) -> None:
    found, applied = await start_two(released_database_url, tmp_path)
    assert applied == len(read_migrations(own_migrations()))
    assert {name: stand for name, stand in found.items() if name.startswith("mc-") and name[3:] in OLD} == {
        "mc-served": "valid, served",
        "mc-expired": "expired, not served",
        "mc-pending": "pending, unknown",
    }


OLD = {"served", "expired", "pending"}


async def test_nothing_of_a_released_installation_is_lost_and_its_work_goes_on(
    released_database_url: str, tmp_path: Path
) -> None:
    async with open_world(variables(released_database_url, tmp_path / "data"), at=datetime.now(UTC)) as world:
        for table, rows in ROWS.items():
            assert await world.value(f"SELECT count(*) FROM {table}") >= len(rows), table
            for row in rows:
                names = [name for name, value in row.items() if isinstance(value, str) and value[:1] not in "[{"]
                where = " AND ".join(f"{name} = ${place}" for place, name in enumerate(names, 1))
                values = [row[name] for name in names]
                assert await world.value(f"SELECT count(*) FROM {table} WHERE {where}", *values) > 0, (table, row)
        served = await world.get(f"{CERTIFICATES}/mc-served")
        assert (served["tags"], served["target_ids"], served["agent_id"]) == ({"tier": "1"}, ["tgt-1"], None)
        pending = await world.get(f"{CERTIFICATES}/mc-pending")
        assert (pending["agent_id"], pending["status"]["reason"]) == ("ag-2", "the disk is full")
        assert (await world.get("/api/v1/audit", resource_id="mc-served"))["total"] == 3
        await bindings.reconcile(world.ctx)
        assert await world.value("SELECT count(*) FROM jobs WHERE target_id = 'tgt-2' AND state = 'Pending'") == 1
        # What had expired before is no news; what expires from now on is.
        await lives.tell(world.ctx)
        assert await world.value("SELECT count(*) FROM audit_events WHERE action = 'certificate.expired'") == 0
        offline = await world.rows("SELECT id FROM agents WHERE offline_since IS NOT NULL")
        assert offline == [{"id": "ag-2"}]
