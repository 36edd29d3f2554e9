"""One-time enrollment tokens: made, revoked, and offered by a host that wants to become an agent."""

from __future__ import annotations

import hmac
from datetime import timedelta
from typing import TYPE_CHECKING

from coordinator.access import service as access
from coordinator.agents import store
from coordinator.audit import service as audit
from coordinator.database.connection import Transaction
from coordinator.database.driver import Record as Row
from coordinator.web.table import Actor
from core.crash import crash_point
from core.errors import Conflict, NotFound, Unauthenticated
from core.ids import new_id
from core.secret import Secret

if TYPE_CHECKING:
    from coordinator.context import Context

PREFIX = "cte_"


async def create(
    tx: Transaction, actor: Actor, note: str, ttl: timedelta, request_id: str
) -> tuple[str, Secret[str], str]:
    """Make a one-time enrollment token; return id, value (shown this once) and end."""
    token_id, value = new_id("tok"), access.new_credential(PREFIX)
    ends = await store.insert_token(tx, token_id, access.digest(value.reveal()), note, str(actor), ttl)
    await audit.record(
        tx,
        actor,
        "enrollment_token.created",
        "enrollment_token",
        token_id,
        {"note": note, "expires_at": ends},
        request_id,
    )
    return token_id, value, ends.isoformat()


async def revoke(ctx: Context, actor: Actor, token_id: str, request_id: str) -> None:
    """Make an enrollment token useless; a repetition is harmless.

    Raises ``NotFound``, and ``Conflict`` for a token that has let somebody in: that agent has to be retired instead.
    """
    async with ctx.db.transaction() as tx:
        row = await store.token_by_id(tx, token_id)
        if row is None:
            detail = f"there is no enrollment token {token_id}"
            raise NotFound(detail)
        if row["used_by"]:
            detail = (
                f"{token_id} has let in {row['used_by']} and lets in nobody else; retire that agent if it should go"
            )
            raise Conflict(detail)
        if row["revoked_at"] is not None:
            return
        await store.revoke_token(tx, token_id)
        await audit.record(tx, actor, "enrollment_token.revoked", "enrollment_token", token_id, request_id=request_id)
        crash_point("enrollment_token.revoked")
    crash_point("enrollment_token.revocation_committed")


async def offered(ctx: Context, tx: Transaction, value: str) -> Row | None:
    """Return a one-time token's row, locked, or None for the static token; raise ``Unauthenticated`` for any other."""
    static = ctx.settings.bootstrap_token
    if static and hmac.compare_digest(static.reveal().encode(), value.encode()):
        return None
    row = await store.token(tx, access.digest(value))
    if row is None:
        raise _no_good("is not known or was used")
    return row


def check(token: Row | None, known_agent: str) -> None:
    """Raise ``Unauthenticated`` for a token that somebody else used, or nobody in time."""
    if token is None:
        return
    if token["used_by"] and token["used_by"] != known_agent:
        raise _no_good("is not known or was used")
    if token["revoked"] and not token["used_by"]:
        raise _no_good("was revoked")
    if token["expired"] and not token["used_by"]:
        raise _no_good("has expired")


def _no_good(why: str) -> Unauthenticated:
    return Unauthenticated(f"this enrollment token {why}; make a new one: certctl enrollment-tokens create")
