"""Reading and adding profiles."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from coordinator.audit import service as audit
from coordinator.database import driver
from coordinator.database.connection import Connection
from coordinator.issuers import service as issuers
from coordinator.profiles import store
from coordinator.profiles.service import Lifetime
from coordinator.web.paging import Page, PageQuery, read_page
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Streamed, Strict
from core.errors import Conflict, InvalidInput, NotFound
from core.ids import check_chosen, new_id
from core.keys import KeyAlgorithm

Usage = Literal["serverAuth", "clientAuth", "emailProtection", "codeSigning", "timeStamping"]


class Profile(msgspec.Struct):
    """What may be issued. Lifetimes are seconds; ``allowed_names`` are patterns, none allows every name."""

    id: str
    name: str
    description: str
    default_issuer_id: str
    key_algorithms: list[str]
    default_lifetime_s: int
    max_lifetime_s: int
    extended_key_usages: list[str]
    allowed_names: list[str]
    enabled: bool
    created_at: datetime


class CreateProfile(Strict):
    """A new profile; the first key algorithm is the default."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    max_lifetime_s: Lifetime
    default_lifetime_s: Lifetime | None = None
    id: str | None = None
    description: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    default_issuer_id: str = issuers.LOCAL
    key_algorithms: Annotated[tuple[KeyAlgorithm, ...], msgspec.Meta(min_length=1)] = (KeyAlgorithm.ECDSA_P256,)
    extended_key_usages: Annotated[tuple[Usage, ...], msgspec.Meta(min_length=1)] = ("serverAuth",)
    allowed_names: tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=253)], ...] = ()


async def list_profiles(call: Call[NoBody, PageQuery]) -> Page[Profile] | Streamed:
    """List profiles, newest first."""
    return await read_page(call, store.LISTING, Profile)


async def get(call: Call[NoBody, NoQuery]) -> Profile:
    """Return one profile."""
    async with call.ctx.db.connection() as conn:
        return await _get(conn, call.path["profile_id"])


async def _get(conn: Connection, profile_id: str) -> Profile:
    row = await store.get(conn, profile_id)
    if row is None:
        detail = f"there is no profile {profile_id}"
        raise NotFound(detail)
    return Profile(**row)


async def create(call: Call[CreateProfile, NoQuery]) -> Profile:
    """Add a profile."""
    body = call.body
    profile_id = check_chosen("prof", body.id) if body.id is not None else new_id("prof")
    default_lifetime_s = body.default_lifetime_s or body.max_lifetime_s
    if default_lifetime_s > body.max_lifetime_s:
        raise InvalidInput.of("default_lifetime_s", "is longer than max_lifetime_s")
    row = {**msgspec.to_builtins(body), "id": profile_id, "default_lifetime_s": default_lifetime_s}
    try:
        await store.insert(call.tx, row)
    except driver.UniqueViolation as error:
        detail = f"a profile with the id {profile_id} or the name {body.name!r} is there already"
        raise Conflict(detail) from error
    except driver.ForeignKeyViolation as error:
        raise InvalidInput.of("default_issuer_id", f"there is no issuer {body.default_issuer_id}") from error
    details = audit.described(body, id=profile_id, default_lifetime_s=default_lifetime_s)
    await audit.record(call.tx, call.actor, "profile.created", "profile", profile_id, details, call.request_id)
    return await _get(call.tx, profile_id)


ROUTES = [
    Route("GET", "/api/v1/profiles", list_profiles, Permission.READ, "List profiles", Page[Profile], query=PageQuery),
    Route("GET", "/api/v1/profiles/{profile_id}", get, Permission.READ, "Get a profile", Profile, errors=(NotFound,)),
    Route(
        "POST",
        "/api/v1/profiles",
        create,
        Permission.PROFILES_WRITE,
        "Add a profile",
        Profile,
        request=CreateProfile,
        status=201,
        errors=(Conflict,),
    ),
]
