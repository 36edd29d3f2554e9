"""Targets and their types over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec

from coordinator.bindings import changes
from coordinator.bindings.drift import Drift
from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.targets import editing, store, trials, types
from coordinator.targets.editing import TargetBody
from coordinator.targets.trials import Trial
from coordinator.targets.types import TargetType, TargetTypes
from coordinator.web.paging import Page, PageQuery, read_page
from coordinator.web.resource import body_with_id, merged, patch_of
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Streamed, Strict
from core import marking
from core.errors import Conflict, NotFound, PreconditionFailed, Refused
from core.ids import check_chosen, new_id


class Target(msgspec.Struct):
    """A place where a certificate is installed: the one it should serve is ``certificate_id``.

    Of a secret in ``config`` is only said that it is set. One that was removed has ``archived_at``.
    ``last_test`` is the last deployment that was tried out there, ``drift`` what its agent found when it looked again
    at what it had installed; empty when all is as it was.
    """

    id: str
    name: str
    type: str
    agent_id: str
    config: dict[str, Any]
    enabled: bool
    certificate_id: str | None
    archived_at: datetime | None
    archived_reason: str
    revision: int
    created_at: datetime
    updated_at: datetime
    last_test: Trial | None
    drift: Drift


class TargetQuery(PageQuery):
    """Filters of the target list; ``q`` is looked for in id, name and configuration."""

    name: str | None = None
    type: str | None = None
    agent_id: str | None = None
    certificate_id: str | None = None
    bound: bool | None = None
    drifted: bool | None = None
    enabled: bool | None = None
    archived: bool = False
    q: str | None = None


class RemoveQuery(Strict):
    """``force`` removes a target although it should serve a certificate."""

    force: bool = False
    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""


class StillBound(msgspec.Struct):
    """Which certificate the target should serve."""

    certificate_id: str


CreateTarget = body_with_id(TargetBody, "CreateTarget", "tgt")
TargetPatch = patch_of(TargetBody)


async def _shape(conn: Connection, rows: Sequence[Row]) -> list[Target]:
    bound = await changes.of_targets(conn, [row["id"] for row in rows])
    tested = await trials.last_of(conn, [row["id"] for row in rows])
    return [_target(row, bound.get(row["id"]), tested.get(row["id"])) for row in rows]


def _target(row: Row, binding: Row | None, last_test: Trial | None) -> Target:
    own = {"config", "certificate_id", "last_test", "drift"}
    fields = {name: row[name] for name in Target.__struct_fields__ if name not in own}
    config = marking.shown(row["config"], row["sealed"])
    certificate_id, drift = (None, "") if binding is None else (binding["certificate_id"], binding["drift"])
    fields |= {"certificate_id": certificate_id, "drift": drift}
    return Target(**fields, config=config, last_test=last_test)


async def _one(conn: Connection, target_id: str) -> Target:
    row = await store.get(conn, target_id)
    if row is None:
        detail = f"there is no target {target_id}"
        raise NotFound(detail)
    (target,) = await _shape(conn, [row])
    return target


async def list_targets(call: Call[NoBody, TargetQuery]) -> Page[Target] | Streamed:
    """List targets, newest first."""
    return await read_page(call, store.LISTING, Target, _shape)


async def get(call: Call[NoBody, NoQuery]) -> Target:
    """Return one target; its ETag is its revision."""
    async with call.ctx.db.connection() as conn:
        return await _one(conn, call.path["target_id"])


async def create(call: Call[Any, NoQuery]) -> Target:
    """Add a target; its configuration is checked by the same connector that the agent will use."""
    target_id = new_id("tgt") if call.body.id is None else check_chosen("tgt", call.body.id)
    fields = {name: getattr(call.body, name) for name in TargetBody.__struct_fields__}
    await editing.create(call, target_id, TargetBody(**fields))
    return await _one(call.tx, target_id)


async def replace(call: Call[TargetBody, NoQuery]) -> Target:
    """Replace the whole; what should be served there is deployed anew when its place is another one now."""
    return await _changed(call, lambda _row: call.body)


async def merge(call: Call[Any, NoQuery]) -> Target:
    """Change the named fields (RFC 7396): null brings back a default, objects are merged."""
    return await _changed(call, lambda row: merged(TargetBody, _as_shown(row), call.body))


async def _changed(call: Call[Any, NoQuery], body_of: Callable[[Row], TargetBody]) -> Target:
    target_id = call.path["target_id"]
    await editing.change(call, target_id, body_of)
    async with call.ctx.db.connection() as conn:
        return await _one(conn, target_id)


def _as_shown(row: Row) -> dict[str, Any]:
    return {**dict(row.items()), "config": marking.shown(row["config"], row["sealed"])}


async def remove(call: Call[NoBody, RemoveQuery]) -> None:
    """Remove a target that should serve nothing, or with force any."""
    query = call.query
    await editing.remove(call, call.path["target_id"], force=query.force, reason=query.reason)


async def try_out(call: Call[NoBody, NoQuery]) -> Trial:
    """Let the agent try a deployment without changing anything; the target's ``last_test`` tells how it ends."""
    return await trials.request(call.tx, call.actor, call.path["target_id"], call.request_id)


async def list_types(_call: Call[NoBody, NoQuery]) -> TargetTypes:
    """List the kinds of targets, each with the JSON schema of its configuration."""
    return types.every()


async def get_type(call: Call[NoBody, NoQuery]) -> TargetType:
    """Return one kind of target with the JSON schema of its configuration."""
    return types.one(call.path["target_type"])


_ALL, _ONE, _TYPES = "/api/v1/targets", "/api/v1/targets/{target_id}", "/api/v1/target-types"
_CHANGES = (NotFound, PreconditionFailed, Conflict, Refused)

ROUTES = [
    Route(
        "GET",
        _ALL,
        list_targets,
        Permission.READ,
        "List targets",
        Page[Target],
        query=TargetQuery,
        listing=store.LISTING,
    ),
    Route("GET", _ONE, get, Permission.READ, "Get a target", Target, errors=(NotFound,)),
    Route(
        "POST",
        _ALL,
        create,
        Permission.TARGETS_WRITE,
        "Add a target",
        Target,
        request=CreateTarget,
        status=201,
        errors=(Conflict,),
    ),
    Route(
        "PUT",
        _ONE,
        replace,
        Permission.TARGETS_WRITE,
        "Replace a target",
        Target,
        request=TargetBody,
        errors=_CHANGES,
    ),
    Route(
        "PATCH",
        _ONE,
        merge,
        Permission.TARGETS_WRITE,
        "Change parts of a target",
        Target,
        request=TargetPatch,
        errors=_CHANGES,
    ),
    Route(
        "DELETE",
        _ONE,
        remove,
        Permission.TARGETS_WRITE,
        "Remove a target",
        None,
        query=RemoveQuery,
        status=204,
        errors=(NotFound, PreconditionFailed, Conflict),
        conflict=StillBound,
    ),
    Route(
        "POST",
        f"{_ONE}/test",
        try_out,
        Permission.CERTIFICATES_WRITE,
        "Try a deployment without changing anything",
        Trial,
        status=202,
        errors=(NotFound, Conflict),
    ),
    Route("GET", _TYPES, list_types, Permission.READ, "List kinds of targets", TargetTypes),
    Route(
        "GET",
        f"{_TYPES}/{{target_type}}",
        get_type,
        Permission.READ,
        "Get a kind of target",
        TargetType,
        errors=(NotFound,),
    ),
]
