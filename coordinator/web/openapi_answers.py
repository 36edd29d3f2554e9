"""What the routes answer, in OpenAPI: content, headers, and every problem with its type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, TypeAlias, get_origin

import msgspec

from coordinator.web import examples, problems, tables
from coordinator.web.paging import Page
from coordinator.web.table import Access, NoBody, Route
from core import errors
from core.errors import CertctlError
from core.problems import status_of

Schemas: TypeAlias = dict[Any, dict[str, Any]]
"""By type, the reference to its schema."""

_TEXT = {"type": "string"}
HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {
        "description": "What the log and the audit trail have this request under.",
        "required": True,
        "schema": {"type": "string", "pattern": "^req-[a-z0-9]+$"},
    },
    "RateLimit": {
        "description": 'What is left of the caller\'s budget, e.g. "credential";r=199;t=1'
        " (draft-ietf-httpapi-ratelimit-headers-10).",
        "schema": _TEXT,
    },
    "RateLimit-Policy": {"description": 'The budget, e.g. "credential";q=200;w=4.', "schema": _TEXT},
    "Retry-After": {
        "description": "In how many seconds it is worth trying again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "ETag": {"description": "The thing's revision, for If-Match.", "schema": {"type": "string", "pattern": '^".*"$'}},
    "Idempotency-Replayed": {
        "description": "This is the answer to an earlier request with this Idempotency-Key.",
        "schema": {"const": "true"},
    },
    "WWW-Authenticate": {
        "description": "The challenge: Bearer (RFC 6750 section 3).",
        "required": True,
        "schema": _TEXT,
    },
    "Cache-Control": {"description": "How long caches may keep it.", "schema": _TEXT},
    "Location": {"description": "Where to go on.", "required": True, "schema": _TEXT},
    "Set-Cookie": {"description": "The session's cookie.", "schema": _TEXT},
}
_EVERYWHERE = ("X-Request-ID", "RateLimit", "RateLimit-Policy")
_OF_PROBLEMS: dict[int, tuple[str, ...]] = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}


def responses(route: Route, schemas: Schemas) -> dict[str, Any]:
    """Return the answers of a route by status."""
    found: dict[str, dict[str, Any]] = {str(route.status): _success(route, schemas)}
    if route.empty:
        found["204"] = _answer("Nothing is left to do.", {}, _EVERYWHERE)
    if route.may_take_longer:
        found["202"] = _answer("Taken on; it is not done yet.", _content(route, schemas), _EVERYWHERE)
    for status, kinds in _by_status(errors_of(route)).items():
        name = _name(kinds)
        if status == HTTPStatus.CONFLICT and route.conflict is not None:
            found[str(status)] = _problem(kinds, schemas, more=route.conflict)
        else:
            found[str(status)] = {"$ref": f"#/components/responses/{name}"}
    return dict(sorted(found.items()))


def problem_responses(routes: Sequence[Route], schemas: Schemas) -> dict[str, Any]:
    """Return the answers that are problems, by the names of their kinds."""
    found: dict[str, Any] = {}
    for route in routes:
        for status, kinds in _by_status(errors_of(route)).items():
            if status != HTTPStatus.CONFLICT or route.conflict is None:
                found[_name(kinds)] = _problem(kinds, schemas)
    return dict(sorted(found.items()))


def _success(route: Route, schemas: Schemas) -> dict[str, Any]:
    done = {201: "Made", 202: "Taken on", 204: "Done; there is nothing to say", 302: "Go on elsewhere"}
    headers = [*_EVERYWHERE]
    if route.status == HTTPStatus.FOUND:
        headers += ["Location", "Set-Cookie"]
    if _has_revision(route.response):
        headers.append("ETag")
    if route.creates:
        headers.append("Idempotency-Replayed")
    if route.content_type.startswith("application/pkix"):
        headers += ["ETag", "Cache-Control"]
    return _answer(done.get(route.status, "Done"), _content(route, schemas), headers)


def _answer(description: str, content: dict[str, Any], headers: Iterable[str]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": description}
    answer["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    return {**answer, "content": content} if content else answer


def _content(route: Route, schemas: Schemas) -> dict[str, Any]:
    if route.status in {HTTPStatus.NO_CONTENT, HTTPStatus.FOUND}:
        return {}
    if route.response is None:
        return {kind: {"schema": _json_or_bytes(kind)} for kind in (route.content_type, *route.other_content_types)}
    schema = schemas[route.response]
    content: dict[str, Any] = {route.content_type: {"schema": schema, **examples.reference(schema)}}
    if get_origin(route.response) is Page:
        content |= {name.partition(";")[0]: {"schema": {"type": "string"}} for name in tables.TYPES.values()}
    return content


def _json_or_bytes(content_type: str) -> dict[str, Any]:
    if content_type == "application/json":
        return {"type": "object"}
    text = content_type.startswith("text/") or "pem" in content_type
    return {"type": "string"} if text else {"type": "string", "contentMediaType": content_type}


def _has_revision(response: Any) -> bool:
    kind = get_origin(response) or response
    return kind is not Page and isinstance(kind, type) and hasattr(kind, "revision")


def errors_of(route: Route) -> list[type[CertctlError]]:
    """Return the kinds of errors that a route answers with: its own, and those that any of its form may meet."""
    common: list[type[CertctlError]] = [
        errors.InvalidInput,
        errors.TooLarge,
        errors.TooManyRequests,
        errors.Transient,
        errors.DeadlineExceeded,
    ]
    if route.access is not Access.OPEN:
        common += [errors.Unauthenticated, errors.Forbidden]
    if "{" in route.path:
        common.append(errors.NotFound)
    if route.request is not NoBody:
        common.append(errors.UnsupportedMedia)
    if route.creates:
        common.append(errors.Refused)  # an Idempotency-Key of another request
    return list(dict.fromkeys([*common, *route.errors]))


def _by_status(kinds: Iterable[type[CertctlError]]) -> dict[int, list[type[CertctlError]]]:
    found: dict[int, list[type[CertctlError]]] = {}
    for kind in kinds:
        found.setdefault(status_of(kind), []).append(kind)
    return found


def _name(kinds: Sequence[type[CertctlError]]) -> str:
    return "Or".join(sorted(kind.__name__ for kind in kinds))


def _problem(
    kinds: Sequence[type[CertctlError]], schemas: Schemas, *, more: type[msgspec.Struct] | None = None
) -> dict[str, Any]:
    """Return the answer that a kind of error gives; ``more`` are members that it adds (RFC 9457 section 3.2)."""
    status = status_of(kinds[0])
    types = [problems.type_of(kind) for kind in kinds]
    own = {"properties": {"type": {"enum": types}, "status": {"const": status}}}
    schema = {"allOf": [schemas[problems.Problem], own, *([schemas[more]] if more else [])]}
    added = examples.of_struct(more) if more else {}
    shown = {kind.__name__: {"value": {**_example(kind), **added}} for kind in kinds}
    content = {problems.CONTENT_TYPE: {"schema": schema, "examples": shown}}
    words = "; or ".join(f"{kind.title}: {_lowered(kind)}" for kind in kinds)
    return _answer(words, content, (*_EVERYWHERE, *_OF_PROBLEMS.get(status, ())))


def _lowered(kind: type[CertctlError]) -> str:
    first = (kind.__doc__ or "").strip().partition("\n")[0]
    return first[0].lower() + first[1:]


def _example(kind: type[CertctlError]) -> dict[str, Any]:
    wrong = kind is errors.InvalidInput
    error = kind("common_name: is required" if wrong else _lowered(kind).rstrip("."))
    if wrong:
        error.errors = (errors.FieldError("common_name", "is required"),)
    shown: dict[str, Any] = msgspec.to_builtins(problems.problem_of(error, "req-01k9f0c2m4v7"))
    return shown
