"""Whoever has all rights in the database and not the sealing key leaves traces, and the check names each."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.audit import store
from coordinator.audit.sealing import batch_of
from core import trail
from core.errors import Misconfigured
from core.sealing import Sealer
from core.secret import Secret
from tests.coordinator.trail import check, heads, note, seal, superuser, tamper
from tests.coordinator.world import World

pytestmark = pytest.mark.anyio

ONE = "(SELECT id FROM audit_events WHERE resource_id = 'b')"


@pytest.fixture
async def sealed(world: World) -> World:
    """A trail of four batches: that of the start, and one for each of a, b and c."""
    await seal(world)
    for name in "abc":
        await note(world, name)
        await seal(world)
    verdict = await check(world, await heads(world))
    assert verdict.findings == []
    assert (verdict.batches, verdict.unsealed, verdict.heads_compared) == (4, 0, 4)
    return world


async def the_event(world: World) -> int:
    return int(await world.value(f"SELECT id FROM audit_events WHERE id = {ONE}"))


@pytest.mark.parametrize(
    "change",
    [
        "actor = 'key:key-somebody-else'",
        "action = 'test.undone'",
        "resource_type = 'another'",
        "resource_id = 'bb'",
        "request_id = 'req-1'",
        """details = '{"n": 2}'""",
        "at = at + interval '1 microsecond'",
    ],
)
async def test_a_changed_event_is_named(sealed: World, change: str) -> None:
    event_id = await the_event(sealed)
    await tamper(sealed, f"UPDATE audit_events SET {change} WHERE id = {event_id}")
    (finding,) = (await check(sealed)).findings
    assert (finding.kind, finding.batch, finding.event) == ("event changed", 3, event_id)
    assert f"event {event_id} " in finding.detail


async def test_a_removed_event_is_named(sealed: World) -> None:
    event_id = await the_event(sealed)
    await tamper(sealed, f"DELETE FROM audit_events WHERE id = {event_id}")
    (finding,) = (await check(sealed)).findings
    assert (finding.kind, finding.batch, finding.event) == ("event removed", 3, event_id)


async def test_an_event_that_got_another_number_is_named_as_removed_and_as_inserted(sealed: World) -> None:
    event_id = await the_event(sealed)
    # An identity column takes no update; whoever owns the table makes it an ordinary one.
    await tamper(sealed, "ALTER TABLE audit_events ALTER id DROP IDENTITY, ALTER id SET DEFAULT 0")
    await tamper(sealed, f"UPDATE audit_events SET id = 999 WHERE id = {event_id}")
    found = {(finding.kind, finding.event) for finding in (await check(sealed)).findings}
    assert found == {("event removed", event_id), ("event inserted", 999)}


@pytest.mark.parametrize("move", ["xact = '3'", "era = 0", "xact = (xact::text::bigint + 1000000)::text::xid8"])
async def test_an_event_that_was_moved_out_of_its_batch_is_named(sealed: World, move: str) -> None:
    event_id = await the_event(sealed)
    await tamper(sealed, f"UPDATE audit_events SET {move} WHERE id = {event_id}")
    kinds = {(finding.kind, finding.event) for finding in (await check(sealed)).findings}
    assert ("event removed", event_id) in kinds


@pytest.mark.parametrize("era,batch", [("era", 3), ("0", 0), ("99", 0)])
async def test_an_event_that_was_added_to_what_is_sealed_is_named(sealed: World, era: str, batch: int) -> None:
    await tamper(
        sealed,
        f"""
        INSERT INTO audit_events (at, era, xact, actor, action, resource_type, resource_id)
        SELECT at, {era}, xact, 'key:key-a', 'test.forged', 'test', 'x' FROM audit_events WHERE id = {ONE}
        """,
    )
    forged = await sealed.value("SELECT id FROM audit_events WHERE action = 'test.forged'")
    (finding,) = (await check(sealed)).findings
    assert (finding.kind, finding.batch, finding.event) == ("event inserted", batch, forged)
    assert str(forged) in finding.detail


async def test_a_doubled_event_is_named(sealed: World) -> None:
    event_id = await the_event(sealed)
    copied = "at + interval '1 s', id, era, xact, actor, action, resource_type, resource_id, request_id, details"
    names = "at, id, era, xact, actor, action, resource_type, resource_id, request_id, details"
    copy = f"INSERT INTO audit_events ({names}) OVERRIDING SYSTEM VALUE SELECT {copied} FROM audit_events"
    await tamper(sealed, f"{copy} WHERE id = {event_id}")
    assert "event inserted" in [finding.kind for finding in (await check(sealed)).findings]


@pytest.mark.parametrize(
    "change",
    [
        "era = 2",
        "from_xact = (from_xact::text::bigint + 1)::text::xid8",
        "to_xact = (to_xact::text::bigint + 1)::text::xid8",
        "events = 7",
        "leaves = leaves || leaves",
        "leaves = substr(leaves, 2)",
        "previous = sha256('x')",
        "head = sha256('x')",
        "signature = sha512('x')",
        "key_id = 'another'",
        "sealed_at = sealed_at - interval '1 day'",
    ],
)
async def test_a_changed_batch_is_named(sealed: World, change: str) -> None:
    await tamper(sealed, f"UPDATE audit_batches SET {change} WHERE number = 3")
    found = (await check(sealed)).findings
    assert ("batch changed", 3) in [(finding.kind, finding.batch) for finding in found]
    assert 1 not in [finding.batch for finding in found]


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_batch_that_was_removed_is_named(sealed: World, number: int) -> None:
    await tamper(sealed, "DELETE FROM audit_batches WHERE number = $1", number)
    assert [(f.kind, f.batch) for f in (await check(sealed)).findings] == [("batch removed", number)]


async def test_batches_that_were_exchanged_are_named(sealed: World) -> None:
    await tamper(sealed, "UPDATE audit_batches SET number = 90 WHERE number = 2")
    await tamper(sealed, "UPDATE audit_batches SET number = 2 WHERE number = 3")
    await tamper(sealed, "UPDATE audit_batches SET number = 3 WHERE number = 90")
    found = [(finding.kind, finding.batch) for finding in (await check(sealed)).findings]
    assert ("batch changed", 2) in found
    assert ("batch changed", 3) in found


async def test_a_chain_that_was_cut_off_shows_with_a_head_from_elsewhere(sealed: World) -> None:
    kept = await heads(sealed)
    await tamper(sealed, "DELETE FROM audit_events WHERE resource_id IN ('b', 'c')")
    await tamper(sealed, "DELETE FROM audit_batches WHERE number > 2")
    assert (await check(sealed)).findings == []  # what nobody else has kept cannot be missed
    (finding,) = (await check(sealed, {4: kept[4]})).findings
    assert (finding.kind, finding.batch) == ("chain cut", 3)
    assert "ends at batch 2" in finding.detail


async def test_a_chain_that_was_cut_off_and_grew_again_shows_with_a_head_from_elsewhere(sealed: World) -> None:
    kept = await heads(sealed)
    await tamper(sealed, "DELETE FROM audit_events WHERE resource_id = 'b'")
    await tamper(sealed, "DELETE FROM audit_batches WHERE number > 2")
    await note(sealed, "d")
    await seal(sealed)
    assert (await check(sealed)).findings == []
    found = [(finding.kind, finding.batch) for finding in (await check(sealed, kept)).findings]
    assert found == [("chain differs", 3), ("chain cut", 4)]


async def test_a_genuine_batch_of_another_past_does_not_fit(sealed: World) -> None:
    """Signed by the real key, with the right range, on top of a batch 3 that is not the one here."""
    assert sealed.ctx.trail.key is not None
    async with sealed.ctx.db.transaction() as tx:
        row = (await store.batches(tx, 3, 1))[0]
    other = batch_of(row)._replace(previous=bytes(range(32)))
    change = "UPDATE audit_batches SET previous = $1, head = $2, signature = $3 WHERE number = 4"
    await tamper(sealed, change, other.previous, other.head(), trail.sign_head(sealed.ctx.trail.key, other.head()))
    (finding,) = (await check(sealed)).findings
    assert (finding.kind, finding.batch) == ("batch changed", 4)
    assert "does not follow the head" in finding.detail


async def test_a_whole_chain_under_another_key_is_not_this_installations(sealed: World) -> None:
    forger = Ed25519PrivateKey.generate()
    public = forger.public_key().public_bytes_raw()
    name = trail.key_id(public)
    other = Sealer(Secret(b"x" * 32)).seal(Secret(forger.private_bytes_raw()), f"audit_keys/{name}")
    connection = await superuser(sealed.dsn)
    try:
        insert = "INSERT INTO audit_keys (id, public_key, sealed_key) VALUES ($1, $2, $3)"
        await connection.execute(insert, name, public, other)
        await connection.execute("DELETE FROM audit_events WHERE resource_id = 'b'")
        await connection.execute("UPDATE audit_batches SET key_id = $1", name)
        previous = trail.FIRST
        async with sealed.ctx.db.transaction() as tx:
            rows = await store.batches(tx, 0, 99)
        for row in rows:
            batch = batch_of(row)._replace(previous=previous)
            if row["number"] == 3:
                batch = batch._replace(leaves=rows[0]["leaves"][:48])
            previous = batch.head()
            change = "UPDATE audit_batches SET leaves = $2, previous = $3, head = $4, signature = $5 WHERE number = $1"
            signature = trail.sign_head(forger, previous)
            await connection.execute(change, batch.number, batch.leaves, batch.previous, previous, signature)
    finally:
        await connection.close()
    found = [(finding.kind, finding.batch) for finding in (await check(sealed)).findings]
    assert ("key foreign", 0) in found
    assert {("batch changed", number) for number in (1, 2, 3, 4)} <= set(found)


async def test_a_public_key_that_was_exchanged_is_named(sealed: World) -> None:
    await tamper(sealed, "UPDATE audit_keys SET public_key = sha256('x')")
    assert [finding.kind for finding in (await check(sealed)).findings] == ["key foreign"]


async def test_without_any_key_that_opens_nothing_is_said_to_be_sound(sealed: World) -> None:
    await tamper(sealed, "UPDATE audit_keys SET sealed_key = sha512('x')")
    with pytest.raises(Misconfigured, match="no sealing key"):
        await check(sealed)


async def test_a_month_that_vanished_is_a_hole_and_a_forged_permission_is_none(sealed: World) -> None:
    month = datetime.now(UTC).date().replace(day=1)
    count = await sealed.value("SELECT count(*) FROM audit_events")
    await tamper(sealed, f"DROP TABLE audit_events_{month:%Y_%m}")
    found = (await check(sealed)).findings
    assert [finding.kind for finding in found] == ["event removed"] * count
    signature = trail.sign_month(Ed25519PrivateKey.generate(), month, datetime.now(UTC))
    key_id = await sealed.value("SELECT id FROM audit_keys")
    insert = "INSERT INTO audit_dropped_months (month, dropped_at, key_id, signature) VALUES ($1, now(), $2, $3)"
    await tamper(sealed, insert, month, key_id, signature)
    found = (await check(sealed)).findings
    assert [finding.kind for finding in found] == ["month foreign", *["event removed"] * count]
