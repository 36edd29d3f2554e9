"""The OpenAPI document: valid, complete, and true to what the routes do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from coordinator.app import ROUTES
from coordinator.web import openapi, problems
from coordinator.web.table import Access, NoBody, NoQuery
from core import errors
from core.problems import status_of
from tests.coordinator.world import World

DOCUMENT: dict[str, Any] = json.loads(json.dumps(openapi.document(ROUTES, "https://certctl.test")))
METHODS = {"get", "post", "put", "patch", "delete"}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (str(found) for name, found in value.items() if name == "$ref")
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_it_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []


def test_every_route_is_in_it_once() -> None:
    assert [(method.upper(), path) for method, path, _ in operations()] != []
    assert {(method.upper(), path) for method, path, _ in operations()} == {(r.method, r.path) for r in ROUTES}
    assert len(ROUTES) == len({(route.method, route.path) for route in ROUTES})


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    found = set(references(DOCUMENT))
    schemas = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert found == schemas


def test_names_are_unique_and_fit_for_generated_clients() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", each) for each in ids), ids
    names = DOCUMENT["components"]["schemas"]
    assert all(re.fullmatch(r"[A-Za-z]+(_[A-Za-z]+_)?", name) for name in names), list(names)


def test_every_operation_says_what_it_does_and_who_may_call_it() -> None:
    for method, path, operation in operations():
        route = next(r for r in ROUTES if (r.method, r.path) == (method.upper(), path))
        assert operation["summary"]
        assert f"Who may call: {route.access}." in operation["description"]
        assert (operation.get("security") == []) == (route.access is Access.OPEN)
        assert ("requestBody" in operation) == (route.request is not NoBody)
        named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
        assert named == set(re.findall(r"\{(\w+)\}", path))
        assert bool([p for p in operation["parameters"] if p["in"] == "query"]) == (route.query is not NoQuery)
        assert set(operation["responses"]) >= {str(route.status), "400", "503"}
        if route.access is not Access.OPEN:
            assert set(operation["responses"]) >= {"401", "403"}
        if named - {"agent_id"} or ("agent_id" in named and route.access is not Access.AGENT):
            assert "404" in operation["responses"], path


def test_every_error_type_has_a_status_and_a_type_of_its_own() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.CertctlError)]
    types = {problems.type_of(kind) for kind in kinds}
    assert len(types) == len(kinds)
    assert all(re.fullmatch(r"urn:certctl:problem:[a-z-]+", each) for each in types)
    assert status_of(errors.StaleLease) == 409
    assert status_of(errors.Misconfigured) == 500


@pytest.mark.anyio
async def test_it_is_open_and_names_this_server(world: World) -> None:
    served = await world.get("/api/v1/openapi.json", key="")
    assert served["servers"] == [{"url": world.ctx.settings.url}]
    assert {**served, "servers": None} == {**DOCUMENT, "servers": None}
