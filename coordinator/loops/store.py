"""SQL of the turn."""

from __future__ import annotations

from datetime import timedelta

from coordinator.database.connection import Connection


async def take_turn(conn: Connection, runner: str, turn: timedelta) -> bool:
    """Take or extend the turn by the database's clock; say whether it is the runner's."""
    taken = await conn.fetchval(
        """
        INSERT INTO loops_turn (runner, until) VALUES ($1, now() + $2)
        ON CONFLICT (only_one) DO UPDATE SET runner = excluded.runner, until = excluded.until
        WHERE loops_turn.runner = excluded.runner OR loops_turn.until < now()
        RETURNING true
        """,
        runner,
        turn,
    )
    return bool(taken)


async def give_up_turn(conn: Connection, runner: str) -> None:
    """End the runner's turn, if it has it."""
    await conn.execute("DELETE FROM loops_turn WHERE runner = $1", runner)
