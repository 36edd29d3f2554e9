"""Secrets of an issuer's configuration: sealed as they come in, opened where its authority is spoken to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from connectors.issuers import registry
from connectors.issuers.acme.config import ACMEConfig
from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row
from coordinator.database.sealed import SealedColumn
from coordinator.issuers import store
from core import marking
from core.errors import InvalidInput, NotFound, Refused
from core.secret import Secret

if TYPE_CHECKING:
    from coordinator.context import Context

Given = Mapping[str, Secret[str] | None]
"""Secrets by path; None for one that stays as it is stored."""


def _place(issuer_id: str) -> str:
    return f"issuers/{issuer_id}/secrets"


SEALED = SealedColumn("issuers", ("id",), "sealed_secrets", lambda row: _place(row["id"]))


async def keep(ctx: Context, tx: Transaction, issuer_id: str, given: Given) -> None:
    """Seal what was given with what stays; the row is locked. Raises ``InvalidInput`` for what is not stored."""
    stored = await _stored(ctx, tx, issuer_id) if None in given.values() else {}
    for path in (path for path, value in given.items() if value is None and path not in stored):
        raise InvalidInput.of(f"config.{path}", "is not stored here; enter it")
    values = {path: stored[path] if value is None else value.reveal() for path, value in given.items()}
    sealed = ctx.sealer.seal(Secret(msgspec.json.encode(values)), _place(issuer_id)) if values else b""
    await store.set_secrets(tx, issuer_id, sealed)


async def _stored(ctx: Context, conn: Connection, issuer_id: str) -> dict[str, str]:
    envelope = await store.sealed_secrets(conn, issuer_id)
    return msgspec.json.decode(ctx.sealer.open(envelope, _place(issuer_id)).reveal()) if envelope else {}


async def opened(ctx: Context, conn: Connection, row: Row) -> ACMEConfig:
    """Return the configuration of an ACME issuer with its secrets."""
    values: dict[str, Any] = dict(await _stored(ctx, conn, row["id"]))
    config = marking.decode(marking.put_together(row["config"], values), registry.config_type(row["type"]))
    assert isinstance(config, ACMEConfig)  # noqa: S101 - the caller asks for one of them
    return config


async def acme(ctx: Context, conn: Connection, issuer_id: str) -> tuple[ACMEConfig, int]:
    """Return an ACME issuer's configuration and its revision; raise ``Refused`` when it is not to be asked."""
    row = await store.get(conn, issuer_id)
    if row is None or row["type"] != "acme":
        detail = f"there is no issuer {issuer_id} of type acme"
        raise NotFound(detail)
    if not row["enabled"]:
        detail = f"issuer {issuer_id} is switched off; switch it on or choose another issuer for the certificate"
        raise Refused(detail)
    return await opened(ctx, conn, row), int(row["revision"])
