"""The OpenAPI document: valid, complete, and true to what the routes do."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from coordinator.app import ROUTES
from coordinator.settings import ROLES
from coordinator.web import openapi, problems
from coordinator.web.openapi_answers import errors_of
from coordinator.web.table import Access, NoBody, NoQuery, Permission
from core import errors
from core.problems import status_of
from tests.coordinator.permissions_page import may
from tests.coordinator.world import World

DOCUMENT: dict[str, Any] = json.loads(json.dumps(openapi.document(ROUTES, "https://certctl.test")))
SECURITY: dict[type, Callable[[Any], list[Any]]] = {
    Permission: lambda access: [{"bearer": [access]}, {"session": [access]}],
    Access: lambda access: {
        Access.OPEN: [],
        Access.AGENT: [{"agent": []}],
        Access.ANY_KEY: [{"bearer": []}, {"session": []}],
    }[access],
}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def resolved(thing: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in thing:
        return thing
    _, _, kind, name = thing["$ref"].split("/")
    found: dict[str, Any] = DOCUMENT["components"][kind][name]
    return found


def violations(value: object, schema: dict[str, Any]) -> list[str]:
    whole = {**schema, "components": DOCUMENT["components"]}
    return [error.message for error in Draft202012Validator(whole).iter_errors(value)]


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
    kinds = ("schemas", "examples", "parameters", "headers", "responses")
    assert found == {f"#/components/{kind}/{name}" for kind in kinds for name in DOCUMENT["components"][kind]}


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
        assert "Who may call: " in operation["description"]
        assert str(route.access) in operation["description"]
        assert operation["x-certctl-permission"] == route.access
        assert operation["x-certctl-roles"] == [role for role in ROLES if may(route, role)]
        assert operation["security"] == SECURITY[type(route.access)](route.access)
        assert ("requestBody" in operation) == (route.request is not NoBody)
        parameters = [resolved(parameter) for parameter in operation["parameters"]]
        named = {p["name"] for p in parameters if p["in"] == "path"}
        assert named == set(re.findall(r"\{(\w+)\}", path))
        assert bool([p for p in parameters if p["in"] == "query"]) == (route.query is not NoQuery)
        assert set(operation["responses"]) >= {str(route.status), "400", "503"}
        if route.access is not Access.OPEN:
            assert set(operation["responses"]) >= {"401", "403"}
        if named - {"agent_id"} or ("agent_id" in named and route.access is not Access.AGENT):
            assert "404" in operation["responses"], path


def test_every_problem_that_a_route_answers_with_is_there_with_its_type() -> None:
    for method, path, operation in operations():
        route = next(r for r in ROUTES if (r.method, r.path) == (method.upper(), path))
        for kind in errors_of(route):
            answer = resolved(operation["responses"][str(status_of(kind))])
            schema = answer["content"][problems.CONTENT_TYPE]["schema"]
            types = [t for part in schema["allOf"] for t in part.get("properties", {}).get("type", {}).get("enum", ())]
            assert problems.type_of(kind) in types
            for shown in answer["content"][problems.CONTENT_TYPE]["examples"].values():
                assert violations(shown["value"], schema) == []


def test_headers_that_matter_stand_where_they_count() -> None:
    for method, path, operation in operations():
        route = next(r for r in ROUTES if (r.method, r.path) == (method.upper(), path))
        asked = {resolved(p)["name"] for p in operation["parameters"] if resolved(p)["in"] == "header"}
        assert ("Idempotency-Key" in asked) == route.creates
        assert ("If-Match" in asked) == (errors.PreconditionFailed in route.errors)
        for answer in operation["responses"].values():
            assert "X-Request-ID" in resolved(answer)["headers"]
        assert "Retry-After" in resolved(operation["responses"]["429"])["headers"]
        made = operation["responses"][str(route.status)]["headers"]
        assert ("Idempotency-Replayed" in made) == route.creates
        if errors.PreconditionFailed in route.errors and route.status in {200, 201} and method != "post":
            assert "ETag" in made, path


def test_every_body_has_an_example_that_fits_its_schema_and_its_struct() -> None:
    bodies: dict[str, Any] = {route.request.__name__: route.request for route in ROUTES if route.request is not NoBody}
    for name, shown in DOCUMENT["components"]["examples"].items():
        schema = {"$ref": f"#/components/schemas/{name}"}
        assert violations(shown["value"], schema) == [], name
        if name in bodies:
            msgspec.convert(shown["value"], bodies[name])
    for method, path, operation in operations():
        if "requestBody" in operation:
            assert operation["requestBody"]["content"]["application/json"]["examples"], (method, path)


def test_a_room_has_a_tag_that_says_what_it_is_about() -> None:
    assert {tag for _, _, operation in operations() for tag in operation["tags"]} == {
        tag["name"] for tag in DOCUMENT["tags"] if tag["description"]
    }


def test_a_text_that_is_a_moment_says_so() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["Team"]["properties"]["created_at"] == {"type": "string", "format": "date-time"}
    revoked = schemas["Version"]["properties"]["revoked_at"]["anyOf"]
    assert {"type": "string", "format": "date-time"} in revoked
    parameters = {p["name"]: p for p in DOCUMENT["paths"]["/api/v1/audit"]["get"]["parameters"]}
    assert parameters["from"]["schema"] == {"type": "string", "format": "date-time"}


def test_a_list_says_what_it_can_be_sorted_by() -> None:
    parameters = {p["name"]: p for p in DOCUMENT["paths"]["/api/v1/agents"]["get"]["parameters"]}
    assert "-name" in parameters["sort"]["schema"]["enum"]
    assert parameters["per_page"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 500}


def test_every_error_type_has_a_status_and_a_type_of_its_own() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.CertctlError)]
    types = {problems.type_of(kind) for kind in kinds}
    assert len(types) == len(kinds)
    assert all(re.fullmatch(r"urn:certctl:problem:[a-z-]+", each) for each in types)
    assert status_of(errors.StaleLease) == 409
    assert status_of(errors.Misconfigured) == 500


class Page(HTMLParser):
    """What a page shows, and what it would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "br"}:
            self.open.append(tag)
        given = dict(attrs)
        links = str(given.get("href", "#"))
        if tag in {"script", "link", "img", "iframe", "object", "form"} or not links.startswith(("#", "/")):
            self.outside.append(tag)
        if {name for name in given if name.startswith("on") or name in {"style", "src"}}:
            self.outside.append(f"{tag} {given}")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.anyio
async def test_the_page_for_people_needs_nothing_but_itself(world: World) -> None:
    response = await world.call("GET", "/api/docs", key="")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    page = Page()
    page.feed(response.text)
    assert (page.open, page.outside) == ([], [])
    for _, path, operation in operations():
        assert path in page.text
        assert f'id="{operation["operationId"]}"' in response.text
    for name in DOCUMENT["components"]["schemas"]:
        assert f'id="schema-{name}"' in response.text
    policy = response.headers["content-security-policy"]
    digest = hashlib.sha256(re.findall("<style>(.*?)</style>", response.text, re.DOTALL)[0].encode()).digest()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{base64.b64encode(digest).decode()}';")
    assert "script" not in policy


@pytest.mark.anyio
async def test_it_is_open_and_names_this_server(world: World) -> None:
    served = await world.get("/api/v1/openapi.json", key="")
    assert served["servers"] == [{"url": world.ctx.settings.url}]
    assert {**served, "servers": None} == {**DOCUMENT, "servers": None}
