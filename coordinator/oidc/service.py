"""Signing in and out (OpenID Connect Core section 3.1, RFC 7636, RFC 9207; RP-Initiated Logout 1.0).

Each failure after the browser is known to have begun the sign-in goes into the audit trail with its reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import structlog

from coordinator.access.service import digest
from coordinator.audit import service as audit
from coordinator.oidc import claims, pending, store, tokens
from coordinator.oidc.pending import Pending
from coordinator.oidc.provider import Provider
from coordinator.sessions import service as sessions
from coordinator.sessions.service import Person
from coordinator.web.table import Actor
from core.errors import CertctlError, InvalidInput, NotFound, Unauthenticated
from core.secret import Secret

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger(__name__)
_MOST_TOKEN_IN_URL = 4096


class Answer(NamedTuple):
    """What the provider sends the browser back with; empty where it says nothing."""

    state: str
    code: str
    issuer: str
    error: str


class Browser(NamedTuple):
    """What a browser brings along: the cookie of its sign-in, the one of a session it had, and its name."""

    pending: str
    session: str
    user_agent: str


class SignedIn(NamedTuple):
    """A session that has begun, and where to go on."""

    session: Secret[str]
    return_to: str


def provider_of(ctx: Context) -> Provider:
    """Return the provider; raise ``NotFound`` when none is set up."""
    if ctx.provider is None:
        detail = "nobody can sign in here: no identity provider is set up (CERTCTL_OIDC_ISSUER); use an API key"
        raise NotFound(detail)
    return ctx.provider


async def begin(ctx: Context, return_to: str) -> tuple[str, Pending]:
    """Begin a sign-in; return where to send the browser, and what it has to remember."""
    provider = provider_of(ctx)
    begun = pending.begin(return_to, ctx.clock.now())
    query = {
        "response_type": "code",
        "client_id": provider.settings.client_id,
        "redirect_uri": provider.settings.redirect_url,
        "scope": " ".join(provider.settings.scopes),
        "state": begun.state,
        "nonce": begun.nonce,
        "code_challenge": begun.challenge,
        "code_challenge_method": "S256",
    }
    return _with(str((await provider.metadata()).authorization_endpoint), query), begun


async def finish(ctx: Context, answer: Answer, browser: Browser, request_id: str) -> SignedIn:
    """Take the provider's answer and begin a session; the same answer works once."""
    provider = provider_of(ctx)
    begun = pending.unseal(ctx.sealer, browser.pending, answer.state, ctx.clock.now())
    async with ctx.db.connection() as conn:
        if not await store.use_state(conn, digest(begun.state), pending.PATIENCE):
            raise InvalidInput.of("state", "was used already; start again at /auth/oidc/login")
    try:
        person, id_token = await _identify(ctx, provider, answer, begun)
    except CertctlError as error:
        await _record_failure(ctx, error, request_id)
        raise
    async with ctx.db.transaction() as tx:
        if browser.session:
            await sessions.forget(ctx, tx, browser.session, request_id)
        value = await sessions.begin(ctx, tx, person, id_token, browser.user_agent, request_id)
    return SignedIn(value, begun.return_to)


async def sign_out(ctx: Context, actor: Actor, request_id: str) -> str:
    """End the caller's session; return where the provider wants the browser to go, empty when it does not."""
    async with ctx.db.transaction() as tx:
        ended = await sessions.end(ctx, tx, actor, actor.session, "person.logout", request_id)
    provider = ctx.provider
    if provider is None or provider.settings.issuer != ended.issuer:
        return ""
    try:
        endpoint = (await provider.metadata()).end_session_endpoint
    except CertctlError as error:
        log.warning("provider_not_told_of_logout", detail=error.detail)
        return ""
    query = {"client_id": provider.settings.client_id}
    if ended.id_token is not None and len(ended.id_token.reveal()) <= _MOST_TOKEN_IN_URL:
        query["id_token_hint"] = ended.id_token.reveal()
        query["post_logout_redirect_uri"] = f"{ctx.settings.url}/"  # without the hint some providers refuse it
    return _with(endpoint, query) if endpoint else ""


async def purge(ctx: Context) -> None:
    """Forget sign-ins that are too old to come back."""
    async with ctx.db.connection() as conn:
        await store.purge(conn)


async def _identify(ctx: Context, provider: Provider, answer: Answer, begun: Pending) -> tuple[Person, Secret[str]]:
    metadata, settings = await provider.metadata(), provider.settings
    # Before anything else of the answer is believed: is it the provider's that was asked (RFC 9207 section 2.4)?
    if answer.issuer != settings.issuer and (answer.issuer or metadata.authorization_response_iss_parameter_supported):
        detail = "the answer comes from another identity provider than the one that was asked; sign in again"
        raise Unauthenticated(detail)
    if answer.error or not answer.code:
        told = "".join(c for c in answer.error[:60] if c.isalnum() or c in "_-") or "no code"
        raise Unauthenticated(f"the identity provider did not sign you in ({told})")
    got = await provider.exchange(answer.code, Secret(begun.verifier))
    expected = tokens.Expected(settings.issuer, settings.client_id, begun.nonce, ctx.clock.now())
    said = await _verified(provider, got.id_token, expected, got.access_token)
    if claims.lacks_claims(settings, said):
        more = await provider.userinfo(got.access_token)
        if more.get("sub") == said["sub"]:  # OpenID Connect Core section 5.3.2
            said = {**more, **said}
    return claims.person_of(settings, said), got.id_token


async def _verified(
    provider: Provider, token: Secret[str], expected: tokens.Expected, access_token: Secret[str]
) -> dict[str, Any]:
    try:
        return tokens.verify(token, await provider.keys(), expected, access_token)
    except tokens.UnknownKey:
        return tokens.verify(token, await provider.keys(again=True), expected, access_token)


async def _record_failure(ctx: Context, error: CertctlError, request_id: str) -> None:
    details = {"error": type(error).__name__, "detail": error.detail}
    async with ctx.db.transaction() as tx:
        await audit.record(tx, Actor(), "person.login_failed", "person", "", details, request_id)


def _with(url: str, query: dict[str, str]) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"
