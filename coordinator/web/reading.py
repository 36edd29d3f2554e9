"""What a request carries, as its route wants it: body and query, typed, or an error that names the field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any, get_type_hints

import msgspec
from quart import Request
from werkzeug.datastructures import Headers

from coordinator.web import problems
from coordinator.web.table import NoBody, NoQuery, Route
from core.decoding import UNKNOWN
from core.errors import InvalidInput, UnsupportedMedia

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d.*")
_NUL = "holds the character NUL, which cannot be stored; remove it"


async def read_body(request: Request, route: Route, max_bytes: int) -> Any:
    """Return the body as the route's struct; raise ``InvalidInput`` or ``UnsupportedMedia``."""
    if route.request is NoBody and not announced(request.headers):
        return NoBody()  # to wait for nothing would take a task of its own
    request.max_content_length = max_bytes
    data = await request.get_data(cache=route.creates, as_text=False)
    if route.request is NoBody:
        if data.strip() not in {b"", b"{}"}:
            raise InvalidInput.of("body", "is not read by this route; send none")
        return NoBody()
    if request.mimetype not in {"application/json", ""}:
        detail = f"the body is {request.mimetype}; send application/json"
        raise UnsupportedMedia(detail)
    try:
        body = msgspec.json.decode(data or b"{}", type=route.request)
    except msgspec.MsgspecError as error:
        raise problems.decode_error(error) from error
    except UnicodeDecodeError as error:
        raise InvalidInput.of("body", "is not UTF-8; JSON must be (RFC 8259 section 8.1)") from error
    except RecursionError as error:
        raise InvalidInput.of("body", "is nested too deep") from error
    if b"\\u0000" in data:  # the only way to write it; rare enough to look for the place only then
        for field in nul_fields(msgspec.json.decode(data)):
            raise InvalidInput.of(field, _NUL)
    return body


def announced(headers: Headers) -> bool:
    """Say whether a body comes with a request (RFC 9112 section 6.3)."""
    return headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers


async def read_again(request: Request) -> bytes:
    """Return the bytes of a body that ``read_body`` has read for a route that creates something."""
    data = await request.get_data(as_text=False)
    assert isinstance(data, bytes)  # noqa: S101 - the framework's signature does not tell
    return data


def nul_fields(value: object, path: str = "") -> Iterator[str]:
    """Yield the paths of strings with a NUL in decoded JSON; PostgreSQL can store none (RFC 8259 allows them)."""
    match value:
        case str() if "\0" in value:
            yield path or "body"
        case dict():
            for name, inner in value.items():
                if "\0" in name:
                    yield path or "body"
                yield from nul_fields(inner, f"{path}.{name}" if path else name)
        case list():
            for place, inner in enumerate(value):
                yield from nul_fields(inner, f"{path}[{place}]")


def read_query(request: Request, route: Route) -> Any:
    """Return the query as the route's struct; raise ``InvalidInput`` that names the parameter."""
    flat: dict[str, str] = {}
    for name in request.args if request.query_string else ():
        found = request.args.getlist(name)
        if len(found) > 1:
            raise InvalidInput.of(name, "is given more than once")
        if "\0" in found[0]:
            raise InvalidInput.of(name, _NUL)
        flat[name] = found[0]
    return query_of(flat, route)


def query_of(flat: dict[str, str], route: Route) -> Any:
    """Return query parameters as the route's struct; raise ``InvalidInput`` that names the wrong one."""
    struct: type[msgspec.Struct] = route.query
    for name in moments(struct) & flat.keys():
        _check_moment(name, flat[name])
    try:
        query = msgspec.convert(flat, type=route.query, strict=False)
    except msgspec.ValidationError as error:
        raise _query_error(error, route) from error
    for given, name in _names(struct):
        if given in flat and getattr(query, name) is None:
            raise InvalidInput.of(given, "is nothing; leave out what should not count")
    return query


@cache
def _names(query: type[msgspec.Struct]) -> list[tuple[str, str]]:
    return [(field.encode_name, field.name) for field in msgspec.structs.fields(query)]


@cache
def moments(query: type[msgspec.Struct]) -> frozenset[str]:
    """Return the names of the parameters of a query that are moments."""
    hints = get_type_hints(query)
    moments = {given for given, name in _names(query) if datetime in getattr(hints[name], "__args__", (hints[name],))}
    return frozenset(moments)


def _check_moment(name: str, text: str) -> None:
    """Raise ``InvalidInput`` unless this is the same moment in any place; a bare number would be read as one, too."""
    problem = "is not a moment with its offset from UTC; write it like 2026-01-31T12:00:00Z (and + as %2B)"
    if not _MOMENT.fullmatch(text):
        raise InvalidInput.of(name, problem)
    try:
        moment = msgspec.convert(text, datetime)
        if moment.tzinfo is None:
            raise InvalidInput.of(name, problem)
        moment.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError) as error:
        raise InvalidInput.of(name, problem) from error


def _query_error(error: msgspec.ValidationError, route: Route) -> InvalidInput:
    plain = problems.decode_error(error)
    if plain.errors[0].problem != UNKNOWN:
        return plain
    known = [f.encode_name for f in msgspec.structs.fields(route.query)] if route.query is not NoQuery else []
    remedy = f"known ones are {', '.join(known)}" if known else "this route takes none"
    return InvalidInput.of(plain.errors[0].field, f"is not a query parameter of this route; {remedy}")
