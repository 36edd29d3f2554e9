"""Two roles: the application cannot touch what is in the audit trail, and works all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from coordinator import settings as settings_module
from coordinator import start
from coordinator.audit import months
from coordinator.database import driver, roles
from coordinator.database.embedded import EmbeddedPostgres
from core.errors import Misconfigured
from tests.coordinator.database.conftest import value_of
from tests.coordinator.trail import check, seal
from tests.coordinator.world import World, open_world, variables
from tests.postgres import PostgresServer

pytestmark = pytest.mark.anyio

OWNER, APPLICATION = "test_owner", "test_application"


@pytest.fixture
def two_roles(postgres_server: PostgresServer, empty_database_url: str) -> Iterator[dict[str, str]]:
    """The variables of a database whose owner is one ordinary role, and of another that only uses it."""
    database = empty_database_url.partition("@/")[2].partition("?")[0]
    for role in (OWNER, APPLICATION):
        postgres_server.run(f"CREATE ROLE {role} LOGIN")
    postgres_server.run(f"ALTER DATABASE {database} OWNER TO {OWNER}")
    postgres_server.run(f"ALTER SCHEMA public OWNER TO {OWNER}", database)
    yield {
        "CERTCTL_DATABASE_URL": EmbeddedPostgres.as_role(empty_database_url, APPLICATION),
        "CERTCTL_DATABASE_OWNER_URL": EmbeddedPostgres.as_role(empty_database_url, OWNER),
    }
    postgres_server.run(f"DROP OWNED BY {APPLICATION}; REASSIGN OWNED BY {OWNER} TO certctl", database)
    postgres_server.run(f"ALTER DATABASE {database} OWNER TO certctl; DROP ROLE {APPLICATION}; DROP ROLE {OWNER}")


@pytest.fixture
async def apart(two_roles: dict[str, str], tmp_path: Path) -> AsyncIterator[World]:
    environment = {**variables("", tmp_path, CERTCTL_AUDIT_RETENTION="365d"), **two_roles}
    async with open_world(environment) as world:
        yield world


async def test_the_application_does_all_its_work(apart: World) -> None:
    assert await apart.value("SELECT current_user") == APPLICATION
    agent = await apart.agent()
    await apart.certificate(target_ids=[await apart.target(agent)])
    await agent.work()
    await seal(apart)
    assert (await check(apart)).findings == []
    assert await roles.weaknesses(apart.dsn) == []


REFUSED = [
    "UPDATE audit_events SET actor = 'nobody'",
    "DELETE FROM audit_events",
    "TRUNCATE audit_events",
    "UPDATE audit_batches SET events = 1",
    "DELETE FROM audit_batches",
    "TRUNCATE audit_batches",
    "DELETE FROM audit_dropped_months",
    "DELETE FROM audit_keys",
    "UPDATE audit_keys SET public_key = ''",
    "UPDATE audit_retention SET keep = '1 day'",
    "INSERT INTO audit_eras (era, cluster) VALUES (9, 9)",
    "DROP TRIGGER audit_events_append_only ON audit_events",
    "ALTER TABLE audit_events DISABLE TRIGGER ALL",
    "ALTER TABLE audit_events ADD COLUMN x int",
    "DROP TABLE audit_events",
    "DROP TABLE audit_events_default",
    "SELECT * FROM audit_events_default",
    "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
    "SET session_replication_role = replica",
    "INSERT INTO audit_events (xact, actor, action, resource_type, resource_id) VALUES ('3', 'a', 'b', 'c', 'd')",
    "INSERT INTO audit_events (at, actor, action, resource_type, resource_id) VALUES (now(), 'a', 'b', 'c', 'd')",
    "SET ROLE test_owner",
]


async def test_the_application_cannot_touch_the_trail(apart: World) -> None:
    await seal(apart)
    for statement in REFUSED:
        with pytest.raises(driver.NotPermitted):
            await apart.execute(statement)


async def test_the_application_cannot_have_months_dropped_before_their_time(apart: World) -> None:
    this = (await apart.value("SELECT (now() AT TIME ZONE 'UTC')::date")).replace(day=1)
    await seal(apart)
    with pytest.raises(driver.Error, match="retention does not let"):
        await apart.execute("SELECT audit_drop_month($1)", this)


async def test_new_months_are_out_of_reach_as_well(apart: World, two_roles: dict[str, str]) -> None:
    today = await apart.value("SELECT (now() AT TIME ZONE 'UTC')::date")
    last = f"audit_events_{months.months_from(today, months.MONTHS_AHEAD)[-1]:%Y_%m}"
    await value_of(two_roles["CERTCTL_DATABASE_OWNER_URL"], f"DROP TABLE {last}")
    await months.keep(apart.ctx)
    assert await apart.value("SELECT to_regclass($1)", last)
    for statement in (f"DELETE FROM {last}", f"TRUNCATE {last}", f"DROP TABLE {last}"):
        with pytest.raises(driver.NotPermitted):
            await apart.execute(statement)


async def test_once_migrated_the_owner_is_not_needed(apart: World, two_roles: dict[str, str], tmp_path: Path) -> None:
    alone = {**variables(two_roles["CERTCTL_DATABASE_URL"], tmp_path)}
    async with open_world(alone) as world:
        await world.certificate(agent_id=(await world.agent()).id)
        assert world.ctx.trail.weaknesses == ()
        assert await world.value("SELECT keep = interval '365 days' FROM audit_retention")  # the owner's word stays


async def test_an_application_that_is_the_owner_is_refused(two_roles: dict[str, str], tmp_path: Path) -> None:
    same = two_roles["CERTCTL_DATABASE_OWNER_URL"]
    environment = {**variables(f"{same}&application_name=x", tmp_path), "CERTCTL_DATABASE_OWNER_URL": same}
    with pytest.raises(Misconfigured, match=r"CERTCTL_DATABASE_URL: the role test_owner owns"):
        async with open_world(environment):
            pass


async def test_an_application_before_its_first_migration_is_told_what_to_do(
    two_roles: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(Misconfigured, match=r"certctl-coordinator migrate.*CERTCTL_DATABASE_OWNER_URL"):
        async with open_world(variables(two_roles["CERTCTL_DATABASE_URL"], tmp_path)):
            pass


async def test_one_role_for_both_works_and_is_told(world: World) -> None:
    (weakness,) = world.ctx.trail.weaknesses
    assert "owns the audit trail" in weakness


async def test_a_deployment_of_one_role_gets_a_second_one(
    world: World, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    await seal(world)
    postgres_server.run("DROP ROLE IF EXISTS later_application; CREATE ROLE later_application LOGIN")
    later = EmbeddedPostgres.as_role(world.dsn, "later_application")
    environment = {**variables(later, tmp_path / "later"), "CERTCTL_DATABASE_OWNER_URL": world.dsn}
    try:
        async with open_world(environment) as second:
            await second.certificate(agent_id=(await second.agent()).id)
            with pytest.raises(driver.NotPermitted):
                await second.execute("TRUNCATE audit_events")
            await seal(second)
            assert (await check(second)).findings == []
        await world.agent("of the first, which runs on")
    finally:
        await world.execute("DROP OWNED BY later_application")
        await world.execute("DROP ROLE later_application")


async def test_an_embedded_server_has_both_roles_by_itself(tmp_path: Path) -> None:
    environment = variables("", tmp_path / "data")
    del environment["CERTCTL_DATABASE_URL"]
    settings = settings_module.load(environment)
    for _ in range(2):
        async with start.open_context(settings) as ctx:
            assert ctx.trail.weaknesses == ()
            async with ctx.db.connection() as conn:
                assert await conn.fetchval("SELECT current_user") == roles.APPLICATION
                with pytest.raises(driver.NotPermitted):
                    await conn.execute("TRUNCATE audit_events")
