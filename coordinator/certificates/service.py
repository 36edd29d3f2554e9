"""Wanting a certificate, wanting it otherwise, anew or no longer, and saying how it stands.

Each of these locks the certificate before anything else. What a change means for holders, targets and jobs is settled
in the transaction of the change itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from coordinator.audit import service as audit
from coordinator.bindings import service as bindings
from coordinator.certificates import queries, store, wishes
from coordinator.certificates.status import Binding, Holder, Imported, Status, status
from coordinator.certificates.views import CertificateBody
from coordinator.database import driver
from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Scope, Window
from coordinator.jobs import service as jobs
from coordinator.policies import service as policies
from coordinator.renewal_policies import service as renewal_policies
from coordinator.targets import service as targets
from coordinator.web.scope import check_inside, visible
from coordinator.web.table import Actor
from core.alerts import AlertRules
from core.crash import crash_point
from core.errors import Conflict, InvalidInput
from core.ids import check_chosen, new_id

if TYPE_CHECKING:
    from coordinator.context import Context

_SOME = 5
_HOLDERS, _BINDINGS = msgspec.json.Decoder(list[Holder]), msgspec.json.Decoder(list[Binding])
_IMPORTED = msgspec.json.Decoder(Imported)
_RULES = msgspec.json.Decoder(AlertRules)


class Caller(NamedTuple):
    """Who asks, and under which request; both stand in the audit trail."""

    actor: Actor
    request_id: str


async def create(tx: Transaction, caller: Caller, body: CertificateBody, chosen: str | None) -> tuple[Row, list[str]]:
    """Take a certificate into the inventory and, when somebody shall hold it, start its issuance; return row and jobs.

    Raises ``InvalidInput`` for names and references that do not exist, ``Refused`` for what the profile or a rule
    forbids, ``Conflict`` for a chosen id that is taken, ``Forbidden`` for one that the caller would not see.
    """
    certificate_id = check_chosen("mc", chosen) if chosen is not None else new_id("mc")
    check_inside(caller.actor, body.team_id, body.environment)
    values = await wishes.row_of(tx, body)
    holders = await _holders(tx, body)
    try:
        row = await store.TABLE.insert(tx, certificate_id, values)
        await policies.check(tx, certificate_id)
        await bindings.bind(tx, certificate_id, body.target_ids, holders)
    except driver.UniqueViolation as error:
        raise wishes.taken(error, certificate_id) from error
    except driver.ForeignKeyViolation as error:
        raise wishes.unknown_reference(error, body) from error
    await _record(tx, caller, "created", certificate_id, _told(body, values))
    job_ids = await bindings.request_issuance(tx, caller.actor, certificate_id, "created") if holders else []
    crash_point("certificate.created")
    return (await shown(tx, caller.actor, certificate_id) if holders else row), job_ids


async def change(ctx: Context, tx: Transaction, caller: Caller, before: Row, body: CertificateBody) -> list[str]:
    """Want a locked certificate otherwise; return the jobs of the issuance that this started, if any.

    Raises what ``create`` does. An archived one is taken up again.
    """
    certificate_id = before["id"]
    check_inside(caller.actor, body.team_id, body.environment)
    values = await wishes.row_of(tx, body, before)
    holders = await _holders(tx, body)
    outdated = wishes.content_differs(before, values)
    wanted = bindings.Wanted(certificate_id, tuple(dict.fromkeys(body.target_ids)), tuple(holders))
    try:
        await store.TABLE.replace(tx, certificate_id, values)
        await policies.check(tx, certificate_id)
        moved = await bindings.rebind(tx, caller.actor, wanted, outdated_since=ctx.clock.now() if outdated else None)
    except driver.UniqueViolation as error:
        raise wishes.taken(error, certificate_id) from error
    except driver.ForeignKeyViolation as error:
        raise wishes.unknown_reference(error, body) from error
    changed = wishes.changes(before, values)
    if not outdated and ("renewal_policy_id" in changed or before["archived_at"]):
        await renewal_policies.certificate_changed(tx, certificate_id)
    told = {name: value for name, value in _told(body, values).items() if name in changed}
    await _record(tx, caller, "updated", certificate_id, audit.Described({**told, **moved.told}))
    crash_point("certificate.changed")
    return moved.job_ids


async def archive(ctx: Context, tx: Transaction, caller: Caller, before: Row, *, force: bool) -> None:
    """Want a locked certificate no longer: its jobs and bindings end, its holders do not renew.

    Raises ``Conflict`` that names the targets which serve it, unless ``force`` says that it shall end nevertheless.
    """
    certificate_id, served = before["id"], list[str]()
    for binding in await bindings.bindings_of(tx, [certificate_id]):
        if binding["served_version_id"] is not None:
            served.append(f"{binding['target_name']} ({binding['target_id']})")
    if served and not force:
        some = ", ".join(served[:_SOME]) + (", …" if len(served) > _SOME else "")
        detail = (
            f"{certificate_id} is served by {len(served)} targets: {some}; give them another one, or use force=true"
        )
        raise Conflict(detail)
    values = {column: before[column] for column in store.TABLE.columns}
    await store.TABLE.replace(tx, certificate_id, {**values, "archived_at": ctx.clock.now()})
    await bindings.release(tx, certificate_id)
    await policies.check(tx, certificate_id)  # nothing is wrong any more
    await _record(tx, caller, "archived", certificate_id, {"served_by": served, "force": force})
    crash_point("certificate.archived")


async def renew(ctx: Context, tx: Transaction, caller: Caller, row: Row) -> list[str]:
    """Start a renewal of a locked certificate; return the ids of the issuance jobs, those already in hand included.

    What only a client holds begins no job here: renewal information tells the client to replace it now.
    """
    certificate_id = row["id"]
    check_live(row)
    job_ids = await bindings.request_issuance(tx, caller.actor, certificate_id, "requested")
    told = [] if job_ids else await store.ask_for_replacement(tx, certificate_id, ctx.clock.now())
    if not job_ids and not told:
        detail = f"certificate {certificate_id} has no holder: bind it to a target or an agent first"
        raise Conflict(detail)
    details = {"job_ids": job_ids, **({"version_ids": told} if told else {})}
    await _record(tx, caller, "renewal_requested", certificate_id, details)
    crash_point("certificate.renewal_requested")
    return job_ids


async def deploy(tx: Transaction, caller: Caller, row: Row, target_id: str | None = None) -> list[str]:
    """Send the targets of a locked certificate, or one of them, again what they should serve; return the jobs.

    Raises ``Conflict`` when there is nothing to send, or nobody to send it to.
    """
    certificate_id = row["id"]
    check_live(row)
    job_ids = await bindings.send_again(tx, certificate_id, target_id)
    if not job_ids:
        which = "no target" if target_id is None else f"not the target {target_id}"
        why = "has {} that is switched on and for which a version was issued; see its deployments"
        raise Conflict(f"certificate {certificate_id} {why.format(which)}")
    await _record(tx, caller, "deployment_requested", certificate_id, {"job_ids": job_ids})
    crash_point("certificate.deployment_requested")
    return job_ids


async def check_owners(conn: Connection, actor: Actor, owner_id: str | None, team_id: str | None) -> None:
    """Raise unless certificates can be given to this owner and this team: ``InvalidInput`` or ``Forbidden``."""
    there = await store.owned(conn, owner_id, team_id)
    for field, value, known in (("owner_id", owner_id, there["owner"]), ("team_id", team_id, there["team"])):
        if not known:
            raise InvalidInput.of(field, f"there is no {value}")
    if team_id is not None:
        check_inside(msgspec.structs.replace(actor, scope=Scope(actor.scope.teams)), team_id, "")


async def reassign(tx: Transaction, caller: Caller, row: Row, owner_id: str | None, team_id: str | None) -> None:
    """Give a locked certificate another owner, another team or both; raise ``Conflict`` when it has these already.

    Raises ``Refused`` for what a rule forbids, ``Forbidden`` for a team that the caller would not see.
    """
    wanted = {name: value for name, value in (("owner_id", owner_id), ("team_id", team_id)) if value is not None}
    changed = {name: value for name, value in wanted.items() if row[name] != value}
    if not changed:
        told = " and ".join(f"{name} {value}" for name, value in wanted.items())
        raise Conflict(f"certificate {row['id']} has {told} already")
    values = {**{column: row[column] for column in store.TABLE.columns}, **changed}
    check_inside(caller.actor, values["team_id"], values["environment"])
    await store.TABLE.replace(tx, row["id"], values)
    await policies.check(tx, row["id"])
    await _record(tx, caller, "updated", row["id"], changed)


def matching(filters: Mapping[str, Any], scope: Scope) -> tuple[str, list[object]]:
    """Return the condition under which a row of ``certificates`` is on the list with these filters and this scope."""
    return store.LISTING.matching(filters, scope)


def check_live(row: Row) -> None:
    """Raise ``Conflict`` for an archived certificate."""
    if row["archived_at"] is not None:
        detail = f"certificate {row['id']} is archived; take it up again first: PATCH with archived false"
        raise Conflict(detail)


async def locked(tx: Transaction, actor: Actor, certificate_id: str) -> Row:
    """Return a certificate's row, locked; raise ``NotFound``."""
    return visible(actor, await store.TABLE.get(tx, certificate_id, lock=True), f"certificate {certificate_id}")


async def locked_rows(tx: Transaction, actor: Actor, certificate_ids: Sequence[str]) -> dict[str, Row]:
    """Lock several certificates in the order of their ids; return those that the caller may see, by id."""
    rows = await store.locked(tx, certificate_ids)
    return {row["id"]: row for row in rows if not actor.scope.misses(row["team_id"], row["environment"])}


async def found(conn: Connection, actor: Actor, certificate_id: str) -> Row:
    """Return a certificate's row; raise ``NotFound``."""
    return visible(actor, await store.TABLE.get(conn, certificate_id), f"certificate {certificate_id}")


async def shown(conn: Connection, actor: Actor, certificate_id: str) -> Row:
    """Return a certificate's row with its holders and bindings; raise ``NotFound``."""
    return visible(actor, await store.shown(conn, certificate_id), f"certificate {certificate_id}")


def status_of(row: Row, now: datetime) -> Status:
    """Return how a certificate stands whose row was read with its holders and bindings, if it has any."""
    held, bound, rules = row.get("holders") or "[]", row.get("bindings") or "[]", row.get("alert_rules")
    alerts, imported = _RULES.decode(rules) if rules else AlertRules((), {}, {}), row.get("imported")
    foreign = _IMPORTED.decode(imported) if imported else None
    return status(_HOLDERS.decode(held), _BINDINGS.decode(bound), alerts, now, foreign)


async def stands(conn: Connection, certificate_ids: Sequence[str], now: datetime) -> list[tuple[Row, Status]]:
    """Return some certificates and how each stands; who asks has seen to it that they may be seen."""
    return [(row, status_of(row, now)) for row in await store.shown_all(conn, certificate_ids)]


async def search(conn: Connection, scope: Scope, text: str, limit: int) -> tuple[list[Row], bool]:
    """Return the newest certificates within a scope that words of a text find, and whether there are more."""
    try:
        wanted = {"q": queries.words(text), "archived": False}
    except InvalidInput:  # nothing but punctuation, or too much of it: no name is like that
        return [], False
    where = Window(limit, 0, None, 1, store.LISTING.default_order)
    rows = await store.LISTING.first(conn, where, wanted, scope)
    return rows[:limit], len(rows) > limit


async def target_ids(conn: Connection, certificate_id: str) -> list[str]:
    """Return the targets that should serve a certificate."""
    return [row["target_id"] for row in await bindings.bindings_of(conn, [certificate_id])]


async def run_of(conn: Connection, job_id: str) -> str:
    """Return the run that a job belongs to."""
    return await jobs.run_of(conn, job_id)


async def _holders(conn: Connection, body: CertificateBody) -> list[str]:
    """Return the agents that shall hold a key: those of the targets, and the one that was named."""
    agent_of = await targets.agents_of(conn, body.target_ids) if body.target_ids else {}
    return sorted({*agent_of.values(), *([] if body.agent_id is None else [body.agent_id])})


def _told(body: CertificateBody, values: Mapping[str, Any]) -> audit.Described:
    """Return what is wanted for the audit trail, defaults filled in."""
    plain = {name: value for name, value in values.items() if name not in {"names", "tags"}}
    return audit.described(body, **plain, names=[str(name) for name in values["names"]])


async def _record(
    tx: Transaction, caller: Caller, what: str, certificate_id: str, details: Mapping[str, object]
) -> None:
    action = f"certificate.{what}"
    await audit.record(tx, caller.actor, action, "certificate", certificate_id, details, caller.request_id)
