"""Tables of named things that people make and change: one way to insert, read, replace and remove a row.

Each has ``id``, ``revision`` (one higher with every change), ``created_at`` and ``updated_at`` beside its own columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.database.connection import Connection
from coordinator.database.driver import Record


@dataclass(frozen=True)
class Table:
    """A table by name, with the ``columns`` that callers set.

    ``lock`` is how a row is held for its change: so that nobody refers to it meanwhile, because it may be removed.
    """

    name: str
    columns: tuple[str, ...]
    lock: str = "FOR UPDATE"

    @property
    def reads(self) -> str:
        """Return the columns of a row, as SQL."""
        return ", ".join(("id", *self.columns, "revision", "created_at", "updated_at"))

    async def insert(self, conn: Connection, row_id: str, values: Mapping[str, object]) -> Record:
        """Store a new row and return it; constraint violations pass through."""
        places = ", ".join(f"${place}" for place in range(1, len(self.columns) + 2))
        row = await conn.fetchrow(
            f"INSERT INTO {self.name} (id, {', '.join(self.columns)}) VALUES ({places}) RETURNING {self.reads}",
            row_id,
            *self._of(values),
        )
        assert row is not None  # noqa: S101 - an insert returns its row
        return row

    async def get(self, conn: Connection, row_id: str, *, lock: bool = False) -> Record | None:
        """Return a row, locked until the transaction's end when asked."""
        tail = self.lock if lock else ""
        return await conn.fetchrow(f"SELECT {self.reads} FROM {self.name} WHERE id = $1 {tail}", row_id)

    async def replace(self, conn: Connection, row_id: str, values: Mapping[str, object]) -> Record:
        """Give a row that is there new values and return it."""
        sets = ", ".join(f"{column} = ${place}" for place, column in enumerate(self.columns, 2))
        row = await conn.fetchrow(
            f"""
            UPDATE {self.name} SET {sets}, revision = revision + 1, updated_at = now()
            WHERE id = $1 RETURNING {self.reads}
            """,
            row_id,
            *self._of(values),
        )
        assert row is not None  # noqa: S101 - the caller has it locked
        return row

    async def remove(self, conn: Connection, row_id: str) -> None:
        """Remove a row; a violated reference passes through."""
        await conn.execute(f"DELETE FROM {self.name} WHERE id = $1", row_id)

    async def count_users(self, conn: Connection, table: str, refers: str, row_id: str) -> tuple[int, list[str]]:
        """Return how many rows of another table refer to a row, counted up to 1,000, and the ids of a few of them.

        ``refers`` is the condition, with ``$1`` for the row's id.
        """
        rows = await conn.fetch(f"SELECT id FROM {table} WHERE {refers} ORDER BY id LIMIT 1000", row_id)
        return len(rows), [str(row["id"]) for row in rows[:3]]

    def _of(self, values: Mapping[str, object]) -> list[object]:
        return [values[column] for column in self.columns]
