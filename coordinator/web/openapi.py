"""The OpenAPI 3.1 document, generated from the route table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import msgspec

from coordinator.web import problems
from coordinator.web.table import Access, NoBody, NoQuery, Route
from core import errors
from core.problems import status_of

_REF = "#/components/schemas/{name}"
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "__Host-certctl",
        "description": "Of a person who has signed in. Changes also need X-CSRF-Token, see GET /api/v1/auth/check.",
    },
}
_PARAMETER = re.compile(r"\{(\w+)\}")


def document(routes: Sequence[Route], server_url: str) -> dict[str, Any]:
    """Return the whole document for these routes."""
    types = {kind for route in routes for kind in (route.request, route.response) if kind not in (NoBody, None)}
    ordered = sorted(types, key=repr)
    references, components = msgspec.json.schema_components([*ordered, problems.Problem], ref_template=_REF)
    schemas = dict(zip([*ordered, problems.Problem], references, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "certctl", "version": metadata.version("certctl"), "license": {"name": "Apache-2.0"}},
        "servers": [{"url": server_url}],
        "security": [{"bearer": []}, {"session": []}],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SCHEMES},
    }


def _operation(route: Route, schemas: dict[Any, Any]) -> dict[str, Any]:
    parameters = [*_path_parameters(route), *_query_parameters(route)]
    room = _room(route)
    operation: dict[str, Any] = {
        "operationId": f"{room}_{route.handler.__name__}",
        "summary": route.summary,
        "description": f"{(route.handler.__doc__ or '').strip()}\n\nWho may call: {route.access}.",
        "tags": [room],
        "parameters": parameters,
        "responses": _responses(route, schemas),
    }
    if route.access is Access.OPEN:
        operation["security"] = []
    if route.request is not NoBody:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schemas[route.request]}},
        }
    return operation


def _room(route: Route) -> str:
    """Return the room that a route belongs to; what is about the coordinator itself is of the room "system"."""
    _, room, *door = route.handler.__module__.split(".")
    return room if door and room != "web" else "system"


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(route.path)
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is NoQuery:
        return []
    _, components = msgspec.json.schema_components([route.query], ref_template=_REF)
    schema = components[route.query.__name__]
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _inline(field, components)}
        for name, field in schema["properties"].items()
    ]


def _inline(schema: Any, components: dict[str, Any]) -> Any:
    """Return ``schema`` with its references replaced, since parameters stand outside of the components."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inline(components[schema["$ref"].rsplit("/", 1)[1]], components)
        return {key: _inline(value, components) for key, value in schema.items()}
    return [_inline(value, components) for value in schema] if isinstance(schema, list) else schema


def _responses(route: Route, schemas: dict[Any, Any]) -> dict[str, Any]:
    schema = {"type": "string", "format": "binary"} if route.response is None else schemas[route.response]
    found: dict[str, dict[str, Any]] = {
        str(route.status): {"description": "Done", "content": {route.content_type: {"schema": schema}}}
    }
    if route.may_take_longer:
        found["202"] = {"description": "Not done yet", "content": {route.content_type: {"schema": schema}}}
    for kind in _errors(route):
        status = str(status_of(kind))
        problem = {problems.CONTENT_TYPE: {"schema": schemas[problems.Problem]}}
        if status in found:
            found[status]["description"] += f"; {kind.title}"
        else:
            found[status] = {"description": kind.title, "content": problem}
    return found


def _errors(route: Route) -> list[type[errors.CertctlError]]:
    common: list[type[errors.CertctlError]] = [
        errors.InvalidInput,
        errors.TooLarge,
        errors.TooManyRequests,
        errors.Transient,
        errors.DeadlineExceeded,
    ]
    if route.access is not Access.OPEN:
        common += [errors.Unauthenticated, errors.Forbidden]
    if route.request is not NoBody:
        common.append(errors.UnsupportedMedia)
    return list(dict.fromkeys([*common, *route.errors]))
