"""What a careless or hostile caller sends: each is told which field is wrong, and nothing in the database changes."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.coordinator.world import KEYS, World, bearer, dump, problem

pytestmark = pytest.mark.anyio

CERTIFICATES = "/api/v1/certificates"
ADMIN = bearer(KEYS["admin"])
JSON = {**ADMIN, "Content-Type": "application/json"}
LONG = "x" * 300
HUGE = 10**400


@pytest.fixture
async def untouched(world: World) -> AsyncIterator[World]:
    """A coordinator whose database is the same after the test."""
    before = await dump(world.dsn)
    yield world
    assert await dump(world.dsn) == before


def cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


BODIES: dict[str, tuple[dict[str, Any], int, str]] = {
    "common_name missing": ({}, 400, "common_name"),
    "common_name of another type": ({"common_name": 7}, 400, "common_name"),
    "common_name empty": ({"common_name": ""}, 400, "common_name"),
    "common_name too long": ({"common_name": LONG}, 400, "common_name"),
    "common_name with a NUL": ({"common_name": "a\0.example.com"}, 400, "common_name"),
    "common_name with a line": ({"common_name": "a.example.com\nb"}, 400, "common_name"),
    "common_name a URI": ({"common_name": "spiffe://example.org/a"}, 400, "common_name"),
    "second SAN wrong": ({"common_name": "a.example.com", "sans": ["b.example.com", "-"]}, 400, "sans[1]"),
    "SAN of another type": ({"common_name": "a.example.com", "sans": ["b.example.com", 1]}, 400, "sans[1]"),
    "too many SANs": ({"common_name": "a.example.com", "sans": ["b.example.com"] * 101}, 400, "sans"),
    "unknown field": ({"common_name": "a.example.com", "comon_name": "b"}, 400, "comon_name"),
    "chosen id of another kind": ({"common_name": "a.example.com", "id": "tgt-1"}, 400, "id"),
    "chosen id empty": ({"common_name": "a.example.com", "id": ""}, 400, "id"),
    "name with a NUL": ({"common_name": "a.example.com", "name": "a\0b"}, 400, "name"),
    "tag with a NUL": ({"common_name": "a.example.com", "tags": {"a": "\0"}}, 400, "tags.a"),
    "tag's name with a NUL": ({"common_name": "a.example.com", "tags": {"\0": "a"}}, 400, "tags"),
    "profile unknown": ({"common_name": "a.example.com", "profile_id": "prof-x"}, 400, "profile_id"),
    "issuer unknown": ({"common_name": "a.example.com", "issuer_id": "iss-x"}, 400, "issuer_id"),
    "issuer empty": ({"common_name": "a.example.com", "issuer_id": ""}, 400, "issuer_id"),
    "policy unknown": ({"common_name": "a.example.com", "renewal_policy_id": "x"}, 400, "renewal_policy_id"),
    "owner unknown": ({"common_name": "a.example.com", "owner_id": "x"}, 400, "owner_id"),
    "team unknown": ({"common_name": "a.example.com", "team_id": "x"}, 400, "team_id"),
    "agent unknown": ({"common_name": "a.example.com", "agent_id": "ag-x"}, 400, "agent_id"),
    "agent empty": ({"common_name": "a.example.com", "agent_id": ""}, 400, "agent_id"),
    "target unknown": ({"common_name": "a.example.com", "target_ids": ["tgt-x"]}, 400, "target_ids[0]"),
    "too many targets": ({"common_name": "a.example.com", "target_ids": ["t"] * 501}, 400, "target_ids"),
    "key algorithm unknown": ({"common_name": "a.example.com", "key_algorithm": "dsa"}, 400, "key_algorithm"),
    "lifetime too short": ({"common_name": "a.example.com", "lifetime_s": 59}, 400, "lifetime_s"),
    "lifetime huge": ({"common_name": "a.example.com", "lifetime_s": HUGE}, 400, "lifetime_s"),
    "lifetime beyond the profile": ({"common_name": "a.example.com", "lifetime_s": 400 * 86400}, 422, "lifetime_s"),
}


async def test_a_certificate_that_cannot_be_wanted(untouched: World, subtests: pytest.Subtests) -> None:
    for what, (body, status, field) in BODIES.items():
        with subtests.test(what):
            problem(await untouched.call("POST", CERTIFICATES, json=body), status, field)


OTHER_BODIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "target without a configuration": ("targets", {"name": "a", "type": "nginx", "agent_id": "ag-x"}, "config"),
    "target of unknown type": ("targets", {"name": "a", "type": "ngin", "agent_id": "ag-x", "config": {}}, "type"),
    "target's configuration incomplete": (
        "targets",
        {"name": "a", "type": "nginx", "agent_id": "ag-x", "config": {}},
        "config.cert_path",
    ),
    "target of an unknown agent": (
        "targets",
        {"name": "a", "type": "nginx", "agent_id": "ag-x", "config": {"cert_path": "/a", "key_path": "/b"}},
        "agent_id",
    ),
    "profile's default beyond its most": (
        "profiles",
        {"name": "a", "max_lifetime_s": 60, "default_lifetime_s": 61},
        "default_lifetime_s",
    ),
    "profile without algorithms": (
        "profiles",
        {"name": "a", "max_lifetime_s": 60, "key_algorithms": []},
        "key_algorithms",
    ),
    "profile of an unknown issuer": (
        "profiles",
        {"name": "a", "max_lifetime_s": 60, "default_issuer_id": "iss-x"},
        "default_issuer_id",
    ),
    "key of unknown role": ("api-keys", {"name": "a", "role": "root"}, "role"),
    "key without a name": ("api-keys", {"name": "", "role": "viewer"}, "name"),
    "key that ends too soon": ("api-keys", {"name": "a", "role": "viewer", "ttl_s": 0}, "ttl_s"),
    "key that ends too late": ("api-keys", {"name": "a", "role": "viewer", "ttl_s": 10**15}, "ttl_s"),
    "key that ends at no time": ("api-keys", {"name": "a", "role": "viewer", "ttl_s": HUGE}, "ttl_s"),
    "token that ends too late": ("enrollment-tokens", {"ttl_s": 10**9}, "ttl_s"),
    "token with a long note": ("enrollment-tokens", {"note": LONG}, "note"),
}


async def test_other_things_that_cannot_be_made(untouched: World, subtests: pytest.Subtests) -> None:
    for what, (path, body, field) in OTHER_BODIES.items():
        with subtests.test(what):
            problem(await untouched.call("POST", f"/api/v1/{path}", json=body), 400, field)


RAW: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "two megabytes": (b'{"common_name": "' + b"x" * 2 * 1024 * 1024 + b'"}', JSON, 413, ""),
    "broken JSON": (b'{"common_name": ', JSON, 400, "body"),
    "no JSON at all": (b"common_name=a", JSON, 400, "body"),
    "not UTF-8": (b'{"common_name": "\xff.example.com"}', JSON, 400, "body"),
    "a lone surrogate": (b'{"common_name": "a.example.com", "name": "\\ud800"}', JSON, 400, "body"),
    "a list": (b"[]", JSON, 400, "body"),
    "nothing": (b"", JSON, 400, "common_name"),
    "a form": (b"common_name=a", {**ADMIN, "Content-Type": "application/x-www-form-urlencoded"}, 415, ""),
    "text": (b'{"common_name": "a.example.com"}', {**ADMIN, "Content-Type": "text/plain"}, 415, ""),
    "no key": (b'{"common_name": "a.example.com"}', {"Content-Type": "application/json"}, 401, ""),
}


async def test_bodies_that_cannot_be_read(untouched: World, subtests: pytest.Subtests) -> None:
    for what, (body, headers, status, field) in RAW.items():
        with subtests.test(what):
            problem(await untouched.http.post(CERTIFICATES, content=body, headers=headers), status, field)
    with subtests.test("nested too deep"):
        deep = b'{"name": "a", "type": "nginx", "agent_id": "a", "config": {"a": ' + b"[" * 100_000
        problem(await untouched.http.post("/api/v1/targets", content=deep, headers=JSON), 400, "body")
    with subtests.test("a body where none is read"):
        response = await untouched.http.request("GET", CERTIFICATES, headers=ADMIN, content=b'{"a": 1}')
        problem(response, 400, "body")


QUERIES: dict[str, tuple[str, str]] = {
    "too many rows": ("certificates?per_page=501", "per_page"),
    "too many rows after a cursor": ("certificates?page_size=501", "page_size"),
    "no rows": ("certificates?per_page=0", "per_page"),
    "page zero": ("certificates?page=0", "page"),
    "page too far": ("certificates?page=201&per_page=50", "page"),
    "page beyond numbers": ("certificates?page=99999999999999999999999", "page"),
    "page no number": ("certificates?page=two", "page"),
    "page and cursor": ("certificates?page=1&cursor=x", "page"),
    "unknown parameter": ("certificates?comon_name=x", "comon_name"),
    "repeated parameter": ("certificates?page=1&page=2", "page"),
    "filter with a NUL": ("certificates?common_name=a%00b", "common_name"),
    "state unknown": ("jobs?state=Lost", "state"),
    "cursor no base64": ("certificates?cursor=%C3%A9", "cursor"),
    "cursor empty": ("certificates?cursor=", "cursor"),
    "cursor without a moment": (f"certificates?cursor={cursor('yesterday|mc-1')}", "cursor"),
    "cursor beyond time": (f"certificates?cursor={cursor('0001-01-01T00:00:00+23:00|mc-1')}", "cursor"),
    "cursor without a zone": (f"certificates?cursor={cursor('2026-01-01T00:00:00|mc-1')}", "cursor"),
    "cursor with a NUL": (f"certificates?cursor={cursor('2026-01-01T00:00:00+00:00|mc-' + chr(0))}", "cursor"),
    "cursor of another list": (f"audit?cursor={cursor('2026-01-01T00:00:00+00:00|mc-1')}", "cursor"),
    "cursor of a list of certificates": (f"certificates?cursor={cursor('2026-01-01T00:00:00+00:00|job-1')}", "cursor"),
    "cursor of an odd digit": (f"audit?cursor={cursor('2026-01-01T00:00:00+00:00|²')}", "cursor"),
    "cursor of a huge number": (f"audit?cursor={cursor('2026-01-01T00:00:00+00:00|' + '9' * 30)}", "cursor"),
    "page size huge, for a stream": (f"teams?format=csv&page_size={10**20}", "page_size"),
    "sort unknown, for a stream": ("teams?format=jsonl&sort=colour", "sort"),
    "null where a number belongs": ("teams?per_page=null", "per_page"),
    "null where a state belongs": ("jobs?state=null", "state"),
    "a number where a moment belongs": ("audit?to=0.5", "to"),
    "wait no number": ("runs/job-1?wait=soon", "wait"),
    "wait too long": ("runs/job-1?wait=3600", "wait"),
    "wait NaN": ("runs/job-1?wait=nan", "wait"),
    "seen negative": ("runs/job-1?seen=-1", "seen"),
}


async def test_queries_that_cannot_be_read(untouched: World, subtests: pytest.Subtests) -> None:
    for what, (url, field) in QUERIES.items():
        with subtests.test(what):
            problem(await untouched.http.get(f"/api/v1/{url}", headers=ADMIN), 400, field)


PATHS: dict[str, tuple[str, str, int]] = {
    "unknown": ("GET", "/api/v2/certificates", 404),
    "root": ("GET", "/", 404),
    "odd bytes": ("GET", "/api/v1/%ff%fe", 404),
    "odd bytes where an id belongs": ("GET", "/api/v1/certificates/%ff", 404),
    "a NUL where an id belongs": ("GET", "/api/v1/certificates/%00", 404),
    "a NUL in a path that is not there": ("GET", "/%00", 404),
    "lines": ("GET", "/a%0d%0aSet-Cookie:%20a=b", 404),
    "a slash too many": ("GET", "/api/v1//certificates", 404),
    "a slash at the end": ("GET", "/api/v1/certificates/", 404),
    "another method": ("DELETE", "/api/v1/certificates", 405),
    "no such thing": ("GET", "/api/v1/certificates/mc-none", 404),
    "versions of no such thing": ("GET", "/api/v1/certificates/mc-none/versions", 404),
    "a renewal of no such thing": ("POST", "/api/v1/certificates/mc-none/renew", 404),
    "no such job": ("GET", "/api/v1/jobs/job-none", 404),
    "a run with a line in its id": ("GET", "/api/v1/runs/job%0anone", 404),
    "a run with a long id": ("GET", f"/api/v1/runs/job-{LONG}", 404),
    "another method than a fixed path has": ("DELETE", "/api/v1/agents/retired", 405),
    "no such run": ("GET", "/api/v1/runs/job-none", 404),
    "no such agent": ("GET", "/api/v1/agents/ag-none", 404),
    "no such target": ("GET", "/api/v1/targets/tgt-none", 404),
    "no such profile": ("GET", "/api/v1/profiles/prof-none", 404),
    "no such issuer": ("GET", "/api/v1/issuers/iss-none", 404),
    "no such authority": ("GET", "/.well-known/pki/ca/iss-none", 404),
    "no such key of an authority": ("GET", "/.well-known/pki/crl/iss-local/00ff.crl", 404),
}


async def test_paths_that_lead_nowhere(untouched: World, subtests: pytest.Subtests) -> None:
    for what, (method, path, status) in PATHS.items():
        with subtests.test(what):
            response = await untouched.http.request(method, path, headers=ADMIN)
            problem(response, status)
            if status == 405:
                assert response.headers["allow"] == ("GET, HEAD" if "retired" in path else "GET, HEAD, POST")


async def test_every_answer_carries_the_headers_that_keep_browsers_honest(world: World) -> None:
    responses: list[httpx.Response] = [
        await world.http.get(path) for path in ("/health", "/api/v1/certificates", "/nowhere", "/api/v1/openapi.json")
    ]
    for response in responses:
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["strict-transport-security"]
        assert response.headers["x-request-id"].startswith("req-")
        assert "server" not in response.headers


async def test_head_is_get_without_its_body(world: World) -> None:
    for path in ("/health", "/api/v1/certificates", "/.well-known/pki/crl/iss-local"):
        get = await world.http.get(path, headers=ADMIN)
        head = await world.http.head(path, headers=ADMIN)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-length"] == get.headers["content-length"]
