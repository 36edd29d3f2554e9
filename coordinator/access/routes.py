"""Routes about credentials: what is needed, who am I, and the keys themselves."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec

from coordinator.access import service, store
from coordinator.web.paging import Page, PageQuery, read_page
from coordinator.web.table import Access, Call, NoBody, NoQuery, Permission, Route, Streamed, Strict
from core.errors import InvalidInput


class AuthInfo(msgspec.Struct):
    """How callers show who they are."""

    auth_type: str
    required: bool


class AuthCheck(msgspec.Struct):
    """Who the caller is."""

    status: str
    user: str
    role: str
    permissions: list[str]


class APIKey(msgspec.Struct):
    """A key without its value."""

    id: str
    name: str
    role: str
    source: str
    expires_at: datetime | None
    disabled_at: datetime | None
    created_at: datetime


class CreateAPIKey(Strict):
    """What a new key may do, and for how long (seconds; without end when left out)."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    role: Literal["viewer", "operator", "approver", "auditor", "admin"]
    ttl_s: Annotated[int, msgspec.Meta(ge=60, le=3650 * 86400)] | None = None


class CreatedAPIKey(msgspec.Struct):
    """A new key; ``key`` is shown this once."""

    id: str
    name: str
    role: str
    key: str


async def info(_call: Call[NoBody, NoQuery]) -> AuthInfo:
    """Say that a key is needed."""
    return AuthInfo("api-key", required=True)


async def check(call: Call[NoBody, NoQuery]) -> AuthCheck:
    """Say who the caller is and what it may do."""
    actor = call.actor
    return AuthCheck("authenticated", actor.name, actor.role, sorted(actor.permissions))


async def create(call: Call[CreateAPIKey, NoQuery]) -> CreatedAPIKey:
    """Make a key."""
    body, ttl = call.body, timedelta(seconds=call.body.ttl_s) if call.body.ttl_s else None
    if any(ord(c) < 32 for c in body.name):  # noqa: PLR2004 - control characters
        raise InvalidInput.of("name", "holds a control character; remove it")
    now = call.ctx.clock.now()
    key_id, value = await service.create_key(call.tx, call.actor, body.name, body.role, ttl, now, call.request_id)
    return CreatedAPIKey(key_id, body.name, body.role, value.reveal())


async def list_keys(call: Call[NoBody, PageQuery]) -> Page[APIKey] | Streamed:
    """List keys, newest first."""
    return await read_page(call, store.KEYS, APIKey)


ROUTES = [
    Route("GET", "/api/v1/auth/info", info, Access.OPEN, "How to authenticate", AuthInfo),
    Route("GET", "/api/v1/auth/check", check, Access.ANY_KEY, "Who am I", AuthCheck),
    Route(
        "POST",
        "/api/v1/api-keys",
        create,
        Permission.KEYS,
        "Make an API key",
        CreatedAPIKey,
        request=CreateAPIKey,
        status=201,
    ),
    Route("GET", "/api/v1/api-keys", list_keys, Permission.KEYS, "List API keys", Page[APIKey], query=PageQuery),
]
