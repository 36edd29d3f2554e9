"""From the route table to Quart: identity, permission, size, typed body and query, problem answers.

This is one of the three places where a broad ``except`` is right: whatever a handler did not expect becomes a 500 that
tells the caller the request id, and the log everything else.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import structlog
from quart import Quart, Request, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from coordinator.access import service as access
from coordinator.idempotency import service as idempotency
from coordinator.metrics import service as metrics
from coordinator.sessions import service as sessions
from coordinator.web import etag, later, problems
from coordinator.web.admission import Visit
from coordinator.web.headers import HSTS, SECURITY
from coordinator.web.reading import read_again, read_body, read_query
from coordinator.web.table import Accepted, Access, Actor, Call, Later, Raw, Route, Streamed
from core import tracing
from core.crash import crash_point
from core.errors import CertctlError, Forbidden, NotFound, TooLarge, TooManyRequests
from core.ids import new_id

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger()
_PARAMETER = re.compile(r"\{(\w+)\}")
_LONGEST_ID = 128
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})


class Answer(NamedTuple):
    """What is sent: all of the body, or its pieces."""

    body: bytes | AsyncIterator[bytes]
    status: int
    headers: dict[str, Any]


def register(app: Quart, ctx: Context, routes: Iterable[Route]) -> None:
    """Add every route of the table to ``app``, and problem answers for whatever is not in it."""
    table = list(routes)
    for route in table:
        rule = _PARAMETER.sub(r"<\1>", route.path)
        endpoint = f"{route.method} {route.path}"
        app.add_url_rule(rule, endpoint, _view(ctx, route), methods=[route.method], provide_automatic_options=False)
    for path, methods in _literal(table).items():
        app.add_url_rule(path, f"* {path}", _no_such_method(methods), methods=_METHODS - methods,
                         provide_automatic_options=False)  # fmt: skip
    app.register_error_handler(HTTPException, _http_exception)


def _literal(table: list[Route]) -> dict[str, set[str]]:
    """Return the methods of paths that another route's parameter would match as well: they are not its values."""
    patterns = [re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route.path)) for route in table if "{" in route.path]
    found: dict[str, set[str]] = {}
    for route in table:
        if "{" not in route.path and any(re.fullmatch(pattern, route.path) for pattern in patterns):
            found.setdefault(route.path, set()).update({route.method, *(("HEAD",) if route.method == "GET" else ())})
    return found


def _no_such_method(methods: set[str]) -> Any:
    async def view() -> Response:
        raise MethodNotAllowed(sorted(methods))

    return view


def _view(ctx: Context, route: Route) -> Any:
    async def view(**path: str) -> Response:
        return _respond(await answer_to(ctx, route, request, path))

    return view


async def answer_to(ctx: Context, route: Route, request: Request, path: dict[str, str]) -> Answer:
    """Return the answer of a route to a request that matches it; ``path`` has the values of its parameters."""
    request_id = new_id("req")
    started = time.perf_counter()
    structlog.contextvars.bind_contextvars(request_id=request_id)  # each request is a task of its own
    visit = Visit(ctx, route, request)
    answer = _complete(await _answer(ctx, route, request, path, request_id, visit), request, request_id)
    answer.headers.update(visit.headers)
    metrics.http_request(route.method, route.path, answer.status, time.perf_counter() - started)
    return answer


async def _answer(
    ctx: Context, route: Route, request: Request, path: dict[str, str], request_id: str, visit: Visit
) -> Answer:
    try:
        visit.begin(path.get("agent_id", ""))
        actor = await authorize(ctx, route, request, path, visit)
        _check_path(path)
        body = await read_body(request, route, ctx.settings.max_body_bytes)
        query = read_query(request, route)
        call = Call(ctx, actor, body, query, path, request_id, request.headers, visit.address)
        with _traced(route, request):
            if route.creates:
                return await _create(route, request, call)
            return await _success(route, request, await route.handler(call))
    except CertctlError as refusal:
        error = visit.refused(refusal)
        tell = log.debug if isinstance(error, TooManyRequests) else log.info  # a flood is counted, not written down
        tell("request_refused", route=route.path, error=type(error).__name__, detail=error.detail)
        return Answer(*problems.answer(problems.problem_of(error, request_id), error.members))
    except RequestEntityTooLarge:
        too_large = TooLarge(f"the body is larger than {ctx.settings.max_body_bytes} bytes (CERTCTL_MAX_BODY_SIZE)")
        return Answer(*problems.answer(problems.problem_of(visit.refused(too_large), request_id)))
    except Exception:
        log.exception("request_failed", route=route.path)
        return Answer(*problems.answer(problems.internal_problem(request_id)))


def _traced(route: Route, request: Request) -> contextlib.AbstractContextManager[None]:
    """Trace a change, and whatever belongs to a trace already; callers that are not known begin and join none."""
    parent = request.headers.get(tracing.HEADER, "")
    if route.access is Access.OPEN or (route.method == "GET" and not parent):
        return contextlib.nullcontext()
    return tracing.span(f"{route.method} {route.path}", parent)


async def _success(route: Route, request: Request, result: Any) -> Answer:
    if isinstance(result, Later):
        later.keep(request, result)
        return Answer(b"", route.status, later.HEADERS)
    if isinstance(result, Streamed):
        first = await anext(result.pieces, b"")  # what is wrong shows before the status is sent
        headers = {"Content-Type": result.content_type, **result.headers}
        return Answer(_chained(first, result.pieces), route.status, headers)
    if isinstance(result, Raw):
        return Answer(result.content, route.status, {"Content-Type": result.content_type, **result.headers})
    if isinstance(result, Accepted):
        return _json(msgspec.json.encode(result.result), HTTPStatus.ACCEPTED, "")
    if result is None:
        return Answer(b"", HTTPStatus.NO_CONTENT, {})
    return _json(msgspec.json.encode(result), route.status, etag.of_answer(result))


async def _create(route: Route, request: Request, call: Call[Any, Any]) -> Answer:
    """Let a handler make something in one transaction with the answer that is kept for its ``Idempotency-Key``."""
    key, said = call.headers.get("Idempotency-Key"), f"{route.method} {request.full_path}\n".encode()
    async with call.ctx.db.transaction() as tx:
        if key is not None:
            asked = said + await read_again(request)
            kept = await idempotency.begin(call.ctx, tx, str(call.actor), key, asked)
            if kept is not None:
                return _json(kept, route.status, "", replayed=True)
        result = await route.handler(replace(call, opened=tx))
        answer = msgspec.json.encode(result)
        if key is not None:
            await idempotency.keep(call.ctx, tx, str(call.actor), key, answer)
        crash_point("request.answer_kept")
    crash_point("request.committed")
    return _json(answer, route.status, etag.of_answer(result))


def _json(body: bytes, status: int, tag: str, *, replayed: bool = False) -> Answer:
    headers = {"Content-Type": "application/json"}
    if tag:
        headers["ETag"] = tag
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    return Answer(body, status, headers)


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for piece in rest:
            yield piece
    finally:
        if isinstance(rest, AsyncGenerator):  # what it holds is let go at once when the caller has gone
            await rest.aclose()


async def authorize(ctx: Context, route: Route, request: Request, path: dict[str, str], visit: Visit) -> Actor:
    """Return who calls, or raise: nobody known, or known and not allowed."""
    if route.access is Access.OPEN:
        return Actor()
    actor = await _identify(ctx, request, visit.address)
    visit.known(actor)
    if route.access is Access.AGENT:
        if actor.kind != "agent":
            detail = "this route is for agents; nobody else can stand in for one"
            raise Forbidden(detail)
        if actor.id != path["agent_id"]:
            detail = "an agent can touch its own work only"
            raise Forbidden(detail)
        return actor
    if actor.kind == "agent":
        detail = "this route needs an API key; an agent's token opens the agent's own routes only"
        raise Forbidden(detail)
    if route.access is not Access.ANY_KEY and route.access not in actor.permissions:
        lacks = f"the role {actor.role!r} does not have the permission {route.access}"
        raise Forbidden(f"{lacks}; ask an administrator for a key that does")
    return actor


async def _identify(ctx: Context, request: Request, address: str) -> Actor:
    """Return who a request's credential stands for: a header that was set on purpose goes before the cookie."""
    authorization = request.headers.get("Authorization", "")
    value = "" if authorization else sessions.value_of(request.headers)
    if value:
        return await sessions.identify(ctx, value, request.method, request.headers)
    return await access.identify(ctx, authorization, address)


def _check_path(path: dict[str, str]) -> None:
    """Raise ``NotFound`` for an id that no row can have: PostgreSQL would not even take it as an argument."""
    for name, value in path.items():
        if not (value.isascii() and value.isprintable() and len(value) <= _LONGEST_ID):
            detail = f"there is no {name.removesuffix('_id')} with such an id: ids are short and plain ASCII"
            raise NotFound(detail)


def _complete(answer: Answer, request: Request, request_id: str) -> Answer:
    """Return the answer with the fields that every one has."""
    secure = HSTS if request.scheme == "https" else {}
    return answer._replace(headers={**SECURITY, **secure, **answer.headers, "X-Request-ID": request_id})


def _respond(answer: Answer) -> Response:
    return Response(answer.body, status=answer.status, headers=answer.headers)


async def _http_exception(error: HTTPException) -> Response:
    """Answer what never reached a route: unknown paths and methods."""
    request_id = new_id("req")
    wrong: CertctlError = NotFound(f"there is no {request.path} here; /api/v1/openapi.json lists every route")
    answer = Answer(*problems.answer(problems.problem_of(wrong, request_id)))
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        detail = f"{request.method} is not allowed here; allowed: {allowed}"
        problem = problems.Problem("about:blank", "Method not allowed", 405, detail, request_id)
        body, status, headers = problems.answer(problem)
        answer = Answer(body, status, {**headers, "Allow": allowed})
    return _respond(_complete(answer, request, request_id))
