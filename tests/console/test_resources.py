"""The commands that are made of the table of resources, against the double and the coordinator's own route table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest

from console.resources import RESOURCES, Resource, Sub
from coordinator.app import ROUTES
from coordinator.web.examples import of_struct
from coordinator.web.table import Route
from tests.console.conftest import Certctl
from tests.console.double import Double, page

CONSOLE_HAS_OTHERWISE = {
    "GET /api/v1/certificates", "GET /api/v1/certificates/{}", "POST /api/v1/certificates",
    "POST /api/v1/certificates/{}/renew", "GET /api/v1/certificates/{}/versions", "GET /api/v1/agents",
    "GET /api/v1/agents/{}", "GET /api/v1/targets", "GET /api/v1/targets/{}", "POST /api/v1/targets",
    "POST /api/v1/targets/{}/test",
    "GET /api/v1/jobs", "GET /api/v1/jobs/{}", "GET /api/v1/runs/{}", "GET /api/v1/audit", "GET /api/v1/profiles",
    "GET /api/v1/profiles/{}", "GET /api/v1/issuers", "GET /api/v1/issuers/{}", "GET /api/v1/enrollment-tokens",
    "POST /api/v1/enrollment-tokens", "GET /api/v1/version", "GET /api/v1/auth/check",
    "POST /api/v1/certificates/bulk-renew", "POST /api/v1/certificates/bulk-revoke",
    "POST /api/v1/certificates/bulk-deploy", "POST /api/v1/certificates/bulk-reassign",
    "POST /api/v1/certificates/{}/revoke", "POST /api/v1/certificates/import", "GET /api/v1/certificates/export",
    "GET /api/v1/certificates/{}/export", "GET /api/v1/operations", "GET /api/v1/operations/{}",
    "GET /api/v1/operations/{}/items", "POST /api/v1/operations/{}/cancel",
    "GET /api/v1/overview", "GET /api/v1/horizon", "GET /api/v1/search", "GET /api/v1/events", "GET /api/v1/approvals",
    "GET /api/v1/approvals/{}", "POST /api/v1/approvals/{}/approve", "POST /api/v1/approvals/{}/reject",
    "GET /api/v1/notifications", "GET /api/v1/notifications/{}", "GET /api/v1/notifications/counts",
    "POST /api/v1/notifications/{}/read", "POST /api/v1/notifications/{}/requeue",
    "GET /api/v1/admin/loops", "POST /api/v1/admin/loops/{}/run", "GET /api/v1/stats/summary",
    "GET /api/v1/stats/certificates-by-status", "GET /api/v1/stats/expiration-timeline",
    "GET /api/v1/stats/job-trends", "GET /api/v1/stats/issuance-rate",
    "PUT /api/v1/agent-groups/{}/members/{}", "DELETE /api/v1/agent-groups/{}/members/{}",
}  # fmt: skip
"""What commands of their own do."""
NOT_FOR_THE_CONSOLE = {
    "POST /api/v1/agents": "an agent's own",
    "POST /api/v1/agents/{}/nonce": "an agent's own",
    "POST /api/v1/agents/{}/token": "an agent's own",
    "GET /api/v1/agents/{}/work": "an agent's own",
    "POST /api/v1/agents/{}/jobs/{}/csr": "an agent's own",
    "POST /api/v1/agents/{}/jobs/{}/result": "an agent's own",
    "POST /api/v1/agents/{}/trials/{}/result": "an agent's own",
    "POST /api/v1/agents/{}/drift": "an agent's own",
    "POST /api/v1/agents/{}/challenges/{}": "an agent's own",
    "POST /api/v1/agents/{}/looks/{}": "an agent's own",
    "POST /api/v1/certificates/{}/deploy": "certificates deploy does it as an operation, for one as for many",
    "GET /api/v1/auth/info": "for browsers",
    "GET /api/v1/openapi.json": "for programs; apply reads it",
    "GET /api/v1/server-root": "for agents that know its SHA-256",
    "GET /api/v1/agents/retired": "agents list has them",
    "GET /api/v1/certificates/{}/versions/{}": "versions lists them whole",
    "GET /api/v1/metrics": "for monitoring",
    "GET /api/v1/metrics/prometheus": "for monitoring",
    "GET /api/v1/fleet/map": "for pages; agents and targets list the same",
    "GET /api/v1/notifications/counts": "for pages",
    "GET /api/v1/notifications/{}": "the list shows them whole",
    "GET /api/v1/certificates/{}/export": "to come with bulk work",
    "GET /api/v1/certificates/export": "to come with bulk work",
    "POST /api/v1/certificates/import": "to come with bulk work",
    "POST /api/v1/certificates/bulk-deploy": "to come with bulk work",
    "POST /api/v1/certificates/bulk-reassign": "to come with bulk work",
    "POST /api/v1/certificates/bulk-renew": "to come with bulk work",
    "POST /api/v1/certificates/bulk-revoke": "to come with bulk work",
    "GET /api/v1/operations": "to come with bulk work",
    "GET /api/v1/operations/{}": "to come with bulk work",
    "GET /api/v1/operations/{}/items": "to come with bulk work",
    "POST /api/v1/operations/{}/cancel": "to come with bulk work",
    "GET /api/v1/target-types/{}": "targets types lists them",
    "GET /api/v1/stats/summary": "status tells it",
    "GET /api/v1/stats/certificates-by-status": "status tells it",
    "GET /api/v1/stats/expiration-timeline": "for pages",
    "GET /api/v1/stats/job-trends": "for pages",
    "GET /api/v1/stats/issuance-rate": "for pages",
    "GET /api/v1/views": "for pages",
    "POST /api/v1/views": "for pages",
    "GET /api/v1/views/{}": "for pages",
    "PATCH /api/v1/views/{}": "for pages",
    "DELETE /api/v1/views/{}": "for pages",
}


def route_of(method: str, path: str) -> Route:
    return next(r for r in ROUTES if (r.method, re.sub(r"\{\w+\}", "{}", r.path)) == (method, path))


def lists() -> Iterator[tuple[str, str, Sub]]:
    """Yield the command, the path and what is shown of every list."""
    for resource in RESOURCES:
        if "list" in resource.verbs:
            rows = Sub("list", "", resource.kind.type, resource.columns, resource.filters)
            yield f"{resource.collection} list", f"/api/v1/{resource.collection}", rows
        for sub in resource.subs:
            yield f"{resource.collection} {sub.name} ID", f"/api/v1/{resource.collection}/{{}}/{sub.name}", sub


@pytest.mark.parametrize("line,path,sub", list(lists()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_list_shows_what_the_api_has_and_filters_by_what_it_knows(
    certctl: Certctl, double: Double, line: str, path: str, sub: Sub
) -> None:
    route = route_of("GET", path)
    (view,) = get_args(route.response) or (None,)
    row = of_struct(view) if view else of_struct(route.response)["data"][0]
    double.on("GET", path.replace("{}", "known"), page([row]) if sub.paged else {"data": [row], "total": 1})
    furnish(double, path)
    filters = [word for name in sub.filters for word in (f"--{name.replace('_', '-')}", value_of(route, name))]
    words = [*line.replace("ID", "known").split(), *filters]
    result = certctl(*words)
    assert result.exit_code == 0, result.output
    for heading, field in sub.columns.items():
        assert field in row
        assert heading in result.stdout or row[field] in (None, "", [])
    assert set(double.asked[-1].query) == {*sub.filters, *({"page_size"} if sub.paged else ())}
    assert json.loads(certctl(*words, "--json").stdout)["data"] == [row]


def furnish(double: Double, path: str) -> None:
    """Let the thing that a list belongs to be found."""
    collection = path.split("/")[3]
    if "{}" in path:
        view = of_struct(route_of("GET", f"/api/v1/{collection}/{{}}").response) | {"id": "known", "name": "known"}
        double.on("GET", f"/api/v1/{collection}", page([view]))


def value_of(route: Route, name: str) -> str:
    """Return a value that a filter may have."""
    hint = str(get_type_hints(route.query).get(name, str))
    by_hand = {"severity": "warning", "enforce": "warn", "type": "required_owner", "role": "viewer"}
    by_hand |= {"source": "database", "membership": "include", "status": "valid" if "deactivated" in hint else "x"}
    return "true" if "bool" in hint else by_hand.get(name, "x")


@pytest.mark.parametrize("resource", [r for r in RESOURCES if "update" in r.verbs], ids=lambda r: r.collection)
def test_a_thing_is_made_changed_and_removed(certctl: Certctl, double: Double, resource: Resource) -> None:
    one = f"/api/v1/{resource.collection}/{{}}"
    thing = of_struct(route_of("GET", one).response) | {"id": f"{resource.kind.prefix}-known", "name": "Known"}
    path = one.replace("{}", thing["id"])
    double.on("GET", path, thing)
    changed = of_struct(route_of("PATCH", one).response)
    double.on("PATCH", path, changed)
    removed = route_of("DELETE", one)
    double.on("DELETE", path, of_struct(removed.response) if removed.response else {}, status=removed.status)
    words = ["update", thing["id"], "--set", "name=Other", "--revision", "3"]
    result = certctl(resource.collection, *words)
    assert result.exit_code == 0, result.output
    assert (double.asked[-1].body, double.asked[-1].if_match) == ({"name": "Other"}, '"3"')
    assert certctl(resource.collection, "update", thing["id"]).exit_code == 2
    switches = [
        word for name in resource.switches for word in ((f"--{name}", "why") if name == "reason" else (f"--{name}",))
    ]
    assert certctl(resource.collection, "delete", thing["id"], *switches).exit_code == 0
    assert (double.asked[-1].method, set(double.asked[-1].query)) == ("DELETE", set(resource.switches))
    if "create" in resource.verbs:
        made: dict[str, Any] = of_struct(route_of("POST", f"/api/v1/{resource.collection}").response)
        double.on("POST", f"/api/v1/{resource.collection}", made, status=201)
        body = of_struct(route_of("POST", f"/api/v1/{resource.collection}").request)
        body.pop("id", None)
        chosen = {"id": "x"} if resource.named else {}
        words = ["create", "-f", "-", *(("--id", "x") if resource.named else ())]
        result = certctl(resource.collection, *words, stdin=json.dumps(body))
        assert result.exit_code == 0, result.output
        assert double.asked[-1].body == body | chosen


def test_an_agent_is_put_into_a_group_and_kept_out(certctl: Certctl, double: Double) -> None:
    group = of_struct(route_of("GET", "/api/v1/agent-groups/{}").response) | {"id": "grp-edge"}
    double.on("GET", "/api/v1/agent-groups/grp-edge", group)
    member = "/api/v1/agent-groups/grp-edge/members/ag-edge"
    double.on("PUT", member, {"agent_group_id": "grp-edge", "agent_id": "ag-edge", "membership": "include"})
    double.on("DELETE", member, {}, status=204)
    for verb in ("include", "exclude"):
        assert certctl("agent-groups", verb, "grp-edge", "ag-edge").exit_code == 0
        assert double.asked[-1].body == {"membership": verb}
    assert certctl("agent-groups", "forget", "grp-edge", "ag-edge").exit_code == 0
    assert double.asked[-1].method == "DELETE"


def covered() -> set[str]:
    """Return the routes that commands of the table call."""
    verbs = {
        "list": "GET {}",
        "get": "GET {}/{{}}",
        "create": "POST {}",
        "update": "PATCH {}/{{}}",
        "delete": "DELETE {}/{{}}",
    }
    found = set()
    for resource in RESOURCES:
        path = f"/api/v1/{resource.collection}"
        found |= {verbs[verb].format(path) for verb in resource.verbs}
        found |= {f"GET {path}/{{}}/{sub.name}" for sub in resource.subs}
        found |= {f"{'GET' if action.reads else 'POST'} {path}/{{}}/{action.path}" for action in resource.actions}
        found |= {f"GET /api/v1/{resource.types}"} if resource.types else set()
    return found


def test_the_console_has_every_route_or_says_why_not() -> None:
    every = [(route.method, re.sub(r"\{\w+\}", "{}", route.path)) for route in ROUTES]
    table = {f"{method} {path}" for method, path in every if path.startswith("/api/v1/")}
    known = covered() | CONSOLE_HAS_OTHERWISE | set(NOT_FOR_THE_CONSOLE)
    assert known <= table
    replaced = {each for each in table if each.startswith("PUT ") and each.replace("PUT", "PATCH") in known}
    assert table - known - replaced == set(), "give the console a command, or say why it needs none"


@pytest.mark.parametrize("kind", ["summary", "certificates-by-status", "job-trends"])
def test_numbers_are_shown(certctl: Certctl, double: Double, kind: str) -> None:
    response = route_of("GET", f"/api/v1/stats/{kind}").response
    (row,) = get_args(response) or (response,)
    shown = [of_struct(row)] if get_args(response) else of_struct(row)
    double.on("GET", f"/api/v1/stats/{kind}", shown)
    assert str(next(iter(of_struct(row)))).upper().replace("_", " ") in certctl("stats", kind).stdout.upper()
    assert json.loads(certctl("stats", kind, "--json").stdout) == shown


def test_loops_are_listed_and_run(certctl: Certctl, double: Double) -> None:
    loops = of_struct(route_of("GET", "/api/v1/admin/loops").response)
    double.on("GET", "/api/v1/admin/loops", loops)
    assert loops["data"][0]["name"] in certctl("loops", "list").stdout
    double.on("POST", "/api/v1/admin/loops/renewals/run", loops["data"][0])
    assert "renewals: done" in certctl("loops", "run", "renewals").stderr
