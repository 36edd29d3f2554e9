"""Routes about credentials: what is needed, who am I, and the keys themselves."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec

from coordinator.access import keys, service, store
from coordinator.database.driver import Record as Row
from coordinator.sessions import service as sessions
from coordinator.web import etag
from coordinator.web.paging import Page, PageQuery, of_row, read_page
from coordinator.web.resource import merged, patch_of
from coordinator.web.table import Access, Call, NoBody, NoQuery, Permission, Route, Streamed, Strict
from core.errors import Conflict, InvalidInput, NotFound, PreconditionFailed

_KEY = "/api/v1/api-keys/{key_id}"
Role = Literal["viewer", "operator", "approver", "auditor", "admin"]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Some = Annotated[list[Name], msgspec.Meta(min_length=1, max_length=100)]


class AuthInfo(msgspec.Struct):
    """How callers show who they are: each with a key, people also by signing in at ``login_url`` if there is one."""

    auth_type: str
    required: bool
    methods: list[str]
    login_url: str | None
    logout_url: str | None


class WithinScope(msgspec.Struct):
    """The teams and environments a caller is limited to; null where any."""

    teams: list[str] | None
    environments: list[str] | None


class AuthCheck(msgspec.Struct):
    """Who the caller is, what it may do, where, and until when.

    ``kind`` is key or person, ``id`` the key's or person's. A session is told the ``csrf_token`` for its changes.
    """

    status: str
    kind: str
    id: str
    user: str
    role: str
    permissions: list[str]
    scope: WithinScope
    expires_at: datetime | None
    session_id: str | None
    csrf_token: str | None


class APIKey(msgspec.Struct):
    """A key without its value.

    ``last_used_at`` is some seconds late. Until ``previous_until`` the value before the last rotation works as well.
    """

    id: str
    name: str
    role: str
    description: str
    owner_id: str | None
    teams: list[str] | None
    environments: list[str] | None
    source: str
    expires_at: datetime | None
    disabled_at: datetime | None
    last_used_at: datetime | None
    rotated_at: datetime | None
    previous_until: datetime | None
    revision: int
    created_at: datetime
    updated_at: datetime


class KeyBody(Strict):
    """What a key may do: its role, within ``teams`` and ``environments`` if they are given, until ``expires_at``."""

    name: Name
    role: Role
    description: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    owner_id: str | None = None
    teams: Some | None = None
    environments: Some | None = None
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class CreateAPIKey(KeyBody):
    """A new key. Its end may be given in seconds from now instead; without either it has none."""

    ttl_s: Annotated[int, msgspec.Meta(ge=60, le=3650 * 86400)] | None = None


class CreatedAPIKey(msgspec.Struct):
    """A key with its value ``key``, which is shown this once."""

    id: str
    name: str
    role: str
    key: str
    expires_at: datetime | None
    previous_until: datetime | None


class RotateAPIKey(Strict):
    """For how many seconds the value before goes on working; 0 ends it at once."""

    overlap_s: Annotated[int, msgspec.Meta(ge=0, le=30 * 86400)] = 3600


class KeyQuery(PageQuery):
    """Filters of the key list. ``team`` finds keys that are limited to this team, among others perhaps."""

    name: str | None = None
    role: Role | None = None
    owner_id: str | None = None
    source: Literal["environment", "database"] | None = None
    team: str | None = None
    usable: bool | None = None


async def info(call: Call[NoBody, NoQuery]) -> AuthInfo:
    """Say that a key or a session is needed, and where people get the latter."""
    if call.ctx.settings.oidc is None:
        return AuthInfo("api-key", required=True, methods=["api-key"], login_url=None, logout_url=None)
    methods = ["api-key", "oidc"]
    return AuthInfo("api-key", required=True, methods=methods, login_url="/auth/oidc/login", logout_url="/auth/logout")


async def check(call: Call[NoBody, NoQuery]) -> AuthCheck:
    """Say who the caller is and what it may do."""
    actor = call.actor
    teams, environments = (None if names is None else list(names) for names in actor.scope)
    scope, permissions = WithinScope(teams, environments), sorted(map(str, actor.permissions))
    token = sessions.csrf_token(sessions.value_of(call.headers)) if actor.session else None
    who = (actor.kind, actor.id, actor.name, actor.role)
    return AuthCheck("authenticated", *who, permissions, scope, actor.expires_at, actor.session or None, token)


async def create(call: Call[CreateAPIKey, NoQuery]) -> CreatedAPIKey:
    """Make a key; it can do no more than its maker."""
    body, now = call.body, call.ctx.clock.now()
    if body.ttl_s and body.expires_at:
        raise InvalidInput.of("ttl_s", "says the same as expires_at; give one of both")
    values = {name: getattr(body, name) for name in KeyBody.__struct_fields__}
    if body.ttl_s:
        values["expires_at"] = now + timedelta(seconds=body.ttl_s)
    row, value = await keys.make(call.tx, call.actor, values, now, call.request_id)
    return _shown(row, value.reveal())


async def list_keys(call: Call[NoBody, KeyQuery]) -> Page[APIKey] | Streamed:
    """List the keys whose scope lies within the caller's, newest first."""
    return await read_page(call, store.KEYS, APIKey, **service.within(call.actor))


async def get(call: Call[NoBody, NoQuery]) -> APIKey:
    """Return a key; its ETag is its revision."""
    async with call.ctx.db.connection() as conn:
        return of_row(APIKey, await keys.visible(conn, call.actor, call.path["key_id"]))


async def merge(call: Call[KeyBody, NoQuery]) -> APIKey:
    """Change the named fields (RFC 7396); a change of the role, the scope or the end holds from the next request on."""
    async with call.ctx.db.transaction() as tx:
        before = await keys.changeable(tx, call.actor, call.path["key_id"])
        etag.check(call, before)
        body = merged(KeyBody, before, call.body)
        values = {name: getattr(body, name) for name in KeyBody.__struct_fields__}
        return of_row(APIKey, await keys.change(tx, call.actor, before, values, call.ctx.clock.now(), call.request_id))


async def disable(call: Call[NoBody, NoQuery]) -> None:
    """Switch a key off for good; it stays in the list, since the audit trail names it."""
    async with call.ctx.db.transaction() as tx:
        row = await keys.changeable(tx, call.actor, call.path["key_id"])
        etag.check(call, row)
        await keys.switch_off(tx, call.actor, row, call.request_id)


async def rotate(call: Call[RotateAPIKey, NoQuery]) -> CreatedAPIKey:
    """Give a key a new value; the one before works for some time, the one before that not any more."""
    row = await keys.changeable(call.tx, call.actor, call.path["key_id"])
    etag.check(call, row)
    overlap, now = timedelta(seconds=call.body.overlap_s), call.ctx.clock.now()
    changed, value = await keys.rotate(call.tx, call.actor, row, overlap, now, call.request_id)
    return _shown(changed, value.reveal())


def _shown(row: Row, value: str) -> CreatedAPIKey:
    return CreatedAPIKey(row["id"], row["name"], row["role"], value, row["expires_at"], row["previous_until"])


_CHANGES = (NotFound, PreconditionFailed, Conflict)
ROUTES = [
    Route("GET", "/api/v1/auth/info", info, Access.OPEN, "How to authenticate", AuthInfo),
    Route("GET", "/api/v1/auth/check", check, Access.ANY_KEY, "Who am I", AuthCheck),
    Route("GET", "/api/v1/api-keys", list_keys, Permission.KEYS, "List API keys", Page[APIKey], query=KeyQuery,
          listing=store.KEYS),
    Route("POST", "/api/v1/api-keys", create, Permission.KEYS, "Make an API key", CreatedAPIKey,
          request=CreateAPIKey, status=201),
    Route("GET", _KEY, get, Permission.KEYS, "Get an API key", APIKey, errors=(NotFound,)),
    Route("PATCH", _KEY, merge, Permission.KEYS, "Change parts of an API key", APIKey,
          request=patch_of(KeyBody), errors=_CHANGES),
    Route("DELETE", _KEY, disable, Permission.KEYS, "Switch an API key off", None, status=204, errors=_CHANGES),
    Route("POST", f"{_KEY}/rotate", rotate, Permission.KEYS, "Give an API key a new value", CreatedAPIKey,
          request=RotateAPIKey, status=201, errors=_CHANGES),
]  # fmt: skip
