"""Puts a stock into a migrated database by COPY, with the indexes built afterwards."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from benchmarks.api.stock import Batch, Stock
from coordinator.database import driver

_INDEXES = """
    SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS made FROM pg_index
    WHERE indrelid = to_regclass($1) AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""
_PREPARE = ("SET maintenance_work_mem = '512MB'", "SET statement_timeout = 0")
_MONTHS = "SELECT audit_make_month((now() - number * interval '1 month')::date) FROM generate_series(0, 14) AS number"
_MANY = 1000
"""Rows from which it pays to build the indexes afterwards, and to tell."""


async def seed(dsn: str, stock: Stock, *, quiet: bool = False) -> float:
    """Fill the database; return the seconds it took. The database must be empty but for the ready-made rows."""
    started = time.monotonic()
    connection: Any = await driver.connect(dsn, {})
    try:
        for statement in _PREPARE:
            await connection.execute(statement)
        with contextlib.suppress(driver.NotPermitted):
            # References hold by themselves here, and the columns that triggers keep are given.
            await connection.execute("SET session_replication_role = replica")
        await connection.execute(_MONTHS)
        for batch in stock.batches():
            await _copy(connection, batch, quiet=quiet)
        await connection.execute("SELECT tally_anew()")
        _say("vacuum and analyze", quiet=quiet)
        await connection.execute("VACUUM (ANALYZE)")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    return time.monotonic() - started


async def _copy(connection: Any, batch: Batch, *, quiet: bool) -> None:  # noqa: ANN401 - the driver has no types
    started = time.monotonic()
    indexes = await connection.fetch(_INDEXES, batch.table) if batch.size > _MANY else []
    for index in indexes:
        await connection.execute(f"DROP INDEX {index['name']}")
    said = await connection.copy_records_to_table(batch.table, records=batch.rows, columns=batch.columns)
    copied = time.monotonic() - started
    for index in indexes:
        # An index of a table that is kept in parts is made on all of them.
        await connection.execute(index["made"].replace(" ON ONLY ", " ON "))
    total = time.monotonic() - started
    if batch.size > _MANY:
        rows = int(said.split()[-1])
        _say(f"{rows:>9,} {batch.table:<22} {copied:6.1f} s, indexes {total - copied:6.1f} s", quiet=quiet)


def _say(what: str, *, quiet: bool) -> None:
    if not quiet:
        sys.stderr.write(f"  {what}\n")
        sys.stderr.flush()
