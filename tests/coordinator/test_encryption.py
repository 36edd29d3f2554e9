"""Another encryption key, while coordinators serve: nobody stores what another cannot open, and all is sealed anew."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.encryption import naming, store
from coordinator.encryption import service as encryption
from core.errors import Misconfigured
from tests.coordinator.test_program import run
from tests.coordinator.world import ENCRYPTION_KEY, KEYS, World, bearer, done, open_world, problem, variables

pytestmark = pytest.mark.anyio
NEW = "another-encryption-key-of-the-tests-another"
OLD_ONLY = {"CERTCTL_CONFIG_ENCRYPTION_KEY": ENCRYPTION_KEY}
BOTH = {"CERTCTL_CONFIG_ENCRYPTION_KEY": NEW, "CERTCTL_CONFIG_ENCRYPTION_KEY_PREVIOUS": ENCRYPTION_KEY}
NEW_ONLY = {"CERTCTL_CONFIG_ENCRYPTION_KEY": NEW}
PEOPLE = "/api/v1/teams"


class Fleet:
    """Coordinators on one database, each with encryption keys of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._folder, self._number = url, folder, 0

    @contextlib.asynccontextmanager
    async def coordinator(self, keys: dict[str, str]) -> AsyncIterator[World]:
        self._number += 1
        async with open_world(variables(self._url, self._folder / str(self._number), **keys)) as world:
            yield world


@pytest.fixture
def fleet(database_url: str, tmp_path: Path) -> Fleet:
    return Fleet(database_url, tmp_path)


async def make(world: World, key: str, name: str) -> dict[str, object]:
    """Make a team under an Idempotency-Key, whose answer is kept sealed."""
    headers = {**bearer(KEYS["admin"]), "Idempotency-Key": key}
    made: dict[str, object] = done(await world.http.post(PEOPLE, json={"name": name}, headers=headers))
    return made


async def sealed_by(world: World) -> dict[str, int]:
    async with world.ctx.db.connection() as conn:
        return await encryption.totals(conn)


async def test_while_one_coordinator_does_not_know_the_new_key_nothing_is_sealed_with_it(fleet: Fleet) -> None:
    async with fleet.coordinator(OLD_ONLY) as one:
        old = one.ctx.sealer.current
        await make(one, "first", "A")
        async with fleet.coordinator(BOTH) as two:
            made = await make(two, "second", "B")
            assert await encryption.seal_anew(two.ctx) == 0
            assert set(await sealed_by(two)) == {old}
            assert await make(one, "second", "B") == made, "the coordinator of before opens what the new one stored"
            assert await make(two, "first", "A") == await make(one, "first", "A")
            one.ctx.signers.clear()
            agent = await one.agent()
            await one.certificate(agent_id=agent.id)
            await agent.work()
            assert await one.value("SELECT count(*) FROM certificate_versions") == 1


async def test_once_all_know_it_everything_is_sealed_anew_also_what_came_late(fleet: Fleet) -> None:
    async with fleet.coordinator(BOTH) as two:
        new = two.ctx.sealer.current
        async with fleet.coordinator(BOTH) as three:
            two.ctx.sealer.choose(current=False)
            late = await make(two, "late", "Late")
            assert len(await sealed_by(two)) == 2, "a coordinator that had not noticed yet sealed with the previous key"
            assert await encryption.seal_anew(three.ctx) == 1
            assert set(await sealed_by(three)) == {new}
            assert await encryption.seal_anew(three.ctx) == 0
    async with fleet.coordinator(NEW_ONLY) as last:
        assert await make(last, "late", "Late") == late


async def test_the_last_of_the_old_coordinators_ends_and_the_loop_goes_over(fleet: Fleet) -> None:
    async with fleet.coordinator(OLD_ONLY) as one:
        old = one.ctx.sealer.current
        await one.person("viewer")
        two_context = fleet.coordinator(BOTH)
        two = await two_context.__aenter__()
        try:
            await make(two, "k", "K")
            before = await sealed_by(two)
            assert set(before) == {old}
            # It dies without a word: what it said of itself ends by itself.
            await one.execute("UPDATE coordinators SET until = now() - interval '1 s' WHERE id = $1", one.ctx.name)
            assert await encryption.seal_anew(two.ctx) == sum(before.values())
            assert await sealed_by(two) == {two.ctx.sealer.current: sum(before.values())}
        finally:
            await two_context.__aexit__(None, None, None)


async def test_a_coordinator_with_the_old_key_does_not_start_after_that(fleet: Fleet) -> None:
    async with fleet.coordinator(OLD_ONLY):
        pass
    async with fleet.coordinator(BOTH):
        with pytest.raises(Misconfigured, match="sealed with another key"):
            async with fleet.coordinator(OLD_ONLY):
                pytest.fail("it must not start")


async def test_a_big_table_goes_in_batches_and_a_locked_row_is_left_for_later(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encryption, "_BATCH", 3)
    async with fleet.coordinator(OLD_ONLY) as one:
        for number in range(10):
            await make(one, f"key-{number}", f"team {number}")
    async with fleet.coordinator(BOTH) as two:
        async with two.ctx.db.transaction() as tx:
            await tx.execute("SELECT FROM idempotency_keys WHERE key = 'key-4' FOR UPDATE")
            assert await encryption.seal_anew(two.ctx) == 9
        assert await encryption.seal_anew(two.ctx) == 1
        assert set(await sealed_by(two)) == {two.ctx.sealer.current}


async def test_without_the_previous_key_what_it_sealed_is_refused_and_not_an_error(fleet: Fleet) -> None:
    async with fleet.coordinator(OLD_ONLY) as one:
        await make(one, "kept", "Kept")
    async with fleet.coordinator(BOTH):
        pass  # its start brings over what nothing works without
    async with fleet.coordinator(NEW_ONLY) as last:
        headers = {**bearer(KEYS["admin"]), "Idempotency-Key": "kept"}
        refused = problem(await last.http.post(PEOPLE, json={"name": "Kept"}, headers=headers), 422)
        assert "encryption key that is gone" in refused["detail"]


async def test_who_has_ended_is_not_waited_for(fleet: Fleet) -> None:
    async with fleet.coordinator(OLD_ONLY) as one:
        name = one.ctx.name
    async with fleet.coordinator(BOTH) as two, two.ctx.db.connection() as conn:
        assert [row["id"] for row in await store.running(conn)] == [two.ctx.name] != [name]


async def test_the_command_shows_how_far_it_has_come(fleet: Fleet, database_url: str, tmp_path: Path) -> None:
    async with fleet.coordinator(OLD_ONLY) as one:
        await make(one, "kept", "Kept")
        environment = variables(database_url, tmp_path / "command", PATH=os.environ["PATH"], **BOTH)
        before = await asyncio.to_thread(run, environment, "keys")
        assert before.returncode == 1, before.stderr
        assert "not all coordinators know the current key" in before.stdout
        assert "idempotency_keys: 1 under" in before.stdout
    async with fleet.coordinator(BOTH) as two:
        await encryption.seal_anew(two.ctx)
    after = await asyncio.to_thread(run, environment, "keys")
    assert (after.returncode, "all is under the current key" in after.stdout) == (0, True)
    assert ENCRYPTION_KEY not in before.stdout + before.stderr


def test_a_process_of_this_host_that_is_gone_is_not_waited_for() -> None:
    own = naming.own_name()
    assert not naming.is_gone(own)
    host, _, number = own.split("/")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert naming.is_gone(f"{host}/{child.pid}/{number}")
    assert not naming.is_gone(f"{host}1/{child.pid}/{number}"), "of another host nobody knows"
