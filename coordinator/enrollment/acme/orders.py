"""Orders (RFC 8555 sections 7.1.3 and 7.4): taken, shown, finalized.

How an order stands is not stored but follows from its authorizations, and once it is finalized, from its job: so no
crash leaves an order that says something else than what has happened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

import msgspec

from coordinator.audit import service as audit
from coordinator.certificates import enrolling
from coordinator.certificates.enrolling import Enrolled
from coordinator.database import driver
from coordinator.database.connection import Transaction
from coordinator.database.driver import Columns
from coordinator.database.driver import Record as Row
from coordinator.enrollment.acme import authorizations, names, store
from coordinator.enrollment.acme.calls import Call, Reply, of_account
from coordinator.enrollment.acme.names import Identifier, Wanted
from coordinator.enrollment.acme.problems import Problem, of
from coordinator.issuance import service as issuance
from coordinator.limits import service as limits
from core import acme
from core.crash import crash_point
from core.csr import CSRFacts, read_csr
from core.errors import Conflict, InvalidInput, Refused, Transient
from core.ids import new_id
from core.names import Name
from core.renewal import backdating
from core.states import JobState

_HOUR = timedelta(hours=1)
_EARLIEST = timedelta(hours=1)
_SHORTEST = timedelta(minutes=1)
POLL_S = 2


class NewOrder(msgspec.Struct, rename="camel"):
    """The payload of newOrder; ``profile`` is that of the profiles draft, ``replaces`` RFC 9773's."""

    identifiers: tuple[Identifier, ...]
    not_before: datetime | None = None
    not_after: datetime | None = None
    profile: str | None = None
    replaces: str | None = None


class _Finalize(msgspec.Struct):
    csr: str


async def create(call: Call, tx: Transaction) -> Reply:
    """Take an order (section 7.4)."""
    body, settings = call.read(NewOrder), call.ctx.settings.acme
    wanted = names.read(body.identifiers, call)
    if body.profile is not None and body.profile != call.profile.id:
        detail = f"there is no profile {body.profile[:64]!r} in this directory; it has {call.profile.id!r}"
        raise Problem("invalidProfile", detail)
    _check_profile(call, wanted, _lifetime_s(call, body))
    await limits.take(tx, "acme orders", call.account_id, settings.orders_per_hour, _HOUR)
    if body.replaces is None:  # what is replaced can be so once
        subject = f"{call.account_id} {_digest([one.name for one in wanted])}"
        await limits.take(tx, "acme orders of the same names", subject, settings.same_names_per_hour, _HOUR)
    if settings.concurrent_orders and await store.open_orders(tx, call.account_id) >= settings.concurrent_orders:
        detail = f"this account has {settings.concurrent_orders} open orders; finish or forget one first"
        raise Problem("rateLimited", detail, headers={"Retry-After": "60"})
    await _check_replaces(call, tx, body.replaces, wanted)
    order = {
        "id": new_id("aco"),
        "account_id": call.account_id,
        "profile_id": call.profile.id,
        "identifiers": [names.identifier_of(one) for one in wanted],
        "not_before": body.not_before,
        "not_after": body.not_after,
        "replaces": body.replaces,
    }
    row = await _insert(call, tx, order, wanted)
    return Reply(shown(call, row), HTTPStatus.CREATED, {"Location": f"{call.base}/order/{order['id']}"})


async def _insert(call: Call, tx: Transaction, order: dict[str, Any], wanted: Sequence[Wanted]) -> Row:
    rows, ttl = [authorizations.row_of(call, one) for one in wanted], call.ctx.settings.acme.order_ttl
    try:
        row = await store.insert_order(tx, order, ttl, rows, authorizations.durations(call))
    except driver.UniqueViolation as error:
        raise _replaced_already(str(order["replaces"])) from error
    await authorizations.check_new(call, tx, row["new"])
    details = {name: row[name] for name in ("profile_id", "replaces", "authorization_ids")}
    details["identifiers"] = [identifier["value"] for identifier in order["identifiers"]]
    await audit.record(tx, call.actor, "acme_order.created", "acme_order", order["id"], details, call.request_id)
    crash_point("acme.order_created")
    return row


def _digest(ordered: Iterable[Name]) -> str:
    """Return what stands for a set of names."""
    return hashlib.sha256("\n".join(f"{name.kind}:{name}" for name in sorted(ordered)).encode()).hexdigest()


def _lifetime_s(call: Call, body: NewOrder) -> int:
    """Return how long the certificate shall live; raise ``Problem`` for dates that cannot be had."""
    now = call.ctx.clock.now()
    for field, moment in (("notBefore", body.not_before), ("notAfter", body.not_after)):
        if moment is not None and moment.tzinfo is None:
            raise Problem("malformed", f"{field}: has no offset from UTC (RFC 3339)")
    begin = body.not_before or now
    if begin < now - _EARLIEST:
        raise Problem("malformed", f"notBefore: is {begin:%Y-%m-%dT%H:%M:%SZ}, which has passed; leave it out")
    if body.not_after is None:
        return call.profile.default_lifetime_s
    if body.not_after < max(begin, now) + _SHORTEST:
        raise Problem("malformed", "notAfter: lies before notBefore, or less than a minute after it")
    return round((body.not_after - begin).total_seconds())


def _check_profile(call: Call, wanted: Sequence[Wanted], lifetime_s: int) -> None:
    """Raise ``Problem`` for what the profile will not allow whatever key the CSR brings."""
    profile = call.profile
    try:
        profile.check(
            tuple(one.name for one in wanted), profile.key_algorithms[0], lifetime_s, profile.default_issuer_id
        )
    except Refused as error:
        raise of(error, "rejectedIdentifier") from error


async def _check_replaces(call: Call, tx: Transaction, replaces: str | None, wanted: Sequence[Wanted]) -> None:
    """Raise ``Problem`` unless what an order replaces is this account's and has a name in common (RFC 9773, 5)."""
    if replaces is None:
        return
    try:
        version = await store.version_by_id(tx, *acme.read_certificate_id(replaces))
    except InvalidInput as error:
        raise Problem("malformed", f"replaces: {error.detail}") from error
    if version is None or version["account_id"] != call.account_id:
        raise Problem("malformed", "replaces: names no certificate that was issued to this account")
    if not {one.name.value for one in wanted} & {*version["names"]}:
        raise Problem("malformed", "replaces: names a certificate that has no name in common with the order")
    if await store.replacement_exists(tx, replaces):
        raise _replaced_already(replaces)


def _replaced_already(replaces: str) -> Problem:
    return Problem("alreadyReplaced", f"an order replaces {replaces} already", HTTPStatus.CONFLICT)


async def show(call: Call, _tx: Transaction) -> Reply:
    """Return an order."""
    call.check_post_as_get()
    row = of_account(call.found, "order")
    headers = {"Retry-After": str(POLL_S)} if status_of(row) == "processing" else {}
    return Reply(shown(call, row), headers=headers)


def status_of(row: Columns) -> str:
    """Return an order's status (section 7.1.6)."""
    if row["error"] is not None:
        return "invalid"
    if row["job_id"] is not None:
        states = {"Completed": "valid", "Failed": "invalid", "Cancelled": "invalid"}
        return states.get(row["job_state"], "processing")
    found = row["authorizations"] or ["expired"]
    if row["run_out"] or any(status not in {"pending", "valid"} for status in found):
        return "invalid"
    return "ready" if all(status == "valid" for status in found) else "pending"


def shown(call: Call, row: Columns) -> dict[str, Any]:
    """Return an order as it is sent."""
    return dict(_fields(call, row))


def _fields(call: Call, row: Columns) -> Iterator[tuple[str, Any]]:
    status, base = status_of(row), call.base
    yield "status", status
    yield "expires", _moment(row["expires_at"])
    yield "identifiers", row["identifiers"]
    yield "authorizations", [f"{base}/authz/{each}" for each in row["authorization_ids"]]
    yield "finalize", f"{base}/order/{row['id']}/finalize"
    yield "profile", row["profile_id"]
    for field, name in (("notBefore", "not_before"), ("notAfter", "not_after")):
        if row[name] is not None:
            yield field, _moment(row[name])
    if row["replaces"] is not None:
        yield "replaces", row["replaces"]
    if status == "valid":
        yield "certificate", f"{base}/cert/{row['version_id']}"
    if status == "invalid":
        yield "error", row["error"] or _why(row)


def _why(row: Columns) -> dict[str, Any]:
    if row["job_id"] is not None:
        cause = (row["failure"] or {}).get("cause", "it was cancelled")
        return Problem("serverInternal", f"nothing was issued: {cause}").document()
    if row["run_out"]:
        return Problem("malformed", "the order has expired; make another one").document()
    return Problem("unauthorized", "an authorization failed, expired or was deactivated; look at them").document()


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


async def finalize(call: Call, tx: Transaction) -> tuple[Row, str]:
    """Take the CSR of an order that is ready (section 7.4); return the order as it was, and the job that signs it."""
    row = of_account(await store.order(tx, call.path["order_id"], call.account_id, lock=True), "order")
    status = status_of(row)
    if status != "ready":
        detail = f"the order is {status}; it can be finalized when it is ready"
        raise Problem("orderNotReady", detail)
    facts, csr = _read_csr(call)
    ordered = [names.read_one(msgspec.convert(each, Identifier)).name for each in row["identifiers"]]
    _check_csr(facts, frozenset(ordered))
    digest = _digest(ordered)
    known = await store.certificate_of(tx, call.account_id, digest)
    assert known is not None  # noqa: S101 - the account has signed this request
    try:
        certificate_id, job_id = await _enroll(call, tx, row, known, facts, csr, ordered)
    except (Refused, Conflict) as error:
        raise of(error, "badCSR") from error
    store.finalize_order(tx, row["id"], certificate_id, job_id, call.account_id, digest)
    details = {"certificate_id": certificate_id, "job_id": job_id}
    await audit.record(tx, call.actor, "acme_order.finalized", "acme_order", row["id"], details, call.request_id)
    try:
        await tx.store_gathered()
    except driver.UniqueViolation as error:
        raise Transient("another order of the same names came first; try again") from error
    crash_point("acme.order_finalized")
    return row, job_id


def _read_csr(call: Call) -> tuple[CSRFacts, bytes]:
    try:
        csr = acme.decode(call.read(_Finalize).csr)
        facts, _ = read_csr(csr)
    except ValueError as error:
        raise Problem("badCSR", f"csr: {error}") from error
    except InvalidInput as error:
        raise Problem("badCSR", error.detail) from error
    return facts, csr


def _check_csr(facts: CSRFacts, ordered: frozenset[Name]) -> None:
    """Raise ``Problem`` unless the CSR asks for exactly what was ordered; clients may put a name into the CN alone."""
    asked, values = set(facts.names), {name.value: name for name in ordered}
    common_name = facts.common_name.lower()
    if common_name and common_name not in values:
        raise Problem("badCSR", f"the CSR's common name {facts.common_name[:80]} was not ordered")
    wrong = [f"asks for {name}, which was not ordered" for name in sorted(asked - ordered)]
    wrong += [f"lacks {name}, which was ordered" for name in sorted(ordered - asked)]
    if wrong:
        raise Problem("badCSR", f"the CSR {'; '.join(wrong)}"[:500])


async def _enroll(
    call: Call, tx: Transaction, row: Row, known: Row, facts: CSRFacts, csr: bytes, ordered: Sequence[Name]
) -> tuple[str, str]:
    """Have the gate take the CSR for the one certificate of this account for these names; return that and the job."""
    bound = known["owner_id"] is not None
    wanted = Enrolled(
        source="acme",
        names=ordered,
        profile=call.profile,
        key_algorithm=facts.key_algorithm,
        lifetime_s=_ordered_lifetime(row, call.ctx.clock.now()),
        owner_id=known["owner_id"] if bound else "default",
        team_id=known["team_id"] if bound else "default",
        environment=known["environment"] if bound else "",
    )
    if (certificate_id := known["certificate_id"]) is None:
        certificate_id = await enrolling.create(tx, call.caller, wanted)
    else:
        await enrolling.order_again(tx, certificate_id, wanted)
    enrolment = issuance.Enrolment(
        "acme", certificate_id, facts, csr, _validity(call, row), [known["created_by"]] if bound else []
    )
    return certificate_id, await issuance.enroll(call.ctx, tx, call.actor, enrolment, call.request_id)


def _ordered_lifetime(row: Row, now: datetime) -> int | None:
    if row["not_after"] is None:
        return None
    lifetime: timedelta = row["not_after"] - (row["not_before"] or now)
    return max(60, round(lifetime.total_seconds()))


def _validity(call: Call, row: Row) -> tuple[datetime, datetime] | None:
    """Return the dates that were ordered; what was not is as for every certificate."""
    if row["not_before"] is None and row["not_after"] is None:
        return None
    now = call.ctx.clock.now().replace(microsecond=0)
    lifetime = timedelta(seconds=call.profile.default_lifetime_s)
    end = row["not_after"] or (row["not_before"] or now) + lifetime
    return row["not_before"] or now - backdating(end - now), end


async def finished(call: Call, before: Row, job_id: str) -> Reply:
    """Sign what was finalized and return the order; what cannot be signed at once stays ``processing``."""
    row: Columns | None
    version_id = await issuance.finish(call.ctx, call.actor, job_id, call.request_id)
    if version_id is not None:
        row = {**dict(before.items()), "job_id": job_id, "job_state": JobState.COMPLETED, "version_id": version_id}
    else:
        async with call.ctx.db.connection() as conn:
            row = await store.order(conn, before["id"], call.account_id)
        assert row is not None  # noqa: S101 - it was finalized just now
    headers = {"Location": f"{call.base}/order/{row['id']}"}
    if status_of(row) == "processing":
        headers["Retry-After"] = str(POLL_S)
    return Reply(shown(call, row), headers=headers)
