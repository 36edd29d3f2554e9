"""What is answered in front of the framework is answered as the framework would."""

from __future__ import annotations

import pytest

from coordinator.app import ROUTES
from coordinator.web import front
from coordinator.web.front import Paths
from coordinator.web.table import Route
from tests.coordinator.world import World

pytestmark = pytest.mark.anyio
PATHS = Paths(ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_path_leads_to_its_route(route: Route) -> None:
    path = "/".join(f"x-{part.strip('{}')}" if part.startswith("{") else part for part in route.path.split("/"))
    found = PATHS.find(route.method, path)
    assert found is not None
    assert found[0] is route
    assert found[1] == {name: f"x-{name}" for name in found[1]}


@pytest.mark.parametrize(
    "path", ["", "/", "/api/v1/certificates/", "/api/v1/certificates//timeline", "/api/v1/nothing", "/api/v1/{}/x/y/z"]
)
def test_other_paths_lead_nowhere(path: str) -> None:
    assert PATHS.find("GET", path) is None


def test_a_brace_in_a_path_is_a_value() -> None:
    found = PATHS.find("GET", "/api/v1/certificates/{}")
    assert found is not None
    assert found[1] == {"certificate_id": "{}"}


async def test_both_ways_answer_alike(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same status, fields and body, for what is there, what is not, and who may not."""
    certificate_id, _ = await world.certificate()
    asked = [
        (f"/api/v1/certificates/{certificate_id}", "viewer"),
        ("/api/v1/certificates/mc-nobody", "viewer"),
        (f"/api/v1/certificates/{certificate_id}", ""),
        ("/api/v1/overview?no=1", "viewer"),
        ("/api/v1/certificates/%00", "viewer"),
        ("/health", ""),
        ("/api/v1/auth/check", "admin"),
    ]
    before = [await world.call("GET", path, key) for path, key in asked]
    monkeypatch.setattr(front, "_is_short", lambda _route: False)
    after = [await world.call("GET", path, key) for path, key in asked]
    for here, there in zip(before, after, strict=True):
        assert here.status_code == there.status_code
        assert {*here.headers} == {*there.headers}
        own = {"request_id"}
        assert {k: v for k, v in here.json().items() if k not in own} == {
            k: v for k, v in there.json().items() if k not in own
        }


async def test_a_body_goes_to_the_framework(world: World) -> None:
    response = await world.http.request("GET", "/health", content=b"x")
    assert response.status_code == 400
