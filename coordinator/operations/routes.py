"""Operations on many certificates over HTTP: planned, started, followed, cancelled."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from coordinator.certificates import service as certificates
from coordinator.certificates.queries import CertificateFilter, filters
from coordinator.certificates.revocation import Reason
from coordinator.certificates.service import Caller
from coordinator.database.connection import Connection
from coordinator.operations import service, store
from coordinator.operations.service import Chosen, Kind
from coordinator.web.paging import Page, PageQuery, of_row, read_page
from coordinator.web.table import Actor, Call, NoBody, NoQuery, Permission, Route, Streamed, Strict
from core.errors import Conflict, Forbidden, InvalidInput, NotFound, TooManyRequests

MOST_IDS, _SAMPLE = 10_000, 10
_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
State = Literal["planned", "running", "cancelling", "completed", "cancelled"]
Outcome = Literal["waiting", "succeeded", "skipped", "failed", "cancelled"]


class BulkRenew(Strict):
    """Which certificates: ``ids``, a ``filter``, or the ``snapshot`` that a dry run gave; exactly one of these.

    With ``dry_run`` nothing is done: the answer has a count, a sample and a snapshot. A snapshot is a set of
    certificates, kept for 15 minutes; an operation on it works on exactly these. An empty filter is every certificate
    and can only be looked at.
    """

    ids: Annotated[tuple[_Id, ...], msgspec.Meta(min_length=1, max_length=MOST_IDS)] | None = None
    filter: CertificateFilter | None = None  # type: ignore[valid-type]  # made of the list's query at run time
    snapshot: _Id | None = None
    dry_run: bool = False


class BulkDeploy(BulkRenew):
    """Which certificates, as for ``bulk-renew``."""


class BulkRevoke(BulkRenew):
    """Which certificates, as for ``bulk-renew``; ``reason`` and ``renew`` as for a single one."""

    reason: Reason = "unspecified"
    renew: bool | None = None


class BulkReassign(BulkRenew):
    """Which certificates, as for ``bulk-renew``, and who gets them: an owner, a team, or both."""

    owner_id: _Id | None = None
    team_id: _Id | None = None


class Operation(msgspec.Struct):
    """What is done to many certificates, and how far it has come.

    ``skipped`` are those with nothing to do or whose state does not allow it, ``failed`` those that could not be found
    or are against a rule, ``cancelled`` what was still waiting when it was cancelled. A planned one was not started.
    """

    id: str
    kind: str
    state: str
    actor: str
    criteria: dict[str, Any]
    options: dict[str, Any]
    total: int
    waiting: int
    succeeded: int
    skipped: int
    failed: int
    cancelled: int
    created_at: datetime
    expires_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None


class Sample(msgspec.Struct):
    """A certificate among those that an operation is about."""

    id: str
    name: str
    common_name: str


class Begun(msgspec.Struct):
    """An operation; after a dry run the ``snapshot`` to start it with, and some of the certificates."""

    operation: Operation
    snapshot: str | None
    sample: list[Sample]


class Item(msgspec.Struct):
    """One certificate of an operation: what became of it, why, and the jobs that follow."""

    certificate_id: str
    outcome: str
    detail: str
    job_ids: list[str]
    finished_at: datetime | None


class OperationQuery(PageQuery):
    """Filters of the list of operations."""

    kind: Kind | None = None
    state: State | None = None
    actor: str | None = None


class ItemQuery(PageQuery):
    """Filters of an operation's items."""

    outcome: Outcome | None = None


class FollowQuery(Strict):
    """Wait up to ``wait`` seconds until more than ``seen`` items are done, or the operation has ended."""

    wait: Annotated[float, msgspec.Meta(ge=0, le=55)] = 0
    seen: Annotated[int, msgspec.Meta(ge=0)] = 0


async def renew(call: Call[BulkRenew, NoQuery]) -> Begun:
    """Renew many certificates."""
    return await _begin(call, "renew", {})


async def deploy(call: Call[BulkDeploy, NoQuery]) -> Begun:
    """Send the targets of many certificates again what they should serve."""
    return await _begin(call, "deploy", {})


async def revoke(call: Call[BulkRevoke, NoQuery]) -> Begun:
    """Revoke what was issued for many certificates."""
    return await _begin(call, "revoke", {"reason": call.body.reason, "renew": call.body.renew})


async def reassign(call: Call[BulkReassign, NoQuery]) -> Begun:
    """Give many certificates another owner, another team or both."""
    owner_id, team_id = call.body.owner_id, call.body.team_id
    if owner_id is None and team_id is None:
        raise InvalidInput.of("owner_id", "is missing: give owner_id, team_id or both")
    await certificates.check_owners(call.tx, call.actor, owner_id, team_id)
    return await _begin(call, "reassign", {"owner_id": owner_id, "team_id": team_id})


async def _begin(call: Call[Any, NoQuery], kind: Kind, options: dict[str, Any]) -> Begun:
    body, caller = call.body, Caller(call.actor, call.request_id)
    operation_id = body.snapshot
    if operation_id is None:
        operation_id = await service.plan(call.tx, caller, kind, options, _chosen(call))
    elif body.dry_run or body.ids is not None or body.filter is not None:
        raise InvalidInput.of("snapshot", "says all: leave out ids, filter and dry_run")
    if not body.dry_run:
        await service.start(call.tx, caller, kind, options, operation_id)
    rows = await service.sample(call.tx, operation_id, _SAMPLE) if body.dry_run else []
    operation = await _one(call, call.tx, operation_id)
    return Begun(operation, operation_id if body.dry_run else None, [of_row(Sample, row) for row in rows])


def _chosen(call: Call[Any, NoQuery]) -> Chosen:
    body, now = call.body, call.ctx.clock.now()
    if (body.ids is None) == (body.filter is None):
        raise InvalidInput.of(
            "filter", "says which certificates: give either filter or ids, or the snapshot of a dry run"
        )
    if body.ids is not None:
        return Chosen({}, body.ids, {"ids": len(set(body.ids))})
    given = {name: value for name, value in msgspec.to_builtins(body.filter).items() if value not in (None, False)}
    if not given and not body.dry_run:
        problem = "is empty, which means every certificate: look at them with dry_run, then send the snapshot"
        raise InvalidInput.of("filter", problem)
    return Chosen(filters(body.filter, now), None, {"filter": given})


async def list_operations(call: Call[NoBody, OperationQuery]) -> Page[Operation] | Streamed:
    """List operations, newest first."""
    return await read_page(call, store.LISTING, Operation, **_within(call.actor))


def _within(actor: Actor) -> dict[str, Any]:
    """Return the filters that leave what a caller may see."""
    teams, environments = actor.scope
    return {"within_teams": teams, "within_environments": environments}


async def get(call: Call[NoBody, FollowQuery]) -> Operation:
    """Return an operation; with ``wait``, only once more is done than ``seen``, it has ended, or the time is up."""
    operation_id, query = call.path["operation_id"], call.query
    deadline = time.monotonic() + query.wait
    with call.ctx.db.wakeups.subscribe(service.topic(operation_id)) as waiter:
        while True:
            async with call.ctx.db.connection() as conn:
                found = await _one(call, conn, operation_id)
            left, done = deadline - time.monotonic(), found.total - found.waiting
            if found.finished_at is not None or done > query.seen or left <= 0 or call.ctx.stopping:
                return found
            await waiter.wait(left)


async def _one(call: Call[Any, Any], conn: Connection, operation_id: str) -> Operation:
    row = await store.LISTING.get(conn, operation_id, _within(call.actor))
    if row is None:
        detail = f"there is no operation {operation_id}"
        raise NotFound(detail)
    return of_row(Operation, row)


async def list_items(call: Call[NoBody, ItemQuery]) -> Page[Item] | Streamed:
    """List the certificates of an operation and what became of each."""
    operation_id = call.path["operation_id"]
    async with call.ctx.db.connection() as conn:
        await _one(call, conn, operation_id)
    return await read_page(call, store.ITEMS, Item, operation_id=operation_id)


async def cancel(call: Call[NoBody, NoQuery]) -> Operation:
    """Leave undone what waits; what is done stays done."""
    operation_id = call.path["operation_id"]
    async with call.ctx.db.transaction() as tx:
        found = await _one(call, tx, operation_id)
        needed = _REVOKE if found.kind == "revoke" else _WRITE
        if needed not in call.actor.permissions:
            detail = f"to cancel an operation that may {found.kind} needs the permission {needed}"
            raise Forbidden(detail)
        row = await store.get(tx, operation_id, lock=True)
        assert row is not None  # noqa: S101 - it was just read
        await service.cancel(tx, Caller(call.actor, call.request_id), row)
        return await _one(call, tx, operation_id)


_WRITE, _REVOKE = Permission.CERTIFICATES_WRITE, Permission.CERTIFICATES_BULK_REVOKE
_ALL = "/api/v1/operations"
_ONE = "/api/v1/operations/{operation_id}"
_BULK = (
    ("renew", renew, _WRITE, "Renew many", BulkRenew),
    ("deploy", deploy, _WRITE, "Deploy many again", BulkDeploy),
    ("revoke", revoke, _REVOKE, "Revoke many", BulkRevoke),
    ("reassign", reassign, _WRITE, "Give many another owner or team", BulkReassign),
)
ROUTES = [
    *(
        Route(
            "POST",
            f"/api/v1/certificates/bulk-{name}",
            handler,
            permission,
            words,
            Begun,
            request=body,
            status=202,
            errors=(NotFound, Conflict, TooManyRequests),
        )
        for name, handler, permission, words, body in _BULK
    ),
    Route("GET", _ALL, list_operations, Permission.READ, "List operations", Page[Operation], query=OperationQuery),
    Route(
        "GET",
        _ONE,
        get,
        Permission.READ,
        "Follow an operation",
        Operation,
        query=FollowQuery,
        errors=(NotFound,),
    ),
    Route(
        "GET",
        f"{_ONE}/items",
        list_items,
        Permission.READ,
        "List an operation's items",
        Page[Item],
        query=ItemQuery,
        errors=(NotFound,),
    ),
    Route(
        "POST",
        f"{_ONE}/cancel",
        cancel,
        _WRITE,
        "Cancel an operation",
        Operation,
        errors=(NotFound, Conflict, Forbidden),
    ),
]
