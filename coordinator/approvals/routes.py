"""Approvals over HTTP: what waits for a second person, and the words of that person."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from coordinator.approvals import deciding, store
from coordinator.approvals.service import Change, Wanted
from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.web.paging import Page, PageQuery, read_page
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Streamed, Strict
from core.errors import Conflict, Forbidden, NotFound, Refused

State = Literal["pending", "approved", "rejected", "expired", "cancelled"]


class Vote(msgspec.Struct):
    """What one person said."""

    by: str
    name: str
    vote: Literal["approve", "reject"]
    note: str
    at: datetime


class Approval(msgspec.Struct):
    """An issuance that needs the word of ``required`` persons; ``wanted`` is what will be signed, and nothing else.

    ``requested_by`` are the actors who asked, ``system`` when certctl did. ``changes`` is what is different from the
    agent's last version. ``reason`` says why it ended otherwise than approved.
    """

    id: str
    state: State
    certificate_id: str
    job_id: str
    agent_id: str | None
    profile_id: str
    requested_by: list[str]
    required: int
    approved: int
    wanted: Wanted
    changes: list[Change]
    votes: list[Vote]
    reason: str
    expires_at: datetime
    decided_at: datetime | None
    created_at: datetime


class ApprovalQuery(PageQuery):
    """Filters of the list of approvals. ``requested_by`` is an actor: ``key:…``, ``person:…`` or ``system``."""

    state: State | None = None
    certificate_id: str | None = None
    job_id: str | None = None
    profile_id: str | None = None
    requested_by: str | None = None


class Decision(Strict):
    """Why; it is shown to whoever asked, and kept."""

    note: Annotated[str, msgspec.Meta(max_length=1000)] = ""


async def _shape(_conn: Connection, rows: Sequence[Row]) -> list[Approval]:
    return [msgspec.convert(dict(row.items()), Approval) for row in rows]


async def list_approvals(call: Call[NoBody, ApprovalQuery]) -> Page[Approval] | Streamed:
    """List approvals, newest first."""
    return await read_page(call, store.LISTING, Approval, _shape)


async def get(call: Call[NoBody, NoQuery]) -> Approval:
    """Return one approval with its votes."""
    return await _one(call)


async def approve(call: Call[Decision, NoQuery]) -> Approval:
    """Agree to an issuance that somebody else has asked for."""
    await deciding.approve(call.ctx, call.actor, _id(call), call.body.note, call.request_id)
    return await _one(call)


async def reject(call: Call[Decision, NoQuery]) -> Approval:
    """Refuse an issuance: its job is cancelled."""
    await deciding.reject(call.ctx, call.actor, _id(call), call.body.note, call.request_id)
    return await _one(call)


async def _one(call: Call[Any, Any]) -> Approval:
    async with call.ctx.db.connection() as conn:
        row = await store.LISTING.get(conn, _id(call), {}, call.actor.scope)
        if row is None:
            detail = f"there is no approval {_id(call)}"
            raise NotFound(detail)
        (approval,) = await _shape(conn, [row])
        return approval


def _id(call: Call[Any, Any]) -> str:
    return call.path["approval_id"]


_ONE = "/api/v1/approvals/{approval_id}"
_ERRORS = (Forbidden, NotFound, Conflict, Refused)
ROUTES = [
    Route("GET", "/api/v1/approvals", list_approvals, Permission.READ, "List approvals", Page[Approval],
          query=ApprovalQuery),
    Route("GET", _ONE, get, Permission.READ, "Get an approval", Approval, errors=(NotFound,)),
    Route("POST", f"{_ONE}/approve", approve, Permission.APPROVE, "Agree to an issuance", Approval, request=Decision,
          errors=_ERRORS),
    Route("POST", f"{_ONE}/reject", reject, Permission.APPROVE, "Refuse an issuance", Approval, request=Decision,
          errors=_ERRORS),
]  # fmt: skip
