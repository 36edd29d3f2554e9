"""Going over to another CERTCTL_CONFIG_ENCRYPTION_KEY while coordinators serve.

Each coordinator says in the database which keys it knows. As long as one of those that run does not know the new key,
all go on sealing with the previous one, so that it can open what the others store. When all know it, what the previous
key has sealed is sealed anew: at a start the few keys that nothing works without, by the loop everything, in batches,
also what a coordinator has sealed with the previous key meanwhile.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from coordinator.audit import sealing as audit
from coordinator.database.connection import Connection, Transaction
from coordinator.database.sealed import SealedColumn
from coordinator.encryption import store
from coordinator.encryption.naming import is_gone
from coordinator.enrollment.acme import accounts as acme
from coordinator.idempotency import service as idempotency
from coordinator.issuers import secrets as issuer_secrets
from coordinator.issuers import service as issuers
from coordinator.ordering import accounts as issuer_accounts
from coordinator.server_tls import service as server_tls
from coordinator.sessions import service as sessions
from core.crash import crash_point
from core.errors import Misconfigured

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger()
SEALED: tuple[SealedColumn, ...] = (
    issuers.SEALED,
    issuer_secrets.SEALED,
    issuer_accounts.SEALED,
    server_tls.SEALED,
    audit.SEALED,
    sessions.SEALED,
    idempotency.SEALED,
    acme.SEALED,
)
"""Everything that the coordinators keep sealed for themselves. What is sealed to an agent is not theirs to open."""
_ALIVE = timedelta(seconds=15)
_BATCH = 500


async def begin(ctx: Context, tx: Transaction) -> None:
    """Join the coordinators that run, before anything is sealed or opened; others that start wait for the end of tx."""
    await store.alone(tx)
    await say(ctx, tx)


async def say(ctx: Context, conn: Connection) -> None:
    """Say that this coordinator runs and which keys it knows, and learn whether all know the new one."""
    await store.say(conn, ctx.name, ctx.sealer.key_ids, _ALIVE)
    await _choose(ctx, conn)


async def _choose(ctx: Context, conn: Connection) -> bool:
    """Seal with the new key when all who run know it; say whether they do."""
    behind = [name for name, keys in (await running(conn)).items() if ctx.sealer.current not in keys]
    if ctx.sealer.choose(current=not behind):
        if behind:
            remedy = "restart these with both keys, or end them"
            log.warning("secrets_stay_under_previous_key", key_id=ctx.sealer.current, unknown_to=behind, remedy=remedy)
        else:
            log.info("secrets_sealed_with_new_key", key_id=ctx.sealer.current)
    return not behind


async def leave(ctx: Context) -> None:
    """Say that this coordinator has ended."""
    async with ctx.db.connection() as conn:
        await store.leave(conn, ctx.name)


async def seal_anew(ctx: Context) -> int:
    """Seal with the current key what another has sealed; return how many. Any replica may run it at any time."""
    if len(ctx.sealer.key_ids) == 1:
        return 0
    done = {column.table: await _seal_column_anew(ctx, column) for column in SEALED}
    if any(done.values()):
        async with ctx.db.connection() as conn:
            left = sum(number for name, number in (await totals(conn)).items() if name != ctx.sealer.current)
        log.info("secrets_sealed_anew", left=left, key_id=ctx.sealer.current, **done)
    return sum(done.values())


async def _seal_column_anew(ctx: Context, column: SealedColumn) -> int:
    after: tuple[object, ...] = ()
    done = 0
    while True:
        async with ctx.db.transaction() as tx:
            await store.alone(tx)
            if not await _choose(ctx, tx):
                return done
            rows = await column.of_other_keys(tx, bytes.fromhex(ctx.sealer.current), after, _BATCH)
            fresh: list[tuple[object, ...]] = []
            for row in rows:
                after = tuple(row[name] for name in column.key)
                try:
                    envelope = ctx.sealer.sealed_anew(row["envelope"], column.place(row))
                except Misconfigured as error:
                    log.warning("secret_not_sealed_anew", table=column.table, detail=error.detail)
                    continue
                if envelope is not None:
                    fresh.append((*after, envelope))
            await column.save(tx, fresh)
            if fresh:
                crash_point("encryption.sealed_anew")
        done += len(fresh)
        if len(rows) < _BATCH:
            return done


async def counts(conn: Connection) -> dict[str, dict[str, int]]:
    """Return by table, and in it by the id of the key, how many secrets are sealed."""
    return {column.table: await column.counts(conn) for column in SEALED}


async def totals(conn: Connection) -> dict[str, int]:
    """Return by the id of the key how many secrets are sealed."""
    found: dict[str, int] = {}
    for by_key in (await counts(conn)).values():
        for key_id, number in by_key.items():
            found[key_id] = found.get(key_id, 0) + number
    return found


async def running(conn: Connection) -> dict[str, list[str]]:
    """Return the coordinators that run, with the ids of the keys that they know."""
    return {row["id"]: list(row["keys"]) for row in await store.running(conn) if not is_gone(row["id"])}
