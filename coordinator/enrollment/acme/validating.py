"""From a client's word to a validated challenge: looked at beside the requests, written down with its evidence.

The word is in the database before anything is looked at. A coordinator that dies meanwhile leaves a challenge that is
``processing``, which the loop of any other looks at again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import structlog

from connectors.validation.service import CAA, Asked, Busy, Evidence, Failed, Settings, Validator
from coordinator.access.service import SYSTEM
from coordinator.audit import service as audit
from coordinator.enrollment.acme import counting, failures, perspectives, store
from coordinator.enrollment.acme.calls import Call
from coordinator.enrollment.acme.perspectives import View
from coordinator.enrollment.acme.problems import Problem
from core.acme import URN
from core.crash import crash_point
from core.names import Name, NameKind

if TYPE_CHECKING:
    from coordinator.context import Context
    from coordinator.database.driver import Record as Row

log = structlog.get_logger()
_BATCH = 50
_OUR_FAULT = URN + "serverInternal"


class Pending(NamedTuple):
    """A challenge to look at, of an account's authorization."""

    authorization_id: str
    account_id: str
    asked: Asked


class Validations:
    """What this coordinator looks at just now."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.validator: Validator | None = None

    def of(self, ctx: Context) -> Validator:
        """Return the validator, made of the settings when it is first needed."""
        if self.validator is None:
            settings = ctx.settings.acme
            self.validator = Validator(
                Settings(
                    resolvers=settings.resolvers,
                    http_port=settings.http_port,
                    tls_port=settings.tls_port,
                    allowed_networks=settings.allowed_networks,
                    concurrency={**settings.concurrency, CAA: max(settings.concurrency.values())},
                    caa_identities=settings.caa_identities,
                    persist_issuers=settings.persist_issuers,
                ),
                ctx.clock.now,
            )
        return self.validator


def asked_of(call: Call, row: Row) -> Pending:
    """Return what has to be looked at for the challenge that a path names."""
    account = call.account
    assert account is not None  # noqa: S101 - the route asks for one
    challenge = next(each for each in row["challenges"] if each["type"] == call.path["type"])
    return _pending(row, challenge, str(account["thumbprint"]))


def _pending(row: Row, challenge: Mapping[str, Any], thumbprint: str) -> Pending:
    asked = Asked(
        type=challenge["type"],
        name=Name(NameKind(row["kind"]), row["value"]),
        wildcard=row["wildcard"],
        token=challenge.get("token", ""),
        thumbprint=thumbprint,
        account_url=challenge.get("account_url", ""),
    )
    return Pending(row["id"], row["account_id"], asked)


def begin(ctx: Context, pending: Pending) -> None:
    """Look at a challenge beside the requests, unless that is under way."""
    name = f"{pending.authorization_id} {pending.asked.type}"
    if any(task.get_name() == name for task in ctx.validations.tasks):
        return
    task = asyncio.create_task(_validate(ctx, pending), name=name)
    ctx.validations.tasks.add(task)
    task.add_done_callback(ctx.validations.tasks.discard)


async def _validate(ctx: Context, pending: Pending) -> None:
    try:
        outcome = await _outcome(ctx, pending)
        if outcome["status"] == "processing":
            log.warning("validation_put_off", authorization_id=pending.authorization_id, reason=outcome["put_off"])
    except Exception:
        log.exception("validation_failed", authorization_id=pending.authorization_id)  # the loop tries again
        return
    try:
        await _note(ctx, pending, outcome)
    except Exception:
        log.exception("validation_not_stored", authorization_id=pending.authorization_id)


async def _outcome(ctx: Context, pending: Pending) -> dict[str, Any]:
    """Look at a challenge, from here and then from elsewhere; return what becomes of it, ``processing`` if put off."""
    validator, asked = ctx.validations.of(ctx), pending.asked
    try:
        evidence = await validator.validate(asked)
        await validator.check_caa(
            asked.name, wildcard=asked.wildcard, account_url=asked.account_url, challenge=asked.type
        )
    except Busy as error:
        return {"status": "processing", "put_off": error.detail}
    except Failed as error:
        return _invalid(asked, error.type, error.detail, error.evidence)
    try:
        views = await perspectives.corroborate(ctx, pending.authorization_id, asked)
    except perspectives.TooFew as error:
        return {"status": "processing", "put_off": error.detail, "evidence": _kept(evidence, error.views)}
    except perspectives.NotCorroborated as error:
        return _invalid(asked, error.type, error.detail, evidence, error.views)
    counting.validation(asked.type, "valid")
    validated = ctx.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"status": "valid", "validated": validated, "evidence": _kept(evidence, views)}


def _invalid(asked: Asked, type_: str, detail: str, evidence: Evidence, views: Sequence[View] = ()) -> dict[str, Any]:
    counting.validation(asked.type, type_)
    return {"status": "invalid", "error": Problem(type_, detail).document(), "evidence": _kept(evidence, views)}


def _kept(evidence: Evidence, views: Sequence[View]) -> dict[str, Any]:
    """Return what is kept of a look from here, and of those from elsewhere where there were any."""
    seen: dict[str, Any] = msgspec.to_builtins(evidence)
    return {**seen, "perspectives": msgspec.to_builtins(views)} if views else seen


async def _note(ctx: Context, pending: Pending, outcome: Mapping[str, Any]) -> None:
    """Write down how it ended or why it was put off, unless somebody has meanwhile."""
    async with ctx.db.transaction() as tx:
        row = await store.authorization(tx, pending.authorization_id, pending.account_id, lock=True)
        challenge = next(
            (each for each in (row["challenges"] if row else ()) if each["type"] == pending.asked.type), None
        )
        if row is None or challenge is None or challenge["status"] != "processing" or row["status"] != "pending":
            return
        challenge.pop("put_off", None)
        challenge |= outcome
        await perspectives.end(ctx, tx, row["id"])
        if outcome["status"] == "processing":
            await store.set_authorization(tx, row["id"], row["status"], row["challenges"])
            crash_point("acme.challenge_put_off")
            return
        await store.set_authorization(tx, row["id"], outcome["status"], row["challenges"])
        if outcome.get("error", {}).get("type", _OUR_FAULT) != _OUR_FAULT:
            await failures.count(ctx, tx, row["account_id"], row["value"])
        details = {
            "type": pending.asked.type,
            "identifier": str(pending.asked.name),
            "outcome": outcome["status"],
            "problem": outcome.get("error", {}).get("detail", ""),
        }
        await audit.record(tx, SYSTEM, "acme_challenge.completed", "acme_authorization", row["id"], details)
        crash_point("acme.challenge_validated")


async def take_up(ctx: Context) -> int:
    """Look at challenges whose coordinator has died, those of the longest wait first; return how many."""
    async with ctx.db.connection() as conn:
        rows = await store.left_processing(conn, _BATCH)
    for row in rows:
        challenge = next(each for each in row["challenges"] if each["status"] == "processing")
        begin(ctx, _pending(row, challenge, row["thumbprint"]))
    return len(rows)


async def collect(ctx: Context) -> None:
    """Look at what was left, and forget what has run out."""
    await take_up(ctx)
    async with ctx.db.connection() as conn:
        counting.collected(await store.collect(conn, ctx.settings.acme.order_ttl))
