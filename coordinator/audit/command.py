"""``certctl-coordinator audit verify``: the check on a terminal or for a machine, beside a coordinator that serves."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from coordinator.audit.heads import read_heads
from coordinator.audit.verify import Verdict, verify
from coordinator.database import driver
from coordinator.database.embedded import EmbeddedPostgres
from coordinator.database.pool import VARIABLE, Database
from coordinator.settings import Settings
from core.errors import Misconfigured
from core.sealing import Sealer

SOUND, UNSOUND = 0, 1
_CONNECTIONS = 2


async def run(settings: Settings, sealer: Sealer, heads: Path | None, *, as_json: bool) -> int:
    """Check the trail; return 0 when it is as it was sealed, 1 when not. Raises when it cannot be checked."""
    kept = read_heads(heads) if heads is not None else {}
    async with database_url(settings) as dsn:
        db = await Database.open(dsn, max_connections=_CONNECTIONS)
        try:
            verdict = await verify(db, sealer, kept)
        except (driver.UndefinedTable, driver.NotPermitted) as error:
            message = f"{VARIABLE}: there is no audit trail that this role can read ({error})"
            raise Misconfigured(message) from error
        finally:
            await db.close()
    sys.stdout.write(_json(verdict) if as_json else _text(verdict))
    return UNSOUND if verdict.findings else SOUND


@contextlib.asynccontextmanager
async def database_url(settings: Settings) -> AsyncIterator[str]:
    """Yield a DSN: that of the settings, of an embedded server that runs, or of one that is started for this."""
    if settings.database_url is not None:
        yield settings.database_url.reveal()
        return
    postgres = EmbeddedPostgres(settings.data_dir)
    if (running := postgres.running()) is not None:
        yield running
        return
    dsn = await postgres.start()
    try:
        yield dsn
    finally:
        await postgres.stop()


def _json(verdict: Verdict) -> str:
    document = {"sound": not verdict.findings, **msgspec.to_builtins(verdict)}
    return msgspec.json.format(msgspec.json.encode(document)).decode() + "\n"


def _text(verdict: Verdict) -> str:
    lines = [f"{finding.kind}: {finding.detail}" for finding in verdict.findings]
    said = [f"{verdict.events} events in {verdict.batches} batches checked", f"{verdict.unsealed} not sealed yet"]
    if verdict.expired:
        said.append(f"{verdict.expired} removed by retention")
    if verdict.heads_compared:
        said.append(f"{verdict.heads_compared} kept heads compared")
    result = f"NOT as it was sealed: {len(lines)} findings" if lines else "as it was sealed"
    return (
        "\n".join([*lines, "; ".join(said), f"newest head {verdict.head or 'none'}", f"the trail is {result}"]) + "\n"
    )
