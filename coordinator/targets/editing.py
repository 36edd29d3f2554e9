"""A target as it is made, changed and removed, with all that follows for the certificate it should serve.

Secrets of a configuration are sealed to the agent's own key in the moment in which they are saved (``core.hpke``):
from then on the coordinator can hand them on, and cannot read them. So it cannot seal them for another agent either.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec

from connectors.targets import registry
from coordinator.agents import service as agents
from coordinator.agents.service import SealingKey
from coordinator.audit import service as audit
from coordinator.bindings import changes
from coordinator.database import driver
from coordinator.database.connection import Transaction
from coordinator.database.driver import Record as Row
from coordinator.targets import store
from coordinator.web import etag
from coordinator.web.table import Call, Strict
from core import hpke, marking
from core.crash import crash_point
from core.errors import Conflict, FieldError, InvalidInput, NotFound, Refused
from core.secret import Secret
from core.wire import Failure

Secrets = Mapping[str, Secret[str] | None]


class TargetBody(Strict):
    """A target; ``config`` is what its type asks for, see ``/api/v1/target-types``.

    A secret is given as text and shown as ``{"set": true}``; given like that, the stored one stays. A target that is
    switched off (``enabled``) keeps its place and is left alone.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    type: str
    agent_id: str
    config: dict[str, Any]
    enabled: bool = True


class _Wanted(NamedTuple):
    """What a body asks for, checked: a row's values, and the configuration as it may be told."""

    values: dict[str, Any]
    told: audit.Described


async def create(call: Call[Any, Any], target_id: str, body: TargetBody) -> None:
    """Add a target; raise ``InvalidInput``, ``Conflict`` for a name or an id that is taken."""
    wanted = await _wanted(call.tx, target_id, body, None)
    await _store(call.tx, target_id, body, wanted, None)
    await audit.record(call.tx, call.actor, "target.created", "target", target_id, wanted.told, call.request_id)


async def change(call: Call[Any, Any], target_id: str, body_of: Callable[[Row], TargetBody]) -> None:
    """Replace a target by what ``body_of`` makes of its row.

    Raises ``InvalidInput``, ``Conflict`` for a name that is taken, ``Refused`` with the names of the secrets that have
    to be entered again because another agent shall read them.
    """
    async with call.ctx.db.transaction() as tx:
        await changes.hold_certificate_of(tx, target_id)
        before = await _locked(tx, target_id)
        etag.check(call, before)
        body = body_of(before)
        wanted = await _wanted(tx, target_id, body, before)
        await _store(tx, target_id, body, wanted, before)
        await _follow(tx, before, wanted.values)
        await audit.record(tx, call.actor, "target.updated", "target", target_id, wanted.told, call.request_id)
        crash_point("target.changed")
    crash_point("target.change_committed")


async def remove(call: Call[Any, Any], target_id: str, *, force: bool, reason: str) -> None:
    """Archive a target; raise ``Conflict`` while it should serve a certificate, unless forced."""
    async with call.ctx.db.transaction() as tx:
        await changes.hold_certificate_of(tx, target_id)
        row = await _found(tx, target_id)
        if row["archived_at"] is not None:
            return
        etag.check(call, row)
        binding = (await changes.of_targets(tx, [target_id])).get(target_id)
        certificate_id = binding["certificate_id"] if binding else None
        if certificate_id and not force:
            detail = f"{target_id} should serve {certificate_id}; with ?force=true that ends with it"
            raise Conflict(detail, members={"certificate_id": certificate_id})
        why = f"target {row['name']} ({target_id}) was removed" + (f": {reason}" if reason else "")
        await changes.unbind(tx, row, Failure("removed", why, transient=False))
        await store.archive(tx, target_id, reason)
        details = {"name": row["name"], "certificate_id": certificate_id, "reason": reason}
        await audit.record(tx, call.actor, "target.removed", "target", target_id, details, call.request_id)
        crash_point("target.removed")
    crash_point("target.removal_committed")


async def _found(tx: Transaction, target_id: str) -> Row:
    row = await store.get(tx, target_id, lock=True)
    if row is None:
        detail = f"there is no target {target_id}"
        raise NotFound(detail)
    return row


async def _locked(tx: Transaction, target_id: str) -> Row:
    row = await _found(tx, target_id)
    if row["archived_at"] is not None:
        detail = f"target {target_id} was removed and stays as it was; make a new one"
        raise Conflict(detail)
    return row


async def _wanted(tx: Transaction, target_id: str, body: TargetBody, before: Row | None) -> _Wanted:
    kind = body.type.lower()
    config_type = registry.find(kind).config_type
    plain, secrets = marking.taken_apart(config_type, body.config)
    marking.checked(config_type, plain, secrets)
    key = (await agents.sealing_keys(tx, [body.agent_id])).get(body.agent_id)
    if key is None:
        raise InvalidInput.of("agent_id", f"there is no agent {body.agent_id}")
    if before is not None and before["type"] != kind:
        before = None  # what is stored belongs to another kind of configuration
    _check_kept(secrets, before, key)
    sealed = {path: _sealed(key, value, target_id, path, before) for path, value in secrets.items()}
    values = {
        "name": body.name,
        "type": kind,
        "agent_id": body.agent_id,
        "config": plain,
        "enabled": body.enabled,
        "sealed": sealed,
        "sealed_to": key.key if sealed else b"",
    }
    told = {name: values[name] for name in ("name", "type", "agent_id", "enabled")}
    return _Wanted(values, audit.Described({**told, "config": marking.shown(plain, sealed)}))


def _check_kept(secrets: Secrets, before: Row | None, key: SealingKey) -> None:
    """Raise unless the secrets that shall stay are stored, and for this agent."""
    kept = [path for path, value in secrets.items() if value is None]
    for path in kept:
        if before is None or path not in before["sealed"]:
            raise InvalidInput.of(f"config.{path}", "is not stored here; enter it")
    if before is not None and kept and before["sealed_to"] != key.key:
        problem = f"was sealed to another agent's key, which {key.agent_name} does not have; enter it again"
        wrong = tuple(FieldError(f"config.{path}", problem) for path in kept)
        raise Refused("; ".join(f"{error.field} {error.problem}" for error in wrong), errors=wrong)


def _sealed(key: SealingKey, value: Secret[str] | None, target_id: str, path: str, before: Row | None) -> str:
    if value is None:
        assert before is not None  # noqa: S101 - checked before
        return str(before["sealed"][path])
    return base64.b64encode(hpke.seal(key.key, value, target_id, path)).decode()


async def _store(tx: Transaction, target_id: str, body: TargetBody, wanted: _Wanted, before: Row | None) -> None:
    write = store.TABLE.insert if before is None else store.TABLE.replace
    try:
        async with tx.savepoint():
            await write(tx, target_id, wanted.values)
    except driver.UniqueViolation as error:
        taken = f"the id {target_id}" if "pkey" in str(getattr(error, "constraint_name", "")) else f"name {body.name!r}"
        detail = f"a target of this agent has {taken} already; choose another"
        raise Conflict(detail) from error


async def _follow(tx: Transaction, before: Row, now: Mapping[str, Any]) -> None:
    """Let the certificate's place follow the change."""
    target = {"id": before["id"], "agent_id": now["agent_id"]}
    if before["agent_id"] != now["agent_id"]:
        await changes.move(tx, before, now["agent_id"])
    elif any(before[name] != now[name] for name in ("type", "config", "sealed")):
        await changes.begin_anew(tx, target)
    elif before["enabled"] != now["enabled"]:
        await changes.pursue(tx, target)
