"""How an agent becomes known, shows who it is, and is given work.

Enrollment stores public keys only, so repeating it after a lost answer is harmless. A signed nonce gives a bearer token
for an hour; only the token's digest is stored. The poll, see ``polling``, is the heartbeat.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from coordinator.access import service as access
from coordinator.agents import store, tokens
from coordinator.agents.polling import Asked, Poll
from coordinator.audit import service as audit
from coordinator.database import driver
from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row
from coordinator.limits import service as limits
from coordinator.renewal_policies import service as renewal_policies
from coordinator.web import etag
from coordinator.web.table import Actor, Call
from core.crash import crash_point
from core.errors import Conflict, Gone, InvalidInput, NotFound, Unauthenticated
from core.identity import check_public_key, nonce_message, verify
from core.ids import new_id
from core.wire import (
    Enrolled,
    Enrollment,
    Metadata,
    Nonce,
    Token,
    TokenRequest,
    Work,
)

if TYPE_CHECKING:
    from coordinator.context import Context

SESSION = timedelta(hours=1)
NONCE = timedelta(minutes=1)
NONCE_BYTES = 32
MOST_SKEW_MS = 120_000
_TEXT_LIMIT = 255


async def enroll(ctx: Context, message: Enrollment, request_id: str, address: str = "") -> Enrolled:
    """Register an agent's public keys under a token; what could be a guess of one is counted for ``address``.

    Raises ``Unauthenticated`` for a token that is unknown, used or too old, ``InvalidInput`` for malformed keys or a
    clock that is off, ``Conflict`` for a name in use, ``Gone`` for an agent that was retired.
    """
    identity_key = check_public_key(message.identity_key, field="identity_key")
    sealing_key = check_public_key(message.sealing_key, field="sealing_key")
    name = _text(message.name, "name")
    if not name:
        raise InvalidInput.of("name", "is empty; set CERTCTL_AGENT_NAME")
    async with limits.guess(ctx, "enrollment", address, message.token), ctx.db.transaction() as tx:
        # The token's row is locked before anything is looked up, so that two attempts come here one after the other.
        token = await tokens.offered(ctx, tx, message.token)
        known = await store.by_identity(tx, identity_key)
        tokens.check(token, known["id"] if known else "")
        if known:
            return _known(known)
        agent_id = new_id("ag")
        row = {"id": agent_id, "name": name, "identity_key": identity_key, "sealing_key": sealing_key}
        metadata = dict(zip(Metadata.__struct_fields__, _metadata(message.metadata), strict=True))
        skew_ms = await _checked_skew(tx, message.time_ms)
        try:
            async with tx.savepoint():
                await store.insert(tx, {**row, **metadata, "skew_ms": skew_ms})
        except driver.UniqueViolation as error:
            return await _came_second(tx, identity_key, name, error)
        await _enrolled(tx, Actor(kind="agent", id=agent_id), token, {"name": name, **metadata}, request_id)
    crash_point("enrollment.committed")
    return Enrolled(agent_id, name)


async def _enrolled(
    tx: Transaction, agent: Actor, token: Row | None, details: dict[str, object], request_id: str
) -> None:
    if token:
        await store.use_token(tx, token["id"], agent.id)
    details["token_id"] = token["id"] if token else "static"
    await audit.record(tx, agent, "agent.enrolled", "agent", agent.id, details, request_id)
    crash_point("enrollment.stored")


async def _came_second(tx: Transaction, identity_key: bytes, name: str, error: Exception) -> Enrolled:
    """Answer a repeat that overtook its first attempt; raise ``Conflict`` when another agent has the name."""
    known = await store.by_identity(tx, identity_key)
    if known:
        return _known(known)
    detail = f"an agent named {name!r} is enrolled already with another key; choose another CERTCTL_AGENT_NAME"
    raise Conflict(detail) from error


def _known(row: Row) -> Enrolled:
    if row["retired_at"] is not None:
        detail = f"agent {row['id']} was retired; remove its state folder to enroll it as a new one"
        raise Gone(detail)
    return Enrolled(row["id"], row["name"])


async def _checked_skew(tx: Transaction, time_ms: int) -> int:
    skew_ms = time_ms - int((await store.now(tx)).timestamp() * 1000)
    if abs(skew_ms) > MOST_SKEW_MS:
        way = "ahead of" if skew_ms > 0 else "behind"
        problem = f"shows a clock {abs(skew_ms) / 1000:.0f} s {way} the coordinator's"
        raise InvalidInput.of("time_ms", f"{problem}; set the host's clock (NTP) and enroll again")
    return skew_ms


def _text(value: str, field: str) -> str:
    if len(value) > _TEXT_LIMIT or any(ord(c) < 32 for c in value):  # noqa: PLR2004 - control characters
        raise InvalidInput.of(field, f"is longer than {_TEXT_LIMIT} characters or holds control characters")
    return value


def _metadata(metadata: Metadata) -> list[str]:
    return [_text(getattr(metadata, field), f"metadata.{field}") for field in Metadata.__struct_fields__]


async def new_nonce(ctx: Context, agent_id: str) -> Nonce:
    """Return a nonce to sign; raise ``NotFound`` for an unknown agent and ``Gone`` for a retired one."""
    nonce = os.urandom(NONCE_BYTES)
    async with ctx.db.transaction() as tx:
        await _identity(tx, agent_id)
        await store.insert_nonce(tx, access.digest(nonce.hex()), agent_id, NONCE)
    crash_point("session.nonce_committed")
    return Nonce(nonce)


async def _identity(conn: Connection, agent_id: str) -> bytes:
    row = await store.identity(conn, agent_id)
    if row is None:
        detail = f"there is no agent {agent_id}; enroll first"
        raise NotFound(detail)
    if row["retired_at"] is not None:
        detail = f"agent {agent_id} was retired"
        raise Gone(detail)
    return bytes(row["identity_key"])


async def identity_key(conn: Connection, agent_id: str) -> bytes:
    """Return the public key that checks an agent's signatures."""
    return await _identity(conn, agent_id)


async def rename(call: Call[Any, Any], agent_id: str, name: str) -> Row:
    """Give an agent another name and return it; raise ``Conflict`` when another one in service has it."""
    name = _text(name, "name")
    async with call.ctx.db.transaction() as tx:
        row = await store.get(tx, agent_id, lock=True)
        if row is None:
            detail = f"there is no agent {agent_id}"
            raise NotFound(detail)
        etag.check(call, row)
        try:
            async with tx.savepoint():
                renamed = await store.rename(tx, agent_id, name)
        except driver.UniqueViolation as error:
            detail = f"another agent is named {name!r}; choose another name"
            raise Conflict(detail) from error
        assert renamed is not None  # noqa: S101 - it is locked
        details = {"name": name, "before": row["name"]}
        await audit.record(tx, call.actor, "agent.updated", "agent", agent_id, details, call.request_id)
        crash_point("agent.renamed")
    crash_point("agent.renaming_committed")
    return renamed


class SealingKey(NamedTuple):
    """What secrets for an agent are sealed to."""

    agent_name: str
    key: bytes


async def check_in_service(tx: Transaction, agent_ids: Sequence[str], *, field: str = "agent_id") -> None:
    """Raise ``InvalidInput`` for a retired agent; none of these agents is retired before the transaction ends."""
    await sealing_keys(tx, agent_ids, field=field)


async def sealing_keys(tx: Transaction, agent_ids: Sequence[str], *, field: str = "agent_id") -> dict[str, SealingKey]:
    """Return what to seal to for those agents that exist; raise ``InvalidInput`` for a retired one.

    None of them is retired before the transaction ends.
    """
    await store.hold_off_retirement(tx, agent_ids)
    rows = await store.sealing_keys(tx, agent_ids)
    for row in rows:
        if row["retired_at"] is not None:
            raise InvalidInput.of(field, f"{row['id']} ({row['name']}) was retired; choose another agent")
    return {row["id"]: SealingKey(row["name"], row["sealing_key"]) for row in rows}


async def new_session(ctx: Context, agent_id: str, request: TokenRequest) -> Token:
    """Give a bearer token for a signed nonce; a nonce works once."""
    async with ctx.db.transaction() as tx:
        public_key = await _identity(tx, agent_id)
        fresh = await store.take_nonce(tx, access.digest(request.nonce.hex()), agent_id)
    crash_point("session.nonce_taken")
    # The nonce is used up even when the signature is wrong: nobody gets a second try on it.
    verify(public_key, request.signature, nonce_message(agent_id, request.nonce))
    if not fresh:
        detail = "this nonce is not known, was used or is older than a minute; ask for a new one"
        raise Unauthenticated(detail)
    value = access.new_credential(access.AGENT_PREFIX)
    async with ctx.db.transaction() as tx:
        await store.insert_session(tx, access.digest(value.reveal()), agent_id, SESSION)
        if await store.set_metadata(tx, agent_id, _metadata(request.metadata)):
            await renewal_policies.agent_changed(tx, agent_id)
        tx.wake(store.HEALTH)
    ctx.budgets.remember(access.digest(value.reveal()))
    crash_point("session.committed")
    return Token(value.reveal(), int(SESSION.total_seconds()))


async def poll(ctx: Context, asked: Asked, time_ms: int | None) -> Work | Poll:
    """Return this agent's due work; the open poll, which answers later, when there is none and it may wait."""
    ctx.polls.saw(asked.agent_id, time_ms)
    opened = Poll(ctx, asked)
    work: Work | None = None
    try:
        work = await opened.begin()
    except BaseException:
        opened.close()
        raise
    if work is None:
        return opened
    opened.close()
    return work


async def purge(ctx: Context) -> None:
    """Remove nonces and sessions that have expired."""
    async with ctx.db.transaction() as tx:
        await store.purge(tx)
