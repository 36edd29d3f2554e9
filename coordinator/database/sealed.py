"""Columns that hold envelopes of ``core.sealing``: which keys seal them, and a walk through those of another key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from core.sealing import KEY_ID_BYTES


class SealedColumn(NamedTuple):
    """``key`` are the columns of the primary key; ``place`` is what the envelope of a row is bound to."""

    table: str
    key: tuple[str, ...]
    column: str
    place: Callable[[Row], str]

    @property
    def _key_id(self) -> str:
        return f"substr({self.column}, 2, {KEY_ID_BYTES})"

    async def counts(self, conn: Connection) -> dict[str, int]:
        """Return how many envelopes there are by the id of their key, in hex."""
        rows = await conn.fetch(
            f"""
            SELECT encode({self._key_id}, 'hex') AS key_id, count(*) AS number FROM {self.table}
            WHERE length({self.column}) > 0 GROUP BY 1
            """
        )
        return {row["key_id"]: row["number"] for row in rows}

    async def of_other_keys(self, conn: Connection, key_id: bytes, after: Sequence[object], limit: int) -> list[Row]:
        """Return the next rows, locked, whose envelope another key has sealed; ``after`` is the key of the last one."""
        names = ", ".join(self.key)
        beyond = f"AND ({names}) > ({', '.join(f'${place}' for place in range(3, 3 + len(after)))})" if after else ""
        return await conn.fetch(
            f"""
            SELECT {names}, {self.column} AS envelope FROM {self.table}
            WHERE length({self.column}) > 0 AND {self._key_id} <> $1 {beyond}
            ORDER BY {names} LIMIT $2 FOR UPDATE SKIP LOCKED
            """,
            key_id,
            limit,
            *after,
        )

    async def save(self, conn: Connection, envelopes: Sequence[tuple[object, ...]]) -> None:
        """Store envelopes, each behind the values of its row's key."""
        where = " AND ".join(f"{name} = ${place}" for place, name in enumerate(self.key, 1))
        sql = f"UPDATE {self.table} SET {self.column} = ${len(self.key) + 1} WHERE {where}"
        await conn.executemany(sql, envelopes)
