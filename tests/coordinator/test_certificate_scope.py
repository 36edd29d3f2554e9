"""A key that is for some teams and environments sees and changes only what is theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from coordinator.access import service as access
from coordinator.database.listing import EVERYTHING, Scope
from coordinator.web.table import Actor
from tests.coordinator.world import World, dump, problem

pytestmark = pytest.mark.anyio
CERTIFICATES = "/api/v1/certificates"
WEB = Scope(("team-web",), ("prod", "test"))


@contextmanager
def scoped(monkeypatch: pytest.MonkeyPatch, scope: Scope) -> Iterator[None]:
    """Give every key this scope."""
    identify = access.identify

    async def narrowed(*arguments: Any) -> Actor:
        actor = await identify(*arguments)
        return msgspec.structs.replace(actor, scope=scope) if actor.kind == "key" else actor

    with monkeypatch.context() as patched:
        patched.setattr(access, "identify", narrowed)
        yield


@dataclass
class Two:
    """A certificate of the key's own and one that is not, each with everything that belongs to it."""

    own: str
    foreign: str
    own_job: str
    foreign_job: str
    foreign_version: str


@pytest.fixture(params=[{"team_id": "team-other", "environment": "prod"}, {"team_id": "team-web"}])
async def two(world: World, request: pytest.FixtureRequest) -> Two:
    for name in ("web", "other"):
        await world.post("/api/v1/teams", {"id": f"team-{name}", "name": name})
    agent = await world.agent()
    wish = {"agent_id": agent.id, "common_name": "own.test", "team_id": "team-web", "environment": "prod"}
    own, (own_job,) = await world.certificate(**wish)
    foreign, (foreign_job,) = await world.certificate(agent_id=agent.id, common_name="foreign.test", **request.param)
    await agent.work()
    version = await world.value("SELECT id FROM certificate_versions WHERE certificate_id = $1", foreign)
    return Two(own, foreign, own_job, foreign_job, version)


async def test_what_is_foreign_is_not_there(world: World, two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str, Any]] = [
        ("GET", f"{CERTIFICATES}/{{id}}", None),
        ("GET", f"{CERTIFICATES}/{{id}}/versions", None),
        ("GET", f"{CERTIFICATES}/{{id}}/versions/{two.foreign_version}", None),
        ("GET", f"{CERTIFICATES}/{{id}}/deployments", None),
        ("GET", f"{CERTIFICATES}/{{id}}/timeline", None),
        ("PUT", f"{CERTIFICATES}/{{id}}", {"common_name": "a.test", "team_id": "team-web", "environment": "prod"}),
        ("PATCH", f"{CERTIFICATES}/{{id}}", {"team_id": "team-web", "environment": "prod"}),
        ("DELETE", f"{CERTIFICATES}/{{id}}?force=true", None),
        ("POST", f"{CERTIFICATES}/{{id}}/renew", {}),
        ("GET", f"/api/v1/jobs/{two.foreign_job}", None),
        ("GET", f"/api/v1/runs/{two.foreign_job}", None),
    ]
    before = await dump(world.dsn)
    with scoped(monkeypatch, WEB):
        for method, path, body in calls:
            absent = problem(await world.call(method, path.format(id=two.foreign), json=body), 404)
            none = path.format(id="mc-none").replace(two.foreign_job, "job-none")
            like = problem(await world.call(method, none, json=body), 404)
            told = absent["detail"].replace(two.foreign, "mc-none").replace(two.foreign_job, "job-none")
            assert told == like["detail"], "it looks as if it were not there"
    assert await dump(world.dsn) == before


async def test_lists_hold_what_is_ones_own(world: World, two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    with scoped(monkeypatch, WEB):
        for path, field, own in (("certificates", "id", two.own), ("jobs", "certificate_id", two.own)):
            page = await world.get(f"/api/v1/{path}")
            assert ({row[field] for row in page["data"]}, page["total"]) == ({own}, 1)
            lines = (await world.call("GET", f"/api/v1/{path}", params={"format": "jsonl"})).text.splitlines()
            assert len(lines) == 1
        for path in (f"{CERTIFICATES}/{two.own}/versions", f"{CERTIFICATES}/{two.own}/timeline"):
            assert (await world.get(path))["total"] > 0
        assert (await world.get(f"/api/v1/runs/{two.own_job}"))["certificate_id"] == two.own
        assert (await world.get("/api/v1/jobs", certificate_id=two.foreign))["total"] == 0
    with scoped(monkeypatch, Scope((), None)):
        assert (await world.get("/api/v1/certificates"))["total"] == 0
    with scoped(monkeypatch, EVERYTHING):
        assert (await world.get("/api/v1/certificates"))["total"] == 2


async def test_nothing_is_made_or_moved_outside(world: World, two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = {"common_name": "new.test", "team_id": "team-web", "environment": "test"}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"team_id": "team-other"}, "team_id"),
        ({"team_id": "default"}, "team_id"),
        ({"environment": "staging"}, "environment"),
        ({"environment": ""}, "environment"),
    ]
    own = f"{CERTIFICATES}/{two.own}"
    before = await dump(world.dsn)
    with scoped(monkeypatch, WEB):
        for change, field in wrong:
            problem(await world.call("POST", CERTIFICATES, json={**inside, **change}), 403, field)
            problem(await world.call("PATCH", own, json=change), 403, field)
            problem(await world.call("PUT", own, json={**inside, **change}), 403, field)
        problem(await world.call("PATCH", own, json={"team_id": None}), 403, "team_id")
        assert await dump(world.dsn) == before
        made = await world.post(CERTIFICATES, inside)
        assert (await world.call("PATCH", own, json={"environment": "test"})).is_success
        assert (await world.call("DELETE", f"{CERTIFICATES}/{made['certificate']['id']}")).status_code == 204
