"""Sessions over HTTP: who has signed in, and an end to it."""

from __future__ import annotations

from datetime import datetime

import msgspec

from coordinator.access import service as access
from coordinator.sessions import service, store
from coordinator.web.paging import Page, PageQuery, read_page
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Streamed
from core.errors import NotFound


class Session(msgspec.Struct):
    """Somebody who has signed in, without the session's value. ``last_seen_at`` is some seconds late."""

    id: str
    person_id: str
    name: str
    email: str
    role: str
    teams: list[str] | None
    environments: list[str] | None
    user_agent: str
    last_seen_at: datetime
    expires_at: datetime
    created_at: datetime


class SessionQuery(PageQuery):
    """Filters of the session list."""

    person_id: str | None = None
    role: str | None = None


async def list_sessions(call: Call[NoBody, SessionQuery]) -> Page[Session] | Streamed:
    """List the sessions whose scope lies within the caller's, newest first."""
    return await read_page(call, store.LISTING, Session, **access.within(call.actor))


async def end(call: Call[NoBody, NoQuery]) -> None:
    """End a session at once; whoever had it has to sign in again."""
    async with call.ctx.db.transaction() as tx:
        session_id = call.path["session_id"]
        await service.end(call.ctx, tx, call.actor, session_id, "session.ended", call.request_id)


ROUTES = [
    Route("GET", "/api/v1/sessions", list_sessions, Permission.KEYS, "List sessions", Page[Session],
          query=SessionQuery, listing=store.LISTING),
    Route("DELETE", "/api/v1/sessions/{session_id}", end, Permission.KEYS, "End a session", None, status=204,
          errors=(NotFound,)),
]  # fmt: skip
