"""Sessions of people: a random value in a cookie, of which only a digest is stored; the same on every coordinator.

What another site can make a browser do is send the cookie along. So a session changes something only with a header that
this site alone can set (``X-CSRF-Token``, bound to the session) and when the browser says where the request comes from
(Fetch Metadata, RFC 6454). API keys are not sent by browsers on their own, and need none of this.

A session begins with a new value at every login, never with one that the browser brought: there is none to fixate.
"""

from __future__ import annotations

import base64
import hmac
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from werkzeug.datastructures import Headers
from werkzeug.http import parse_cookie

from coordinator.access.service import digest, new_credential, scope_of
from coordinator.audit import service as audit
from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row
from coordinator.database.sealed import SealedColumn
from coordinator.sessions import store
from coordinator.web.table import Actor
from core.errors import Forbidden, Misconfigured, NotFound, Unauthenticated
from core.ids import new_id
from core.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.context import Context

COOKIE = "__Host-certctl"
PREFIX = "cts_"
CSRF_HEADER = "X-CSRF-Token"
_ATTRIBUTES = "Path=/; Secure; HttpOnly; SameSite=Lax"
_SAFE = frozenset({"GET", "HEAD"})


class Person(NamedTuple):
    """Somebody as the identity provider names them, and what that gives them here; ``teams`` None where any."""

    issuer: str
    subject: str
    name: str
    email: str
    role: str
    teams: tuple[str, ...] | None = None


class Ended(NamedTuple):
    """A session that was just ended: who had signed in where; the token tells the provider so."""

    issuer: str
    id_token: Secret[str] | None


async def begin(
    ctx: Context, tx: Transaction, person: Person, id_token: Secret[str] | None, user_agent: str, request_id: str
) -> Secret[str]:
    """Begin a session for somebody who has just signed in; return the cookie's value."""
    teams = None if person.teams is None else list(person.teams)
    person_id = await store.upsert_person(tx, new_id("per"), {**person._asdict(), "teams": teams})
    session_id, value = new_id("ses"), new_credential(PREFIX)
    row = {
        "id": session_id,
        "person_id": person_id,
        "digest": digest(value.reveal()),
        "role": person.role,
        "teams": teams,
        "sealed_id_token": _sealed(ctx, session_id, id_token),
        "user_agent": user_agent[:200],
    }
    await store.insert(tx, row, ctx.settings.session_lifetime)
    actor = Actor("person", person_id, person.name, person.role)
    details = {"session": session_id, "issuer": person.issuer, "role": person.role, "teams": teams}
    await audit.record(tx, actor, "person.login", "person", person_id, details, request_id)
    return value


def value_of(headers: Headers) -> str:
    """Return the session's value out of a request's cookies; empty when there is none."""
    return parse_cookie(headers.get("Cookie", "")).get(COOKIE, "")


async def identify(ctx: Context, value: str, method: str, headers: Headers) -> Actor:
    """Return who a session is; raise ``Unauthenticated``, or ``Forbidden`` for what another site may have sent."""
    wanted = digest(value)
    async with ctx.db.connection() as conn:
        rows = await store.candidates(conn, wanted, ctx.settings.session_idle)
    for row in rows:
        if hmac.compare_digest(row["digest"], wanted):
            if method not in _SAFE:
                check_same_site(ctx, value, headers)
            ctx.uses.session(row["id"])
            return _actor(row)
    detail = "this session has ended; sign in again"
    raise Unauthenticated(detail)


def csrf_token(value: str) -> str:
    """Return what a page has to send along with a change; it follows from the session, so it is not stored."""
    return base64.urlsafe_b64encode(hmac.digest(value.encode(), b"certctl csrf", "sha256")).decode().rstrip("=")


def check_same_site(ctx: Context, value: str, headers: Headers) -> None:
    """Raise ``Forbidden`` unless a change comes from a page of this coordinator, in this session."""
    if not hmac.compare_digest(headers.get(CSRF_HEADER, "").encode(), csrf_token(value).encode()):
        detail = f"a session changes something only with the header {CSRF_HEADER}; GET /api/v1/auth/check gives it"
        raise Forbidden(detail)
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if (site is None and origin is None) or site not in {None, "same-origin"} or origin not in {None, _origin(ctx)}:
        detail = f"a session changes something only from a page of {_origin(ctx)} (CERTCTL_SERVER_URL)"
        raise Forbidden(detail)


async def end(ctx: Context, tx: Transaction, actor: Actor, session_id: str, action: str, request_id: str) -> Ended:
    """End a session; raise ``NotFound`` when it has ended, or reaches further than the actor."""
    row = await store.get(tx, session_id)
    removed = await store.remove(tx, session_id) if row and actor.scope.covers(scope_of(row)) else None
    if removed is None:
        detail = f"there is no session {session_id}"
        raise NotFound(detail)
    details = {"session": session_id}
    await audit.record(tx, actor, action, "person", removed["person_id"], details, request_id)
    return Ended(removed["issuer"], _id_token(ctx, removed))


async def forget(ctx: Context, tx: Transaction, value: str, request_id: str) -> None:
    """End the session that a browser had before it signed in again, if it had one."""
    wanted = digest(value)
    for row in await store.candidates(tx, wanted, ctx.settings.session_idle):
        if hmac.compare_digest(row["digest"], wanted):
            await end(ctx, tx, _actor(row), row["id"], "person.logout", request_id)


def cookie(name: str, value: Secret[str] | None, max_age_s: int | None = None) -> str:
    """Return a ``Set-Cookie`` for this host alone (the ``__Host-`` prefix, RFC 6265bis); None removes it."""
    if value is None:
        return f"{name}=; {_ATTRIBUTES}; Max-Age=0"
    age = "" if max_age_s is None else f"; Max-Age={max_age_s}"
    return f"{name}={value.reveal()}; {_ATTRIBUTES}{age}"


async def touch(conn: Connection, seen: Mapping[str, float]) -> None:
    """Store how many seconds ago sessions were used."""
    await store.touch(conn, seen)


async def purge(ctx: Context) -> None:
    """Forget sessions that have ended."""
    async with ctx.db.connection() as conn:
        await store.purge(conn, ctx.settings.session_idle)


def _actor(row: Row) -> Actor:
    name = row["name"] or row["email"] or row["person_id"]
    return Actor("person", row["person_id"], name, row["role"], scope_of(row), row["expires_at"], row["id"])


def _sealed(ctx: Context, session_id: str, id_token: Secret[str] | None) -> bytes | None:
    return None if id_token is None else ctx.sealer.seal(Secret(id_token.reveal().encode()), _place(session_id))


def _id_token(ctx: Context, row: Row) -> Secret[str] | None:
    """Return the token of the login; None also when it was sealed under a key that is gone: then none is sent."""
    if row["sealed_id_token"] is None:
        return None
    try:
        return Secret(ctx.sealer.open(row["sealed_id_token"], _place(row["id"])).reveal().decode())
    except Misconfigured:
        return None


def _origin(ctx: Context) -> str:
    parts = urlsplit(ctx.settings.url)
    return f"https://{parts.netloc.lower().removesuffix(':443')}"


def _place(session_id: str) -> str:
    return f"sessions/{session_id}"


SEALED = SealedColumn("sessions", ("id",), "sealed_id_token", lambda row: _place(row["id"]))
