"""Helpers for tests of the sealed trail: events, batches, and somebody with all the rights of the database."""

from __future__ import annotations

from typing import Any

from coordinator.audit import sealing
from coordinator.audit.verify import Verdict, verify
from coordinator.database import driver
from coordinator.database.driver import RawConnection
from core.sealing import Sealer
from core.secret import Secret
from tests.coordinator.world import ENCRYPTION_KEY, World

SEALER = Sealer(Secret(ENCRYPTION_KEY.encode()))
INSERT = """
  INSERT INTO audit_events (actor, action, resource_type, resource_id, details)
  VALUES ('system', 'test.noted', 'test', $1, '{"n": 1}')
"""


async def note(world: World, *names: str) -> None:
    """Append one event for each name, each in a transaction of its own."""
    for name in names:
        await world.execute(INSERT, name)


async def seal(world: World) -> float:
    """Seal until nothing more can be; return the pause that the loop would make then."""
    while True:
        before, pause_s = world.ctx.trail.head, await sealing.seal(world.ctx, 60.0)
        if pause_s == 60.0 or world.ctx.trail.head == before:
            return pause_s


async def check(world: World, heads: dict[int, str] | None = None) -> Verdict:
    return await verify(world.ctx.db, SEALER, heads or {})


async def heads(world: World) -> dict[int, str]:
    rows = await world.rows("SELECT number, encode(head, 'hex') AS head FROM audit_batches ORDER BY number")
    return {row["number"]: row["head"] for row in rows}


async def superuser(dsn: str) -> RawConnection:
    """Connect as somebody for whom no trigger and no foreign key holds."""
    connection = await driver.connect(dsn, {})
    await connection.execute("SET session_replication_role = replica")
    return connection


async def tamper(world: World, statement: str, *arguments: Any) -> None:
    """Change the trail as a superuser without triggers."""
    connection = await superuser(world.dsn)
    try:
        status = await connection.execute(statement, *arguments)
        assert not status.endswith(" 0"), f"{statement} changed nothing"
    finally:
        await connection.close()
