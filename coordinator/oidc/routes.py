"""Signing in and out over HTTP. A browser goes these ways itself, so that answers are redirects with cookies."""

from __future__ import annotations

import msgspec
from werkzeug.http import parse_cookie

from coordinator.oidc import pending, service
from coordinator.sessions import service as sessions
from coordinator.web.table import Access, Call, NoBody, NoQuery, Raw, Route, Strict
from core.errors import Conflict, Forbidden, NotFound, Unauthenticated


class LoginQuery(Strict):
    """Where to go after signing in: a path of this coordinator."""

    return_to: str = "/"


class CallbackQuery(msgspec.Struct):
    """What the provider sends back. What else it may add is ignored, as RFC 6749 section 4.1.2 wants."""

    state: str
    code: str = ""
    iss: str = ""
    error: str = ""


class LoggedOut(msgspec.Struct):
    """The session has ended; ``location`` is where the browser goes to end the provider's own one, null if nowhere."""

    location: str | None


async def login(call: Call[NoBody, LoginQuery]) -> Raw:
    """Send the browser to the identity provider."""
    location, begun = await service.begin(call.ctx, call.query.return_to)
    sealed = pending.seal(call.ctx.sealer, begun)
    age_s = int(pending.PATIENCE.total_seconds())
    return _redirect(location, sessions.cookie(pending.cookie_name(begun.state), sealed, age_s))


async def callback(call: Call[NoBody, CallbackQuery]) -> Raw:
    """Take the provider's answer, begin a session, and go on where the sign-in was begun."""
    query, name = call.query, pending.cookie_name(call.query.state)
    brought = parse_cookie(call.headers.get("Cookie", "")).get(name, "")
    browser = service.Browser(brought, sessions.value_of(call.headers), call.headers.get("User-Agent", ""))
    answer = service.Answer(query.state, query.code, query.iss, query.error)
    done = await service.finish(call.ctx, answer, browser, call.request_id)
    return _redirect(done.return_to, sessions.cookie(sessions.COOKIE, done.session), sessions.cookie(name, None))


async def logout(call: Call[NoBody, NoQuery]) -> Raw:
    """End the caller's session here; the answer says where it is ended at the provider."""
    if not call.actor.session:
        detail = "a key has no session to end; DELETE /api/v1/api-keys/{key_id} switches a key off"
        raise Conflict(detail)
    location = await service.sign_out(call.ctx, call.actor, call.request_id)
    body = msgspec.json.encode(LoggedOut(location or None))
    return Raw(body, "application/json", {"Set-Cookie": sessions.cookie(sessions.COOKIE, None)})


def _redirect(location: str, *cookies: str) -> Raw:
    return Raw(b"", "text/plain", {"Location": location, "Set-Cookie": list(cookies)})


ROUTES = [
    Route("GET", "/auth/oidc/login", login, Access.OPEN, "Sign in", None, query=LoginQuery, status=302,
          errors=(NotFound,), content_type="text/plain"),
    Route("GET", "/auth/oidc/callback", callback, Access.OPEN, "Come back from the identity provider", None,
          query=CallbackQuery, status=302, errors=(NotFound, Unauthenticated, Forbidden), content_type="text/plain"),
    Route("POST", "/auth/logout", logout, Access.ANY_KEY, "Sign out", LoggedOut, errors=(Conflict,)),
]  # fmt: skip
