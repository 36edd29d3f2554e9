"""Accounts at ACME authorities: a key of our own is stored, sealed, before an authority hears of it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from connectors.issuers.acme import accounts
from connectors.issuers.acme.accounts import Account, Registration
from connectors.issuers.acme.client import Session, session
from connectors.issuers.acme.config import ACMEConfig
from connectors.issuers.acme.jose import AccountKey
from connectors.issuers.acme.zerossl import ExternalAccount
from coordinator.access.service import SYSTEM
from coordinator.audit import service as audit
from coordinator.database.driver import Record as Row
from coordinator.database.sealed import SealedColumn
from coordinator.issuers import secrets
from coordinator.ordering import store
from coordinator.ordering.queue import ORDERS_TOPIC
from coordinator.web.table import Call, NoBody, NoQuery
from core.crash import crash_point
from core.errors import CertctlError, Conflict
from core.ids import new_id

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger()
_CURRENT, _NEXT = "current", "next"


def _place(account_id: str) -> str:
    return f"issuer_accounts/{account_id}"


SEALED = SealedColumn("issuer_accounts", ("id",), "sealed_key", lambda row: _place(row["id"]))


@dataclass(frozen=True)
class Authority:
    """An authority that may be asked: its issuer, how that is configured, and our account there."""

    issuer_id: str
    config: ACMEConfig
    account: Account


@dataclass
class Authorities:
    """Connections that are open, by issuer: to which revision and account they belong, and how they are closed."""

    opened: dict[str, tuple[tuple[int, str], Authority, AsyncExitStack]] = field(default_factory=dict)
    locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    async def close(self, issuer_id: str) -> None:
        """Close the connections to an authority, if there are some."""
        if issuer_id in self.opened:
            await self.opened.pop(issuer_id)[2].aclose()

    async def close_all(self) -> None:
        """Close all connections."""
        for issuer_id in list(self.opened):
            await self.close(issuer_id)


async def authority(ctx: Context, issuer_id: str) -> Authority:
    """Return an issuer's authority with our account, which is registered at the first time.

    Raises ``Refused`` for an issuer that is switched off, and what the authority answers.
    """
    authorities = ctx.ordering.authorities
    async with authorities.locks.setdefault(issuer_id, asyncio.Lock()):
        async with ctx.db.connection() as conn:
            config, revision = await secrets.acme(ctx, conn, issuer_id)
        row = await _key(ctx, issuer_id, config, _CURRENT)
        known = authorities.opened.get(issuer_id)
        if known is not None and known[0] == (revision, row["id"]) and row["url"]:
            return known[1]
        await authorities.close(issuer_id)
        async with AsyncExitStack() as stack:
            opened = await stack.enter_async_context(session(config.directory_url, config.connection, clock=ctx.clock))
            found = Authority(issuer_id, config, await _account(ctx, opened, row, config))
            authorities.opened[issuer_id] = (revision, row["id"]), found, stack.pop_all()
        return found


async def _key(ctx: Context, issuer_id: str, config: ACMEConfig, state: str) -> Row:
    """Return the account's row, made with a new key where there is none."""
    async with ctx.db.transaction() as tx:
        row = await store.account(tx, issuer_id, config.directory_url, state)
        if row is None:
            account_id, key = new_id("cac"), AccountKey.new()
            sealed = ctx.sealer.seal(key.pkcs8(), _place(account_id))
            if await store.insert_account(tx, account_id, issuer_id, config.directory_url, state, sealed):
                details = {"account_id": account_id, "directory_url": config.directory_url, "state": state}
                await audit.record(tx, SYSTEM, "issuer_account.key_made", "issuer", issuer_id, details)
            crash_point("ca_account.key_made")
            row = await store.account(tx, issuer_id, config.directory_url, state)
    assert row is not None  # noqa: S101 - it was just made, by us or by another
    return row


def _opened(ctx: Context, row: Row) -> AccountKey:
    return AccountKey.load(ctx.sealer.open(row["sealed_key"], _place(row["id"])))


async def _account(ctx: Context, opened: Session, row: Row, config: ACMEConfig) -> Account:
    key = _opened(ctx, row)
    if row["url"] and row["contact"] == config.email:
        return Account(opened, key, row["url"])
    if row["url"]:
        account = Account(opened, key, row["url"])
        await account.set_email(config.email)
    else:
        account = await accounts.find_or_register(opened, key, registration(config))
    async with ctx.db.transaction() as tx:
        await store.set_account(tx, row["id"], account.url, config.email)
        details = {"account_id": row["id"], "url": account.url}
        action = "issuer_account.updated" if row["url"] else "issuer_account.registered"
        await audit.record(tx, SYSTEM, action, "issuer", row["issuer_id"], details)
        crash_point("ca_account.registered")
    return account


def registration(config: ACMEConfig) -> Registration:
    """Return what an account is registered with."""
    outside = None if config.eab_hmac is None else ExternalAccount(config.eab_kid, config.eab_hmac)
    return Registration(
        email=config.email,
        terms_agreed=config.terms_agreed,
        external_account=outside,
        zerossl_url=config.zerossl_url,
        zerossl_connection=config.connection,
    )


async def forget_address(ctx: Context, issuer_id: str) -> None:
    """Have an account looked for, or registered, again: its authority says that it does not know it."""
    async with ctx.db.transaction() as tx:
        for row in await store.accounts(tx, issuer_id):
            if row["state"] == _CURRENT:
                await store.set_account(tx, row["id"], "", "")
    await ctx.ordering.authorities.close(issuer_id)


async def want_roll_over(call: Call[NoBody, NoQuery], issuer_id: str) -> None:
    """Make a new key for an issuer's account, which the authority is told of soon; raise ``Conflict`` for a second."""
    config, _ = await secrets.acme(call.ctx, call.tx, issuer_id)
    account_id, key = new_id("cac"), AccountKey.new()
    sealed = call.ctx.sealer.seal(key.pkcs8(), _place(account_id))
    if not await store.insert_account(call.tx, account_id, issuer_id, config.directory_url, _NEXT, sealed):
        detail = f"the account of {issuer_id} is being given a new key already"
        raise Conflict(detail)
    details = {"account_id": account_id, "directory_url": config.directory_url, "state": _NEXT}
    await audit.record(call.tx, call.actor, "issuer_account.key_made", "issuer", issuer_id, details, call.request_id)
    call.tx.wake(ORDERS_TOPIC)


async def roll_over(ctx: Context) -> None:
    """Tell authorities of the new keys that accounts are to have (RFC 8555 section 7.3.5).

    One that cannot be told now is told at the next look, and keeps nobody else from anything.
    """
    async with ctx.db.connection() as conn:
        waiting = await store.issuers_to_roll(conn)
    for issuer_id in waiting:
        try:
            await _roll_over(ctx, issuer_id)
        except CertctlError as error:
            log.warning("account_key_not_changed", issuer_id=issuer_id, detail=error.detail)


async def _roll_over(ctx: Context, issuer_id: str) -> None:
    found = await authority(ctx, issuer_id)
    former, row = await _pair(ctx, issuer_id, found.config)
    if row is None or former is None:
        return
    await found.account.roll_over(_opened(ctx, row))
    async with ctx.db.transaction() as tx:
        await store.rolled_over(tx, former["id"], row["id"])
        details = {"account_id": row["id"], "former_account_id": former["id"], "url": found.account.url}
        await audit.record(tx, SYSTEM, "issuer_account.rolled_over", "issuer", issuer_id, details)
        crash_point("ca_account.rolled_over")
    await ctx.ordering.authorities.close(issuer_id)


async def _pair(ctx: Context, issuer_id: str, config: ACMEConfig) -> tuple[Row | None, Row | None]:
    async with ctx.db.connection() as conn:
        former = await store.account(conn, issuer_id, config.directory_url, _CURRENT)
        return former, await store.account(conn, issuer_id, config.directory_url, _NEXT)
