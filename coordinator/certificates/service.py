"""Wanting a certificate, wanting it anew, and saying how it stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.audit import service as audit
from coordinator.bindings import service as bindings
from coordinator.certificates import store
from coordinator.certificates.status import Status, status
from coordinator.database import driver
from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row
from coordinator.jobs import service as jobs
from coordinator.policies import service as policies
from coordinator.profiles import service as profiles
from coordinator.targets import service as targets
from coordinator.web.table import Actor
from core.crash import crash_point
from core.errors import Conflict, FieldError, InvalidInput, NotFound
from core.ids import check_chosen, new_id
from core.names import Name, NameKind, parse_name

if TYPE_CHECKING:
    from coordinator.context import Context

MOST_NAMES = 100


class Wish(msgspec.Struct, frozen=True):
    """What the caller wants; empty fields take the profile's or the ready-made value."""

    common_name: str
    sans: tuple[str, ...]
    id: str | None
    name: str
    profile_id: str
    issuer_id: str | None
    renewal_policy_id: str
    owner_id: str
    team_id: str
    environment: str
    tags: dict[str, str]
    key_algorithm: str | None
    lifetime_s: int | None
    target_ids: tuple[str, ...]
    agent_id: str | None


async def create(tx: Transaction, actor: Actor, wish: Wish, request_id: str) -> tuple[str, list[str]]:
    """Take a certificate into the inventory and, when somebody shall hold it, start its issuance; return id and jobs.

    Raises ``InvalidInput`` for names and references that do not exist, ``Refused`` for what the profile or a rule
    forbids, ``Conflict`` for a chosen id that is taken.
    """
    certificate_id = check_chosen("mc", wish.id) if wish.id is not None else new_id("mc")
    names = wanted_names(wish.common_name, wish.sans)
    row = await _row(tx, certificate_id, wish, names)
    agent_of = await targets.agents_of(tx, wish.target_ids)
    holders = sorted({*agent_of.values(), *([] if wish.agent_id is None else [wish.agent_id])})
    try:
        await store.insert(tx, row)
        await policies.check(tx, certificate_id)
        await bindings.bind(tx, certificate_id, wish.target_ids, holders)
    except driver.UniqueViolation as error:
        raise _taken(error, certificate_id) from error
    except driver.ForeignKeyViolation as error:
        raise _unknown_reference(error, wish) from error
    told = {field: value for field, value in row.items() if field not in {"names", "tags"}}
    details = audit.described(wish, **told, names=[str(name) for name in names])
    await audit.record(tx, actor, "certificate.created", "certificate", certificate_id, details, request_id)
    job_ids = await bindings.request_issuance(tx, certificate_id, "created")
    crash_point("certificate.created")
    return certificate_id, job_ids


def wanted_names(common_name: str, sans: Sequence[str]) -> tuple[Name, ...]:
    """Return the certificate's names in canonical form without repetitions, the common name first."""
    if len(sans) > MOST_NAMES:
        raise InvalidInput.of("sans", f"holds {len(sans)} names; a certificate has at most {MOST_NAMES}")
    first = parse_name(common_name, field="common_name")
    if first.kind is NameKind.URI:
        raise InvalidInput.of("common_name", "is a URI; put it into sans and give a host name, address or e-mail here")
    others = (parse_name(text, field=f"sans[{place}]") for place, text in enumerate(sans))
    return tuple(dict.fromkeys((first, *others)))


async def _row(tx: Transaction, certificate_id: str, wish: Wish, names: tuple[Name, ...]) -> dict[str, Any]:
    profile = await profiles.get(tx, wish.profile_id)
    if profile is None:
        raise InvalidInput.of("profile_id", f"there is no profile {wish.profile_id}")
    key_algorithm = wish.key_algorithm or profile.key_algorithms[0]
    lifetime_s = wish.lifetime_s or profile.default_lifetime_s
    issuer_id = profile.default_issuer_id if wish.issuer_id is None else wish.issuer_id
    profile.check(names, key_algorithm, lifetime_s, issuer_id)
    return {
        "id": certificate_id,
        "name": wish.name or names[0].value,
        "common_name": names[0].value,
        "names": names,
        "profile_id": profile.id,
        "issuer_id": issuer_id,
        "renewal_policy_id": wish.renewal_policy_id,
        "owner_id": wish.owner_id,
        "team_id": wish.team_id,
        "environment": wish.environment,
        "tags": wish.tags,
        "key_algorithm": key_algorithm,
        "lifetime_s": lifetime_s,
    }


def _taken(error: Exception, certificate_id: str) -> Conflict:
    if getattr(error, "constraint_name", "") == "bindings_target":
        problem = "one of these targets serves another certificate already; a target takes one, so make another target"
        return Conflict(f"target_ids: {problem}", errors=(FieldError("target_ids", problem),))
    return Conflict(f"a certificate with the id {certificate_id} is there already")


def _unknown_reference(error: Exception, wish: Wish) -> InvalidInput:
    """Say which of the named things does not exist; the database names the constraint, we name the field."""
    constraint = str(getattr(error, "constraint_name", ""))
    fields = ("issuer_id", "renewal_policy_id", "owner_id", "team_id", "agent_id")
    field = next((name for name in fields if name in constraint), "id")
    return InvalidInput(
        f"{field}: there is no {getattr(wish, field)}",
        errors=(FieldError(field, f"there is no {getattr(wish, field)}"),),
    )


async def renew(tx: Transaction, actor: Actor, certificate_id: str, request_id: str) -> list[str]:
    """Start a renewal now; return the ids of the issuance jobs, those already in hand included."""
    await locked(tx, certificate_id)
    job_ids = await bindings.request_issuance(tx, certificate_id, "requested")
    if not job_ids:
        detail = f"certificate {certificate_id} has no holder: bind it to a target or an agent first"
        raise Conflict(detail)
    details = {"job_ids": job_ids}
    await audit.record(tx, actor, "certificate.renewal_requested", "certificate", certificate_id, details, request_id)
    crash_point("certificate.renewal_requested")
    return job_ids


async def locked(tx: Transaction, certificate_id: str) -> Row:
    """Return a certificate's row, locked; raise ``NotFound``."""
    row = await store.get(tx, certificate_id, lock=True)
    if row is None:
        detail = f"there is no certificate {certificate_id}"
        raise NotFound(detail)
    return row


async def statuses(ctx: Context, conn: Connection, certificate_ids: Sequence[str]) -> dict[str, Status]:
    """Return how some certificates stand, in two queries for any number of them."""
    holders: dict[str, list[Row]] = {certificate_id: [] for certificate_id in certificate_ids}
    bound: dict[str, list[Row]] = {certificate_id: [] for certificate_id in certificate_ids}
    for row in await bindings.holders_of(conn, certificate_ids):
        holders[row["certificate_id"]].append(row)
    for row in await bindings.bindings_of(conn, certificate_ids):
        bound[row["certificate_id"]].append(row)
    now = ctx.clock.now()
    return {key: status(holders[key], bound[key], now) for key in certificate_ids}


async def run_of(conn: Connection, job_id: str) -> str:
    """Return the run that a job belongs to."""
    return await jobs.run_of(conn, job_id)
