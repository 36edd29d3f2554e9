"""What it means for the things that are wanted when a target or an agent changes or goes.

Everything here happens in the transaction of the change itself, which has the certificates locked before the target or
agent, as whoever changes a certificate does: ``hold_certificate_of``, ``hold_certificates_of``. Jobs are locked before
bindings and holders, issuances before deployments, as everywhere. Somebody who locked a holder earlier may have queued
a job that the first look at the jobs could not see yet; so there is a second one when bindings and holders are gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from coordinator.bindings import store
from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row
from coordinator.jobs import service as jobs
from core.wire import Failure

Target = Row | Mapping[str, Any]
"""A target, of which ``id`` and ``agent_id`` are looked at."""

_OFF = "the target is switched off; switch it on to have it served"
_QUEUED = "deployment is queued"


class Released(NamedTuple):
    """What an agent that goes had to do with: all of it ends."""

    target_ids: list[str]
    certificate_ids: list[str]
    job_ids: list[str]
    without_holder: list[str]


async def hold_certificate_of(tx: Transaction, target_id: str) -> None:
    """Lock the certificate that a target should serve: the first thing that a change of the target does."""
    await store.lock_certificate_of_target(tx, target_id)


async def hold_certificates_of(tx: Transaction, agent_id: str) -> None:
    """Lock the certificates that an agent has to do with: the first thing that its retirement does."""
    await store.lock_certificates_of_agent(tx, agent_id)


async def release_agent(tx: Transaction, agent_id: str, failure: Failure) -> Released:
    """End the agent's jobs, bindings and holdings; certificates stay, some of them without anybody who has a key."""
    ended = await jobs.cancel_live(tx, failure, agent_id=agent_id)
    target_ids = await store.end_bindings_of(tx, agent_id)
    certificate_ids = await store.end_holders_of(tx, agent_id)
    await store.no_longer_asked(tx, certificate_ids, agent_id)
    ended += await jobs.cancel_live(tx, failure, agent_id=agent_id)
    without = await store.without_holder(tx, certificate_ids)
    return Released(target_ids, certificate_ids, [row["id"] for row in ended], without)


async def of_targets(conn: Connection, target_ids: Sequence[str]) -> dict[str, Row]:
    """Return the bindings of those of some targets that should serve a certificate: ``certificate_id``, ``drift``."""
    return {row["target_id"]: row for row in await store.of_targets(conn, target_ids)}


async def unbind(tx: Transaction, target: Target, failure: Failure) -> None:
    """Let a target serve nothing any more.

    An agent whose last target of a certificate goes does not hold that certificate any longer: nobody would need it.
    """
    binding = await store.binding_of(tx, target["id"], target["agent_id"])
    if binding is None:
        return
    await _end(tx, target, binding, failure)
    await store.end_binding(tx, target["id"])
    if not binding["beside"]:
        await store.end_holder(tx, binding["certificate_id"], target["agent_id"])
    await _end(tx, target, binding, failure)


async def move(tx: Transaction, before: Target, agent_id: str) -> None:
    """Follow a target to another agent, which makes a key of its own unless it has one; ``before`` is its old row."""
    binding = await store.binding_of(tx, before["id"], before["agent_id"])
    if binding is None:
        return
    certificate_id, failure = str(binding["certificate_id"]), Failure("moved", "its target went to another agent")
    await _end(tx, before, binding, failure)
    version_id = await store.holder_version(tx, certificate_id, agent_id)
    await store.set_desired(tx, before["id"], version_id)
    if not binding["beside"]:
        await store.end_holder(tx, certificate_id, before["agent_id"])
    await _end(tx, before, binding, failure)
    if version_id is None:
        await jobs.queue_issuance(tx, certificate_id, agent_id, "requested")
    await pursue(tx, {"id": before["id"], "agent_id": agent_id})


async def begin_anew(tx: Transaction, target: Target) -> None:
    """Deploy once more what a target should serve: its configuration is another one now."""
    binding = await store.binding_of(tx, target["id"], target["agent_id"])
    if binding is None:
        return
    where = {"certificate_id": str(binding["certificate_id"]), "target_id": str(target["id"])}
    await jobs.cancel_live(tx, Failure("changed", "its target's configuration was changed"), **where)
    await store.forget_served(tx, target["id"])
    await pursue(tx, target)


async def pursue(tx: Transaction, target: Target) -> None:
    """Queue a deployment of what a target should serve and does not, if it is switched on; say so."""
    target_id = str(target["id"])
    binding = await store.binding_of(tx, target_id, target["agent_id"])
    if binding is None:
        return
    if not binding["enabled"]:
        await store.set_reason(tx, target_id, _OFF)
        where = {"certificate_id": str(binding["certificate_id"]), "target_id": target_id, "state": "Pending"}
        await jobs.cancel_live(tx, Failure("switched off", _OFF), **where)
    elif binding["desired_version_id"] is not None and not binding["served"]:
        await store.set_reason(tx, target_id, _QUEUED)
        await jobs.queue_deployment(tx, binding, "requested", await jobs.new_run(tx, binding))


async def _end(tx: Transaction, target: Target, binding: Row, failure: Failure) -> None:
    """End the jobs of a binding; the agent's issuance goes on when other targets need it, but waits for this."""
    certificate_id = str(binding["certificate_id"])
    issuance = {"certificate_id": certificate_id, "agent_id": str(target["agent_id"]), "kind": "issuance"}
    if binding["beside"]:
        await jobs.hold_live(tx, **issuance)
    else:
        await jobs.cancel_live(tx, failure, **issuance)
    await jobs.cancel_live(tx, failure, certificate_id=certificate_id, target_id=str(target["id"]))
