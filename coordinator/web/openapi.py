"""The OpenAPI 3.1 document, generated from the route table.

``openapi_answers`` says what is answered, ``examples`` shows bodies, ``reference`` makes a page of all that for people.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import Any

import msgspec

from coordinator.idempotency.service import MOST_CHARACTERS
from coordinator.settings import ROLES
from coordinator.web import examples, problems, reference
from coordinator.web.openapi_answers import HEADERS, Schemas, problem_responses, responses
from coordinator.web.schemas import components_of
from coordinator.web.table import ROLE_PERMISSIONS, Access, NoBody, NoQuery, Permission, Route
from core.errors import PreconditionFailed

JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"
_PARAMETER = re.compile(r"\{(\w+)\}")
_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key. Its role has the permissions that a route asks for; a scope may narrow it.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "__Host-certctl",
        "description": "Of a person who has signed in. Changes also need X-CSRF-Token, see GET /api/v1/auth/check.",
    },
    "agent": {
        "type": "http",
        "scheme": "bearer",
        "description": "An agent's token, for the routes with its own id; it comes from POST …/token.",
    },
}
_SYSTEM = "The coordinator itself: is it alive, which one is it, and this description."
_INTRODUCTION = """\
Errors are problem documents (RFC 9457): `type` is what programs look at, `detail` says what to do, `errors` names the
wrong fields, `request_id` is what the log has it under.

Lists answer `{data, total, next_cursor, …}`. Go on with `cursor` and `page_size`, or count pages with `page` and
`per_page`; a page holds 1 to 500 rows. `total` is exact up to 10,000 where `total_exact` does not say otherwise.
`format=csv` and `format=jsonl` stream all rows.

An `ETag` is a thing's revision. Sent back as `If-Match`, a change is refused with 412 when somebody else came first.
A POST that makes something takes an `Idempotency-Key`: repeated within a day, it gets the first answer again.

PUT replaces the whole: what is left out takes its default. PATCH merges (RFC 7396): null brings back a default.
"""

_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Makes a repetition harmless: within a day the same key and request get the first answer again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MOST_CHARACTERS, "pattern": "^[!-~]+( +[!-~]+)*$"},
    "example": "5f0c7a3e-8f53-4a57-9c5e-0b8d0a3f6a11",
}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The ETag of what was read: the change is refused with 412 when it is another one by now.",
    "schema": {"type": "string"},
    "example": '"3"',
}
PARAMETERS: dict[str, dict[str, Any]] = {"IdempotencyKey": _KEY, "IfMatch": _IF_MATCH}


@functools.cache
def served(routes: tuple[Route, ...], server_url: str) -> bytes:
    """Return the document as JSON; made once."""
    return msgspec.json.encode(document(routes, server_url))


@functools.cache
def readable(routes: tuple[Route, ...], server_url: str) -> bytes:
    """Return the document as a page for people; made once."""
    return reference.page(document(routes, server_url)).encode()


def document(routes: Sequence[Route], server_url: str) -> dict[str, Any]:
    """Return the whole document for these routes."""
    types = {kind for route in routes for kind in (route.request, route.response, route.conflict) if _is_read(kind)}
    schemas, components = components_of([*sorted(types, key=repr), problems.Problem])
    shown = {name: {"value": examples.example(components, name)} for name in components}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": JSON_SCHEMA,
        "info": {
            "title": "certctl",
            "version": metadata.version("certctl"),
            "summary": "Certificates: issued, deployed, renewed, and proved to be served.",
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server_url}],
        "security": [{"bearer": []}, {"session": []}],
        "tags": _tags(routes),
        "paths": paths,
        "components": {
            "schemas": components,
            "examples": {name: shown[name] for name in sorted(_exampled(paths))},
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "responses": problem_responses(routes, schemas),
            "securitySchemes": _SCHEMES,
        },
    }


def _is_read(kind: Any) -> bool:
    return kind is not None and kind is not NoBody


def _exampled(value: Any) -> set[str]:
    """Return the names of the examples that ``value`` refers to."""
    if isinstance(value, dict):
        prefix, reference = "#/components/examples/", value.get("$ref", "")
        own = {reference.removeprefix(prefix)} if isinstance(reference, str) and reference.startswith(prefix) else set()
        return own.union(*(_exampled(inner) for inner in value.values()))
    return set[str]().union(*(_exampled(inner) for inner in value)) if isinstance(value, list) else set()


def _tags(routes: Sequence[Route]) -> list[dict[str, str]]:
    rooms = sorted({room_of(route) for route in routes})
    return [{"name": room, "description": _about(room)} for room in rooms]


def _about(room: str) -> str:
    return _SYSTEM if room == "system" else (import_module(f"coordinator.{room}").__doc__ or "").strip()


def room_of(route: Route) -> str:
    """Return the room that a route belongs to; what is about the coordinator itself is of the room "system"."""
    _, room, *door = route.handler.__module__.split(".")
    return room if door and room != "web" else "system"


def _operation(route: Route, schemas: Schemas) -> dict[str, Any]:
    room = room_of(route)
    operation: dict[str, Any] = {
        "operationId": f"{room}_{route.handler.__name__}",
        "summary": route.summary,
        "description": _description(route),
        "tags": [room],
        "security": _security(route.access),
        "x-certctl-permission": str(route.access),
        "x-certctl-roles": roles_of(route.access),
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)],
        "responses": responses(route, schemas),
    }
    if route.request is not NoBody:
        media: dict[str, Any] = {"schema": schemas[route.request]}
        media |= examples.reference(schemas[route.request])
        needed = any(field.required for field in msgspec.structs.fields(route.request))
        operation["requestBody"] = {"required": needed, "content": {"application/json": media}}
    return operation


def _description(route: Route) -> str:
    parts = [(route.handler.__doc__ or "").strip(), f"Who may call: {_in_words(route.access)}."]
    if route.query is not NoQuery:
        parts.insert(1, " ".join((route.query.__doc__ or "").split()))
    return "\n\n".join("\n".join(line.strip() for line in part.splitlines()) for part in parts)


def _in_words(access: Access | Permission) -> str:
    if access is Access.OPEN:
        return "everybody (open)"
    if not isinstance(access, Permission):
        return str(access)
    return f"{access} – the roles {', '.join(roles_of(access))}"


def roles_of(access: Access | Permission) -> list[str]:
    """Return the roles whose keys and people a route lets in."""
    if isinstance(access, Permission):
        return [role for role in ROLES if access in ROLE_PERMISSIONS[role]]
    return [] if access is Access.AGENT else list(ROLES)


def _security(access: Access | Permission) -> list[dict[str, list[str]]]:
    """Return who gets in; what stands beside a scheme is the permission, as OpenAPI 3.1 allows for any scheme."""
    if access is Access.OPEN:
        return []
    if access is Access.AGENT:
        return [{"agent": []}]
    needed = [str(access)] if isinstance(access, Permission) else []
    return [{"bearer": needed}, {"session": needed}]


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _what(name),
            "schema": {"type": "string", "minLength": 1},
            "example": examples.of_field(name),
        }
        for name in _PARAMETER.findall(route.path)
    ]


def _what(parameter: str) -> str:
    """Return what a parameter of a path names, in words."""
    words = parameter.replace("_", " ")
    if not words.endswith(" id"):
        return f"The {words}."
    thing = words.removesuffix(" id")
    return f"The id of {'an' if thing[0] in 'aeiou' else 'a'} {thing}."


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is NoQuery:
        return []
    _, components = components_of([route.query])
    schema = components[route.query.__name__]
    required = schema.get("required", [])
    return [
        _query_parameter(route, name, _inline(field, components), required=name in required)
        for name, field in schema["properties"].items()
    ]


def _query_parameter(route: Route, name: str, field: dict[str, Any], *, required: bool) -> dict[str, Any]:
    schema = _without_null(field)
    own = {key: schema.pop(key) for key in ("description",) if key in schema}
    if name == "sort" and route.listing is not None:
        schema["enum"] = [f"{sign}{sort}" for sort in route.listing.sorts for sign in ("", "-")]
    about = own.get("description") or f"Only what has this {name.replace('_', ' ')}."
    return {"name": name, "in": "query", "required": required, "description": about, "schema": schema}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a value in a query, where nothing can be null: what is not wanted is left out."""
    kept = {key: value for key, value in schema.items() if not (key == "default" and value is None)}
    if "anyOf" in kept:
        others = [each for each in kept.pop("anyOf") if each != {"type": "null"}]
        kept = {**kept, **others[0]} if len(others) == 1 else {**kept, "anyOf": others}
    if "enum" in kept:
        kept["enum"] = [value for value in kept["enum"] if value is not None]
    return kept


def _inline(schema: Any, components: dict[str, Any]) -> Any:
    """Return ``schema`` with its references replaced, since parameters stand outside of the components."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inline(components[schema["$ref"].rsplit("/", 1)[1]], components)
        return {key: _inline(value, components) for key, value in schema.items()}
    return [_inline(value, components) for value in schema] if isinstance(schema, list) else schema


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    found = list[dict[str, Any]]()
    if route.creates:
        found.append({"$ref": "#/components/parameters/IdempotencyKey"})
    if PreconditionFailed in route.errors:
        found.append({"$ref": "#/components/parameters/IfMatch"})
    return found + [
        {"name": name, "in": "header", "required": False, "description": about, "schema": {"type": "string"}}
        for name, about in route.headers.items()
    ]
