"""The ``Idempotency-Key`` of requests that make something (draft-ietf-httpapi-idempotency-key-header).

Key, change and answer are one transaction: after a crash either all of it is there, or nothing and the repetition does
it. A repetition that comes while the first is under way waits for that. Answers are sealed, since some hold a new
credential that is shown once. Failures are not kept: they changed nothing.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING

from coordinator.database.connection import Transaction
from coordinator.database.sealed import SealedColumn
from coordinator.idempotency import store
from core.errors import InvalidInput, Misconfigured, Refused
from core.secret import Secret

if TYPE_CHECKING:
    from coordinator.context import Context

KEPT = timedelta(hours=24)
MOST_CHARACTERS = 255


async def begin(ctx: Context, tx: Transaction, actor: str, key: str, request: bytes) -> bytes | None:
    """Take a key for this request; return the answer that was given under it before, None when this is the first.

    Raises ``InvalidInput`` for a key that is none, ``Refused`` when it was used for another request.
    """
    if not 0 < len(key) <= MOST_CHARACTERS or not key.isprintable():
        raise InvalidInput.of("Idempotency-Key", f"has 1 to {MOST_CHARACTERS} printable characters; a UUID is best")
    digest = hashlib.sha256(request).digest()
    if await store.claim(tx, actor, key, digest, KEPT):
        return None
    row = await store.get(tx, actor, key)
    if row is None or row["request"] != digest:
        detail = "this Idempotency-Key was used for another request within the last day; take a new one"
        raise Refused(detail)
    try:
        return ctx.sealer.open(row["answer"], _place(actor, key)).reveal()
    except Misconfigured as error:
        detail = "what was answered under this Idempotency-Key was sealed with an encryption key that is gone"
        raise Refused(f"{detail}; see whether the first request did its work, and take a new key") from error


async def keep(ctx: Context, tx: Transaction, actor: str, key: str, answer: bytes) -> None:
    """Keep the answer for repetitions."""
    await store.keep(tx, actor, key, ctx.sealer.seal(Secret(answer), _place(actor, key)))


async def purge(ctx: Context) -> None:
    """Forget what was kept long enough."""
    async with ctx.db.connection() as conn:
        await store.purge(conn)


def _place(actor: str, key: str) -> str:
    return f"idempotency_keys/{actor}/{key}"


SEALED = SealedColumn("idempotency_keys", ("actor", "key"), "answer", lambda row: _place(row["actor"], row["key"]))
