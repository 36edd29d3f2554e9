"""The ACME server over HTTP, as a plain ASGI function in front of the framework (RFC 8555 section 6).

A client needs seven requests for a certificate, and each of them little: so there is no framework around them. One
request is: nonce, account and signature, then a handler in one transaction with its audit event. A refused request
has used its nonce up as well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast
from urllib.parse import parse_qs

import msgspec
import structlog
from quart import Quart
from werkzeug.datastructures import Headers

from coordinator.database.connection import Transaction
from coordinator.enrollment.acme import (
    accounts,
    authorizations,
    certificates,
    counting,
    jws,
    nonces,
    orders,
    problems,
    store,
    validating,
)
from coordinator.enrollment.acme.calls import Call, Reply
from coordinator.enrollment.acme.problems import Problem
from coordinator.limits import addresses
from coordinator.limits import service as limits
from coordinator.limits.buckets import Buckets
from coordinator.profiles import service as profiles
from coordinator.profiles.service import Profile
from coordinator.web.headers import HSTS, SECURITY
from coordinator.web.later import Message, Receive, Send
from core.errors import CertctlError, TooLarge
from core.ids import new_id

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger()
PREFIX = "/acme/"
_JOSE = "application/jose+json"
_LONGEST_ID = 128
By = Literal["jwk", "kid", "either"]
Handler = Callable[[Call, Transaction], Awaitable[Reply]]
After = Callable[[], Awaitable[Reply]] | None


class Route(NamedTuple):
    """A signed request: who signs it, and what answers it within a transaction; its answer may go on after that.

    ``about`` finds what its path names in the same statement as who signed, when that is only read.
    """

    operation: str
    by: By
    handler: Callable[[Call, Transaction], Awaitable[tuple[Reply, After]]]
    about: str = ""


def _at_once(handler: Handler) -> Callable[[Call, Transaction], Awaitable[tuple[Reply, After]]]:
    async def answer(call: Call, tx: Transaction) -> tuple[Reply, After]:
        return await handler(call, tx), None

    return answer


async def _finalize(call: Call, tx: Transaction) -> tuple[Reply, After]:
    order, job_id = await orders.finalize(call, tx)
    return Reply(None), lambda: orders.finished(call, order, job_id)


async def _challenge(call: Call, tx: Transaction) -> tuple[Reply, After]:
    reply, row = await authorizations.respond(call, tx)
    if row is not None:
        asked = validating.asked_of(call, row)
        tx.after_commit(lambda: validating.begin(call.ctx, asked))
    return reply, None


POSTS: dict[tuple[str, ...], Route] = {
    ("new-account",): Route("new_account", "jwk", _at_once(accounts.create)),
    ("account", "{account_id}"): Route("account", "kid", _at_once(accounts.update)),
    ("account", "{account_id}", "orders"): Route("orders", "kid", _at_once(accounts.list_orders)),
    ("new-order",): Route("new_order", "kid", _at_once(orders.create)),
    ("order", "{order_id}"): Route("order", "kid", _at_once(orders.show), store.ORDER_OF),
    ("order", "{order_id}", "finalize"): Route("finalize", "kid", _finalize),
    ("new-authz",): Route("new_authz", "kid", _at_once(authorizations.create)),
    ("authz", "{authorization_id}"): Route("authz", "kid", _at_once(authorizations.show), store.AUTHORIZATION_OF),
    ("challenge", "{authorization_id}", "{type}"): Route("challenge", "kid", _challenge),
    ("cert", "{version_id}"): Route("cert", "kid", _at_once(certificates.download), store.CHAINS_OF),
    ("cert", "{version_id}", "{alternate}"): Route("cert", "kid", _at_once(certificates.download), store.CHAINS_OF),
    ("key-change",): Route("key_change", "kid", _at_once(accounts.change_key)),
    ("revoke-cert",): Route("revoke_cert", "either", _at_once(certificates.revoke)),
}
"""Every resource that is asked for with a signature, below ``/acme/profile/{id}/`` and ``/acme/``."""
GETS = {("directory",): "directory", ("new-nonce",): "new_nonce", ("renewal-info", "{certificate_id}"): "renewal_info"}
"""Those that are open to everybody."""


class _Incoming(NamedTuple):
    """A signed request as it came in; ``url`` is what it has to be signed for."""

    place: _Place
    route: Route
    path: Mapping[str, str]
    query: Mapping[str, str]
    url: str
    body: bytes
    request_id: str
    address: str


class _Place(NamedTuple):
    """Where a request goes: the profile's id, the URL of its directory's parent, and the path below."""

    profile_id: str
    base: str
    below: tuple[str, ...]


def install(app: Quart, ctx: Context) -> None:
    """Answer what is below ``/acme/`` here, if the server is switched on."""
    if not ctx.settings.acme.enabled:
        return
    inner = app.asgi_app

    async def outer(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            await _answer(ctx, scope, receive, send)
        else:
            await inner(scope, receive, send)  # type: ignore[arg-type]  # plain ASGI, see ``coordinator.web.later``

    app.asgi_app = outer  # type: ignore[method-assign, assignment]  # the framework's own way for middleware


async def _answer(ctx: Context, scope: Message, receive: Receive, send: Send) -> None:
    request_id, operation = new_id("req"), ""
    structlog.contextvars.bind_contextvars(request_id=request_id)
    links = list[str]()
    try:
        place = _place(ctx, scope["path"])
        links.append(f'<{place.base}/directory>;rel="index"')
        operation, reply = await _dispatch(ctx, place, scope, receive, request_id)
        status, body, headers = reply.status, reply.value, dict(reply.headers)
        links += reply.links
        if not isinstance(body, bytes):
            body, headers = msgspec.json.encode(body), {"Content-Type": "application/json", **headers}
    except Problem as error:
        status, body, headers = error.code, error.encode(), dict(error.headers)
        headers |= {"Content-Type": "application/problem+json"}
        log.info("acme_refused", path=scope["path"][:200], error=error.kind, detail=error.detail)
    except Exception:
        log.exception("request_failed", path=scope["path"][:200])
        detail = f"an unexpected error; the coordinator's log tells more under request id {request_id}"
        status, body = 500, Problem("serverInternal", detail).encode()
        headers = {"Content-Type": "application/problem+json"}
    if operation:
        counting.request(operation, failed=status >= HTTPStatus.BAD_REQUEST)
    if operation not in {"directory", "renewal_info"}:
        headers["Replay-Nonce"] = nonces.make(ctx.sealer)
    await _send(send, scope, status, body, {**headers, "X-Request-ID": request_id}, links)


async def _send(
    send: Send, scope: Message, status: int, body: bytes, fields: Mapping[str, str], links: list[str]
) -> None:
    secure = HSTS if scope["scheme"] == "https" else {}
    merged = {**SECURITY, **secure, **fields}
    if status != HTTPStatus.NO_CONTENT:
        merged["Content-Length"] = str(len(body))
    pairs = [*merged.items(), *(("Link", link) for link in links)]
    headers = [(name.lower().encode("latin1"), value.encode("latin1")) for name, value in pairs]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body, "more_body": False})


def _place(ctx: Context, path: str) -> _Place:
    """Return where a path leads; raise ``Problem`` where there is no directory."""
    settings, parts = ctx.settings, path.removeprefix(PREFIX).split("/")
    if len(parts) > 1 and not (parts[1].isascii() and parts[1].isprintable() and len(parts[1]) <= _LONGEST_ID):
        raise Problem("malformed", "there is no such resource; begin at the directory", HTTPStatus.NOT_FOUND)
    if parts[0] == "profile" and len(parts) > 1:
        return _Place(parts[1], f"{settings.url}/acme/profile/{parts[1]}", tuple(parts[2:]))
    if not settings.acme.default_profile:
        detail = f"this server has a directory for each profile: {settings.url}/acme/profile/ID/directory"
        raise Problem("userActionRequired", detail)
    return _Place(settings.acme.default_profile, f"{settings.url}/acme", tuple(parts))


def _matched(table: Mapping[tuple[str, ...], Any], below: tuple[str, ...]) -> tuple[Any, dict[str, str]] | None:
    """Return an entry and the values of its parameters."""
    for pattern, entry in table.items():
        if len(pattern) == len(below):
            pairs = list(zip(pattern, below, strict=True))
            if all(place.startswith("{") or place == part for place, part in pairs):
                values = {place.strip("{}"): part for place, part in pairs if place.startswith("{")}
                if all(part and part.isascii() and len(part) <= _LONGEST_ID for part in values.values()):
                    return entry, values
    return None


async def _dispatch(
    ctx: Context, place: _Place, scope: Message, receive: Receive, request_id: str
) -> tuple[str, Reply]:
    method = scope["method"]
    posted, got = _matched(POSTS, place.below), _matched(GETS, place.below)
    if posted is None and got is None:
        raise Problem("malformed", "there is no such resource; begin at the directory", HTTPStatus.NOT_FOUND)
    allowed = {"POST"} if got is None else {"GET", "HEAD"}
    if method not in allowed:
        headers = {"Allow": ", ".join(sorted(allowed))}
        raise Problem("malformed", f"{method} is not allowed here", HTTPStatus.METHOD_NOT_ALLOWED, headers=headers)
    peer = (scope.get("client") or ("", 0))[0]
    fields = Headers([(name.decode("latin1"), value.decode("latin1")) for name, value in scope["headers"]])
    address = addresses.subject_of(peer, fields, ctx.settings.trusted_proxies)
    if got is not None:
        operation, path = got
        _take(ctx, ctx.budgets.open, "open", f"{address} acme")
        try:
            return operation, await _open(ctx, place, operation, path, method)
        except Problem:
            counting.request(operation, failed=True)
            raise
    assert posted is not None  # noqa: S101 - one of both is there
    route, path = posted
    if fields.get("Content-Type", "").partition(";")[0].strip() != _JOSE:
        raise Problem(
            "unsupportedContentType", f"the body is {fields.get('Content-Type', 'without a type')}; send {_JOSE}"
        )
    _check_failures(ctx, address)
    try:
        body = await _read(receive, ctx.settings.max_body_bytes)
        text = scope["query_string"].decode("latin1")
        query = {name: values[0] for name, values in parse_qs(text).items()}
        url = ctx.settings.url + scope["path"] + (f"?{text}" if text else "")
        return route.operation, await _signed(ctx, _Incoming(place, route, path, query, url, body, request_id, address))
    except CertctlError as error:
        counting.request(route.operation, failed=True)
        raise problems.of(error) from error
    except Problem as error:
        counting.request(route.operation, failed=True)
        if error.kind in {"unauthorized", "malformed", "accountDoesNotExist"} and ctx.budgets.on:
            ctx.budgets.failures.take(address)
        raise


def _take(ctx: Context, buckets: Buckets, scope: str, subject: str) -> None:
    if not ctx.budgets.on:
        return
    standing = buckets.take(subject)
    if standing.wait_s:
        refused = limits.refused(scope, "too many requests", standing.wait_s)
        raise problems.of(refused)


def _check_failures(ctx: Context, address: str) -> None:
    """Raise ``Problem`` for an address whose failures are used up, except for some that may be its neighbours'."""
    if ctx.budgets.on and ctx.budgets.failures.wait_s(address):
        _take(ctx, ctx.budgets.chances, "address", address)


async def _read(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise TooLarge("the client has gone")
        body += message.get("body", b"")
        if len(body) > most:
            detail = f"the body is larger than {most} bytes (CERTCTL_MAX_BODY_SIZE)"
            raise TooLarge(detail)
        if not message.get("more_body", False):
            return bytes(body)


async def _open(ctx: Context, place: _Place, operation: str, path: Mapping[str, str], method: str) -> Reply:
    """Answer what needs no signature."""
    if operation == "renewal_info":
        if not ctx.settings.acme.ari:
            raise Problem("malformed", "this server gives no renewal information", HTTPStatus.NOT_FOUND)
        told, _ = await certificates.renewal_info(ctx, path["certificate_id"])
        return Reply(told, headers={"Retry-After": str(round(ctx.settings.acme.ari_poll.total_seconds()))})
    async with ctx.db.connection() as conn:
        profile = _usable(await profiles.get(conn, place.profile_id))
    if operation == "new_nonce":
        return Reply(b"", HTTPStatus.OK if method == "HEAD" else HTTPStatus.NO_CONTENT)
    return Reply(directory(ctx, profile, place.base))


def directory(ctx: Context, profile: Profile, base: str) -> dict[str, Any]:
    """Return a profile's directory (section 7.1.1)."""
    settings = ctx.settings.acme
    meta: dict[str, Any] = {"profiles": {profile.id: f"{ctx.settings.url}/api/docs"}}
    if settings.terms_url:
        meta["termsOfService"] = settings.terms_url
    if settings.website:
        meta["website"] = settings.website
    if settings.caa_identities:
        meta["caaIdentities"] = list(settings.caa_identities)
    meta["externalAccountRequired"] = accounts.eab_required(ctx, profile)
    return {
        "newNonce": f"{base}/new-nonce",
        "newAccount": f"{base}/new-account",
        "newOrder": f"{base}/new-order",
        "newAuthz": f"{base}/new-authz",
        "revokeCert": f"{base}/revoke-cert",
        "keyChange": f"{base}/key-change",
        **({"renewalInfo": f"{base}/renewal-info"} if settings.ari else {}),
        "meta": meta,
    }


def _usable(profile: Profile | None) -> Profile:
    """Return a profile; raise ``Problem`` for none, or one that is switched off."""
    if profile is None or not profile.enabled:
        detail = "there is no such profile, or it is switched off; ask the server's operator for a directory"
        raise Problem("userActionRequired", detail, HTTPStatus.NOT_FOUND)
    return profile


async def _signed(ctx: Context, incoming: _Incoming) -> Reply:
    """Answer a signed request; its nonce is used up whatever comes of it."""
    request, keep = jws.read(incoming.body), ctx.settings.acme.nonce_ttl
    nonce = nonces.read(ctx.sealer, request.header.nonce, keep)
    if nonce is None:
        raise Problem("badNonce", "the nonce is not known here or has run out; repeat the request with a new one")
    try:
        jws.check_header(request.header, incoming.url, incoming.route.by)
        async with _opened(ctx, request) as tx:
            call = await _enter(ctx, tx, nonce, request, incoming)
            reply, after = await incoming.route.handler(call, tx)
    except (Problem, CertctlError) as error:
        if not (isinstance(error, Problem) and error.kind == "badNonce"):
            async with ctx.db.connection() as conn:
                await store.use_nonce(conn, nonce, 2 * keep)
        raise
    return reply if after is None else await after()


def _opened(ctx: Context, request: jws.Request) -> AbstractAsyncContextManager[Transaction]:
    """Open what a handler works in: what only reads has no payload, and needs no transaction but its statements'."""
    if request.payload:
        return ctx.db.transaction()
    return cast("AbstractAsyncContextManager[Transaction]", ctx.db.connection())


async def _enter(ctx: Context, tx: Transaction, nonce: bytes, request: jws.Request, incoming: _Incoming) -> Call:
    """Use the nonce up and return the call of who signed; raise ``Problem``."""
    place, header, keep = incoming.place, request.header, 2 * ctx.settings.acme.nonce_ttl
    find = incoming.route.about if not request.payload else ""
    about = (find, next(iter(incoming.path.values()))) if find else store.NOTHING
    row = await store.enter(tx, nonce, keep, place.profile_id, _account_id(ctx, place, header), about)
    if not row["fresh"]:
        raise Problem("badNonce", "the nonce was used already; repeat the request with a new one")
    profile, account = _usable(msgspec.convert(row["profile"], Profile | None)), None
    if header.jwk is None:
        account = row["account"]
        if account is None:
            raise Problem("accountDoesNotExist", "there is no account with this URL")
        if account["status"] != "valid":
            raise Problem("unauthorized", f"the account is {account['status']}")
        _take(ctx, ctx.budgets.callers, "credential", f"acme:{account['id']}")
    else:
        _take(ctx, ctx.budgets.sign_ins, "sign-in", f"{incoming.address} acme")
    key = jws.read_key(header.jwk if account is None else account["jwk"], header.alg)
    jws.verify(request, key)
    thumbprint = jws.thumbprint(key) if account is None else str(account["thumbprint"])
    return Call(
        ctx=ctx,
        profile=profile,
        base=place.base,
        path=incoming.path,
        query=incoming.query,
        request=request,
        key=key,
        thumbprint=thumbprint,
        account=account,
        found=row if row.get("id") is not None else None,
        request_id=incoming.request_id,
    )


def _account_id(ctx: Context, place: _Place, header: jws.Header) -> str:
    """Return the account that a kid names, by either URL of its profile; empty for none of ours."""
    bases = {place.base, f"{ctx.settings.url}/acme/profile/{place.profile_id}"}
    if place.profile_id == ctx.settings.acme.default_profile:
        bases.add(f"{ctx.settings.url}/acme")
    before, _, account_id = header.kid.rpartition("/account/")
    return account_id if before in bases else ""
