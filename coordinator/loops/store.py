"""SQL of the turn, and of what the loops did."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row


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


class Run(NamedTuple):
    """A tick that is over; ``answered`` is up to which request it answers, 0 for none."""

    name: str
    runner: str
    ms: float
    error: str
    answered: int


async def runner(conn: Connection) -> str:
    """Return who has the turn; empty when nobody has."""
    found: str | None = await conn.fetchval("SELECT runner FROM loops_turn WHERE until > now()")
    return found or ""


async def runs(conn: Connection) -> list[Row]:
    """Return what is kept of each loop's runs."""
    return await conn.fetch(
        "SELECT name, runner, started_at, ms, failed_at, error, asked, answered FROM loop_runs ORDER BY name"
    )


async def keep(conn: Connection, run: Run) -> None:
    """Keep what a run was like, in place of the one before."""
    await conn.execute(
        """
        INSERT INTO loop_runs (name, runner, started_at, ms, error, answered, failed_at)
        VALUES ($1, $2, clock_timestamp() - $3 * interval '1 millisecond', $3, $4, $5,
          CASE WHEN $4 <> '' THEN now() END)
        ON CONFLICT (name) DO UPDATE SET runner = excluded.runner, started_at = excluded.started_at, ms = excluded.ms,
          error = excluded.error, answered = greatest(loop_runs.answered, excluded.answered),
          failed_at = coalesce(excluded.failed_at, loop_runs.failed_at)
        """,
        run.name,
        run.runner,
        run.ms,
        run.error,
        run.answered,
    )


async def ask(conn: Connection, name: str) -> int:
    """Count a request for a run; return how many there were."""
    number: int = await conn.fetchval(
        """
        INSERT INTO loop_runs (name, asked) VALUES ($1, 1)
        ON CONFLICT (name) DO UPDATE SET asked = loop_runs.asked + 1 RETURNING asked
        """,
        name,
    )
    return number


async def asked(conn: Connection) -> dict[str, int]:
    """Return the loops that a run was asked of, with the number of the newest request."""
    rows = await conn.fetch("SELECT name, asked FROM loop_runs WHERE asked > answered")
    return {row["name"]: row["asked"] for row in rows}
