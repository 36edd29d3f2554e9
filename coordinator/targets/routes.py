"""Reading and adding targets."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

from connectors.targets import registry
from coordinator.audit import service as audit
from coordinator.database import driver
from coordinator.targets import store
from coordinator.web.paging import Page, PageQuery, read_page
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Streamed, Strict
from core.errors import Conflict, InvalidInput, NotFound
from core.ids import check_chosen, new_id


class Target(msgspec.Struct):
    """A place where certificates are installed."""

    id: str
    name: str
    type: str
    agent_id: str
    config: dict[str, Any]
    created_at: datetime


class CreateTarget(Strict):
    """A new target; ``config`` is what its type asks for, see docs/targets.md."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    type: str
    agent_id: str
    config: dict[str, Any]
    id: str | None = None


class TargetQuery(PageQuery):
    """Filters of the target list."""

    agent_id: str | None = None


async def list_targets(call: Call[NoBody, TargetQuery]) -> Page[Target] | Streamed:
    """List targets, newest first."""
    return await read_page(call, store.LISTING, Target)


async def get(call: Call[NoBody, NoQuery]) -> Target:
    """Return one target."""
    async with call.ctx.db.connection() as conn:
        row = await store.get(conn, call.path["target_id"])
    if row is None:
        detail = f"there is no target {call.path['target_id']}"
        raise NotFound(detail)
    return Target(**row)


async def create(call: Call[CreateTarget, NoQuery]) -> Target:
    """Add a target; its configuration is checked by the same connector that the agent will use."""
    body = call.body
    target_id = check_chosen("tgt", body.id) if body.id is not None else new_id("tgt")
    kind = body.type.lower()
    decoded = registry.decode_config(kind, body.config)
    row = {"id": target_id, "name": body.name, "type": kind, "agent_id": body.agent_id, "config": body.config}
    try:
        await store.insert(call.tx, row)
    except driver.UniqueViolation as error:
        detail = f"a target with the id {target_id}, or with the name {body.name!r} on this agent, is there already"
        raise Conflict(detail) from error
    except driver.ForeignKeyViolation as error:
        raise InvalidInput.of("agent_id", f"there is no agent {body.agent_id}") from error
    details = {**row, "config": decoded}
    await audit.record(call.tx, call.actor, "target.created", "target", target_id, details, call.request_id)
    stored = await store.get(call.tx, target_id)
    assert stored is not None  # noqa: S101 - inserted above, in this transaction
    return Target(**stored)


ROUTES = [
    Route("GET", "/api/v1/targets", list_targets, Permission.READ, "List targets", Page[Target], query=TargetQuery),
    Route("GET", "/api/v1/targets/{target_id}", get, Permission.READ, "Get a target", Target, errors=(NotFound,)),
    Route(
        "POST",
        "/api/v1/targets",
        create,
        Permission.TARGETS_WRITE,
        "Add a target",
        Target,
        request=CreateTarget,
        status=201,
        errors=(Conflict,),
    ),
]
