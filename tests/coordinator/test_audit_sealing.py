"""Events are sealed soon, in one chain, by snapshot: what commits late is in a later batch, never in none or in two."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path

import pytest
import structlog
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from coordinator.audit import sealing, store
from coordinator.audit import service as audit
from coordinator.database import driver
from coordinator.database.embedded import EmbeddedPostgres
from coordinator.database.installation import find_installation, run
from coordinator.database.migrations import migrate, own_migrations
from coordinator.loops import service as loops
from coordinator.web.table import Actor
from core import trail
from core.errors import Refused
from core.sealing import Sealer
from core.secret import Secret
from tests.coordinator.database.conftest import until
from tests.coordinator.trail import INSERT, check, note, seal, tamper
from tests.coordinator.world import ENCRYPTION_KEY, World, open_world, variables
from tests.postgres import FAST, PostgresServer

pytestmark = pytest.mark.anyio

SYSTEM = Actor(kind="system")
AT_START = 6
"""Events of a first start: five keys of the tests and the key of the issuer."""


async def batches(world: World) -> list[dict[str, object]]:
    return await world.rows("SELECT number, era, events FROM audit_batches ORDER BY number")


async def names_in(world: World, number: int) -> list[str]:
    """Return the resources of the events that a batch seals."""
    leaves = await world.value("SELECT leaves FROM audit_batches WHERE number = $1", number)
    ids = [leaf.id for leaf in trail.unpack(leaves)]
    rows = await world.rows("SELECT resource_id FROM audit_events WHERE id = ANY($1) ORDER BY id", ids)
    return [row["resource_id"] for row in rows]


async def test_everything_is_sealed_and_nothing_makes_no_batch(world: World) -> None:
    await seal(world)
    assert await batches(world) == [{"number": 1, "era": 1, "events": AT_START}]
    assert await seal(world) == 60.0
    await note(world, "a", "b")
    await seal(world)
    assert await names_in(world, 2) == ["a", "b"]
    assert (await check(world)).findings == []


async def test_what_commits_late_is_in_a_later_batch(world: World) -> None:
    await seal(world)
    late = await driver.connect(world.dsn, {})
    transaction = late.transaction()
    await transaction.start()
    await late.execute(INSERT, "late")
    await note(world, "after")  # a higher id and transaction id, committed first
    pause_s = await seal(world)
    assert pause_s < 1
    assert len(await batches(world)) == 1  # its place in the order is not known yet
    await transaction.commit()
    await late.close()
    await seal(world)
    assert await names_in(world, 2) == ["late", "after"]
    assert (await check(world)).findings == []


async def test_what_is_rolled_back_holds_nothing_up(world: World) -> None:
    await seal(world)
    with contextlib.suppress(RuntimeError):
        async with world.ctx.db.transaction() as tx:
            await audit.record(tx, SYSTEM, "test.noted", "test", "never")
            await note(world, "a")
            raise RuntimeError
    await seal(world)
    assert await names_in(world, 2) == ["a"]


async def test_a_batch_is_bounded_but_never_ends_inside_of_a_transaction(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seal(world)
    monkeypatch.setattr(sealing, "MOST_EVENTS", 3)
    async with world.ctx.db.transaction() as tx:
        for number in range(5):
            await audit.record(tx, SYSTEM, "test.noted", "test", f"t{number}")
    await note(world, *"abcdef")
    await seal(world)
    assert [batch["events"] for batch in await batches(world)] == [AT_START, 5, 4, 2]
    assert (await check(world)).findings == []


async def test_the_loop_seals_within_two_seconds_of_a_commit(world: World) -> None:
    running = asyncio.create_task(loops.run(world.ctx))
    try:
        await until(lambda: world.ctx.trail.head is not None)
        slowest = 0.0
        for number in range(3):
            await world.post("/api/v1/enrollment-tokens", {"note": str(number)})
            committed = time.monotonic()
            await until(lambda: _is_sealed(world))
            slowest = max(slowest, time.monotonic() - committed)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert slowest < 2
    assert (await check(world)).unsealed == 0


async def _is_sealed(world: World) -> bool:
    last = await world.value("SELECT max(to_xact) FROM audit_batches")
    return not await world.value("SELECT count(*) FROM audit_events WHERE xact >= $1", last)


async def test_an_event_wakes_the_loop_once_it_is_committed_and_not_before(world: World) -> None:
    with world.ctx.db.wakeups.subscribe(audit.SEALING) as waiter:
        async with world.ctx.db.transaction() as tx:
            await audit.record(tx, SYSTEM, "test.noted", "test", "a")
            assert not await waiter.wait(0)
        assert await waiter.wait(0)


async def test_many_that_seal_at_once_make_one_chain(replicas: tuple[World, World]) -> None:
    one, two = replicas

    async def write(world: World, name: str) -> None:
        for number in range(40):
            await note(world, f"{name}{number}")

    async def seal_on(world: World) -> None:
        while not writing.done():
            await seal(world)

    writing = asyncio.gather(*(write(world, name) for world in replicas for name in "abc"))
    await asyncio.gather(writing, *(seal_on(world) for world in (one, two, one)))
    await until(lambda: _seals_all(one))
    verdict = await check(one)
    assert verdict.findings == []
    assert verdict.events == await one.value("SELECT count(*) FROM audit_events")
    assert verdict.batches > 1


async def _seals_all(world: World) -> bool:
    return await seal(world) == 60.0


async def test_while_somebody_seals_another_does_not_wait(replicas: tuple[World, World]) -> None:
    one, two = replicas
    async with one.ctx.db.transaction() as tx:
        assert await store.lock_chain(tx)
        assert await asyncio.wait_for(seal(two), 5) < 1
        assert await batches(two) == []
    await seal(two)
    assert len(await batches(two)) == 1


@pytest.mark.parametrize(
    "forgery",
    [
        "UPDATE audit_batches SET to_xact = '9999999999'",
        "UPDATE audit_batches SET signature = sha512('x')",
        """
        INSERT INTO audit_batches (number, era, from_xact, to_xact, events, leaves, previous, head, key_id, signature,
          sealed_at)
        SELECT 2, era, to_xact, '9999999999', events, leaves, head, sha256('x'), key_id, signature, sealed_at
        FROM audit_batches
        """,
    ],
)
async def test_nothing_is_chained_to_a_forged_end(world: World, forgery: str) -> None:
    await seal(world)
    await tamper(world, forgery)
    await note(world, "a")
    with pytest.raises(Refused, match="was not sealed by this installation"):
        await seal(world)


@pytest.mark.parametrize("point,sealed", [("audit.sealing", 0), ("audit.sealed", 1)])
async def test_a_death_while_sealing_forks_nothing(database_url: str, tmp_path: Path, point: str, sealed: int) -> None:
    code = "import asyncio, os\nfrom tests.coordinator.trail import note, seal\n"
    code += "from tests.coordinator.world import open_world\n"
    code += "async def main():\n  async with open_world(dict(os.environ)) as world:\n    await seal(world)\n"
    environment = {**os.environ, **variables(database_url, tmp_path), "CERTCTL_CRASH_POINT": point}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", f"{code}asyncio.run(main())", env=environment)
    assert await process.wait() == -9
    async with open_world(variables(database_url, tmp_path)) as world:
        assert len(await batches(world)) == sealed
        with structlog.testing.capture_logs() as logs:
            await seal(world)
        # What was committed and not told is told by the next one.
        assert [line["number"] for line in logs if line["event"] == "audit_sealed"] == [1]
        await note(world, "a")
        await seal(world)
        assert [batch["number"] for batch in await batches(world)] == [1, 2]
        assert (await check(world)).findings == []


async def test_each_batch_is_told_in_the_log(world: World) -> None:
    with structlog.testing.capture_logs() as logs:
        await seal(world)
        await note(world, "a")
        await seal(world)
    told = [line for line in logs if line["event"] == "audit_sealed"]
    assert [(line["number"], line["events"]) for line in told] == [(1, AT_START), (2, 1)]
    head = await world.value("SELECT encode(head, 'hex') FROM audit_batches WHERE number = 2")
    assert told[1]["head"] == head
    public = load_pem_public_key((world.ctx.settings.data_dir / "audit.pub").read_bytes())
    raw = public.public_bytes_raw()  # type: ignore[union-attr]  # it is an Ed25519 key
    assert trail.is_signed_head(raw, bytes.fromhex(told[1]["signature"]), bytes.fromhex(head))


async def test_a_transaction_that_holds_sealing_back_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_HELD_BACK_S", 0.0)
    async with world.ctx.db.transaction() as tx:
        await tx.execute(INSERT, "open")
        with structlog.testing.capture_logs() as logs:
            await seal(world)
            await note(world, "a")
            await seal(world)
            await seal(world)
    assert "audit_sealing_held_back" in [line["event"] for line in logs]


async def test_the_key_is_one_for_all_and_moves_to_a_new_encryption_key(database_url: str, tmp_path: Path) -> None:
    first = variables(database_url, tmp_path)
    async with open_world(first) as world:
        await seal(world)
        key_id = world.ctx.trail.key_id
        envelope = await world.value("SELECT sealed_key FROM audit_keys")
    changed = {**first, "CERTCTL_CONFIG_ENCRYPTION_KEY": "n" * 40}
    async with open_world({**changed, "CERTCTL_CONFIG_ENCRYPTION_KEY_PREVIOUS": ENCRYPTION_KEY}) as world:
        assert world.ctx.trail.key_id == key_id
        assert await world.value("SELECT sealed_key FROM audit_keys") != envelope
    async with open_world(changed) as world:
        await note(world, "a")
        await seal(world)
        assert await world.value("SELECT count(DISTINCT key_id) FROM audit_batches") == 1
        Sealer(Secret(b"n" * 40)).open(await world.value("SELECT sealed_key FROM audit_keys"), sealing.place(key_id))


async def test_what_was_there_before_is_kept_and_sealed(empty_database_url: str, tmp_path: Path) -> None:
    older = tmp_path / "older"
    older.mkdir()
    for entry in own_migrations().iterdir():
        if entry.name < "0003":
            (older / entry.name).write_text(entry.read_text(encoding="utf-8"))
    await migrate(empty_database_url, older)
    connection = await driver.connect(empty_database_url, {})
    await connection.execute(
        """
        INSERT INTO audit_events (at, actor, action, resource_type, resource_id, details)
        SELECT now() - n * interval '20 days', 'system', 'test.noted', 'test', 'old' || n, '{"n": 1.50}'
        FROM generate_series(0, 9) AS n
        """
    )
    before = await connection.fetch("SELECT * FROM audit_events ORDER BY id")
    await connection.close()
    async with open_world(variables(empty_database_url, tmp_path / "data")) as world:
        columns = "id, at, actor, action, resource_type, resource_id, request_id, details::text AS details"
        rows = await world.rows(f"SELECT {columns} FROM audit_events WHERE action = 'test.noted' ORDER BY id")
        assert rows == [dict(row.items()) for row in before]
        assert await world.value("SELECT count(*) FROM audit_events_default") == 0
        assert await world.value("SELECT min(id) FROM audit_events WHERE action <> 'test.noted'") == 11
        await seal(world)
        assert (await check(world)).findings == []
        assert (await check(world)).events == 10 + AT_START


async def test_a_restored_dump_goes_on_in_a_new_era(
    postgres_server: PostgresServer, database_url: str, tmp_path: Path
) -> None:
    """Transaction ids of the new cluster begin far below those that are sealed."""
    async with open_world(variables(database_url, tmp_path / "data")) as world:
        await world.rows("SELECT pg_current_xact_id() FROM generate_series(1, 3)")
        await seal(world)
        await note(world, "sealed")
        await seal(world)
        await note(world, "left over")
        highest = await world.value("SELECT max(xact) FROM audit_events")
    bin_dir = (await find_installation()).bin_dir
    dump = tmp_path / "dump.sql"
    code, said = await run([str(bin_dir / "pg_dump"), "--file", str(dump), database_url], 60)
    assert code == 0, said
    other = EmbeddedPostgres(tmp_path / "other", settings=FAST)
    dsn = await other.start()
    try:
        code, said = await run([str(bin_dir / "psql"), "-q", "-v", "ON_ERROR_STOP=1", "-f", str(dump), dsn], 60)
        assert code == 0, said
        async with open_world(variables(dsn, tmp_path / "data")) as world:
            await note(world, "new era")
            assert await world.value("SELECT xact < $1 FROM audit_events WHERE resource_id = 'new era'", highest)
            await seal(world)
            assert [batch["era"] for batch in await batches(world)] == [1, 1, 1, 2]
            assert await names_in(world, 3) == ["left over"]
            assert await names_in(world, 4) == ["new era"]
            verdict = await check(world)
            assert (verdict.findings, verdict.unsealed) == ([], 0)
        async with open_world(variables(dsn, tmp_path / "data")) as world:
            assert await world.value("SELECT max(era) FROM audit_eras") == 2
    finally:
        await other.stop()
