"""Months: made ahead, dropped by retention and by nothing else, with a net below."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from coordinator.audit import months
from coordinator.database import driver
from tests.coordinator.trail import check, note, seal, tamper
from tests.coordinator.world import World, open_world, variables

pytestmark = pytest.mark.anyio

OLD = date(2021, 3, 1)
PARTITIONS = "SELECT relname FROM pg_class WHERE relname ~ '^audit_events_\\d{4}_\\d{2}$' AND relkind = 'r' ORDER BY 1"


@pytest.fixture
async def kept(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A coordinator that keeps events for a year, with two old months of two events each."""
    async with open_world(variables(database_url, tmp_path, CERTCTL_AUDIT_RETENTION="365d")) as world:
        for month in (OLD, date(2021, 4, 1)):
            await world.execute("SELECT audit_make_month($1)", month)
            for number in range(2):
                at = datetime(month.year, month.month, 5 + number, tzinfo=UTC)
                await tamper(
                    world,
                    """
                    INSERT INTO audit_events (at, actor, action, resource_type, resource_id)
                    VALUES ($1, 'system', 'test.noted', 'test', 'old')
                    """,
                    at,
                )
        yield world


async def partitions(world: World) -> list[str]:
    return [row["relname"].removeprefix("audit_events_") for row in await world.rows(PARTITIONS)]


async def test_months_are_made_ahead(world: World) -> None:
    today = await world.value("SELECT (now() AT TIME ZONE 'UTC')::date")
    wanted = [f"{month:%Y_%m}" for month in months.months_from(today, months.MONTHS_AHEAD)]
    assert await partitions(world) == wanted
    await world.execute(f"DROP TABLE audit_events_{wanted[-1]}")
    await months.keep(world.ctx)
    assert await partitions(world) == wanted
    await note(world, "a")
    assert await world.value("SELECT tableoid::regclass::text FROM audit_events WHERE resource_id = 'a'") == (
        f"audit_events_{wanted[0]}"
    )


def test_months_go_on_over_the_turn_of_a_year() -> None:
    found = months.months_from(date(2026, 11, 30), 3)
    assert found == [date(2026, 11, 1), date(2026, 12, 1), date(2027, 1, 1), date(2027, 2, 1)]


async def test_an_event_of_a_month_that_nobody_made_is_kept_and_moves_when_it_is_made(world: World) -> None:
    await seal(world)
    month = (await world.value("SELECT (now() AT TIME ZONE 'UTC')::date")).replace(day=1)
    await tamper(world, f"DROP TABLE audit_events_{months.months_from(month, 1)[1]:%Y_%m}")
    insert = "INSERT INTO audit_events (at, actor, action, resource_type, resource_id)"
    await world.execute(f"{insert} VALUES ($1, 'system', 'test.noted', 'test', 'a')", _middle_of_next(month))
    assert await world.value("SELECT count(*) FROM audit_events_default") == 1
    await seal(world)
    await months.keep(world.ctx)
    assert await world.value("SELECT count(*) FROM audit_events_default") == 0
    assert await world.value("SELECT count(*) FROM audit_events WHERE resource_id = 'a'") == 1
    assert (await check(world)).findings == []
    with pytest.raises(driver.Error, match="append-only"):
        await world.execute("DELETE FROM audit_events WHERE resource_id = 'a'")


def _middle_of_next(month: date) -> datetime:
    return datetime.combine(months.months_from(month, 1)[1], datetime.min.time(), UTC) + timedelta(days=14)


async def test_the_net_and_every_month_refuse_changes(world: World) -> None:
    month = f"audit_events_{(await partitions(world))[0]}"
    for statement in (f"TRUNCATE {month}", "TRUNCATE audit_events_default", f"DELETE FROM {month}"):
        with pytest.raises(driver.Error, match="append-only"):
            await world.execute(statement)


async def test_retention_drops_whole_months_and_the_check_knows(kept: World) -> None:
    await seal(kept)
    before = await check(kept)
    await months.keep(kept.ctx)
    assert f"{OLD:%Y_%m}" not in await partitions(kept)
    assert await kept.value("SELECT count(*) FROM audit_events WHERE resource_id = 'old'") == 0
    events = await kept.rows(
        "SELECT resource_id, details FROM audit_events WHERE action = 'audit.month_dropped' ORDER BY id"
    )
    assert [event["resource_id"] for event in events] == ["2021-03", "2021-04"]
    assert events[0]["details"] == {"month": "2021-03-01", "retention": "365 days, 0:00:00"}
    await seal(kept)
    after = await check(kept)
    assert after.findings == []
    assert (after.expired, after.events) == (4, before.events - 4 + 2)


async def test_a_month_that_went_in_another_way_is_a_hole(kept: World) -> None:
    await seal(kept)
    await tamper(kept, f"DROP TABLE audit_events_{OLD:%Y_%m}")
    await months.keep(kept.ctx)  # drops the other one as it should
    assert [finding.kind for finding in (await check(kept)).findings] == ["event removed"] * 2


async def test_an_event_of_a_month_that_is_kept_is_not_excused_by_one_that_was_dropped(kept: World) -> None:
    await seal(kept)
    await months.keep(kept.ctx)
    await tamper(kept, "DELETE FROM audit_events WHERE action = 'issuer.key_added'")
    assert [finding.kind for finding in (await check(kept)).findings] == ["event removed"]


async def test_what_is_not_sealed_is_not_dropped(kept: World) -> None:
    await months.keep(kept.ctx)
    assert f"{OLD:%Y_%m}" in await partitions(kept)
    assert await kept.value("SELECT count(*) FROM audit_dropped_months") == 0


async def test_without_retention_everything_stays(database_url: str, tmp_path: Path) -> None:
    async with open_world(variables(database_url, tmp_path)) as world:
        await world.execute("SELECT audit_make_month($1)", OLD)
        await seal(world)
        await months.keep(world.ctx)
        assert f"{OLD:%Y_%m}" in await partitions(world)
        with pytest.raises(driver.Error, match="retention does not let"):
            await world.execute("SELECT audit_drop_month($1)", OLD)


async def test_a_month_within_retention_is_not_dropped(kept: World) -> None:
    this = (await kept.value("SELECT (now() AT TIME ZONE 'UTC')::date")).replace(day=1)
    with pytest.raises(driver.Error, match="retention does not let"):
        await kept.execute("SELECT audit_drop_month($1)", this)
