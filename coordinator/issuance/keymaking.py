"""Private keys made here: CERTCTL_KEYGEN_MODE=server, for demonstrations only.

A key is made when its job is handed out, sealed to the agent that the job is for (``core.hpke``), sent with it, and
forgotten: it is in no database and in no log. Whether the agent takes it is up to its host; else it makes its own. With
the key the agent makes its CSR as always, so nothing else knows of this.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from coordinator.audit import service as audit
from coordinator.database.connection import Transaction
from coordinator.web.table import Actor
from core import hpke, keys
from core.keys import KeyAlgorithm
from core.secret import Secret
from core.wire import DeploymentItem, IssuanceItem

if TYPE_CHECKING:
    from coordinator.context import Context

WARNING = (
    "CERTCTL_KEYGEN_MODE=server: this coordinator makes private keys and has seen each of them, for demonstrations. "
    "Unset it, and renew what was issued meanwhile"
)
Item = IssuanceItem | DeploymentItem


def is_on(ctx: Context) -> bool:
    """Say whether keys are made here."""
    return ctx.settings.keygen_mode == "server"


def warnings(ctx: Context) -> list[str]:
    """Return what has to be said at every occasion."""
    return [WARNING] if is_on(ctx) else []


async def with_keys(tx: Transaction, sealing_key: bytes, items: tuple[Item, ...]) -> tuple[Item, ...]:
    """Return work with a new key for each issuance in it, sealed to ``sealing_key``.

    A job that is handed out again, because an answer got lost, gets another key.
    """
    return tuple([await _with_key(tx, sealing_key, item) if isinstance(item, IssuanceItem) else item for item in items])


async def _with_key(tx: Transaction, sealing_key: bytes, item: IssuanceItem) -> IssuanceItem:
    key = await asyncio.to_thread(keys.generate, KeyAlgorithm(item.key_algorithm))
    pem = Secret(keys.to_pem(key).reveal().decode())
    sealed = hpke.seal(sealing_key, pem, item.certificate_id, item.job_id, context=hpke.GIVEN_KEY)
    details = {"job_id": item.job_id, "spki_sha256": keys.spki_sha256(key.public_key())}
    await audit.record(tx, Actor(kind="system"), "certificate.key_made", "certificate", item.certificate_id, details)
    return msgspec.structs.replace(item, sealed_key=sealed)
