"""The life of API keys: nobody gives more than they have, values are replaced without a gap, uses are stored late."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import httpx
import pytest

from coordinator.access import keys, uses
from coordinator.access.uses import store_uses
from coordinator.database.connection import Connection
from coordinator.database.listing import Scope
from coordinator.web.table import Actor
from core.errors import CertctlError, Forbidden, Transient
from tests.coordinator.world import KEYS, World, bearer, done, problem

pytestmark = pytest.mark.anyio
PATH = "/api/v1/api-keys"


async def check(world: World, value: str) -> int:
    """Return the status of a request with this value."""
    return (await world.http.get("/api/v1/auth/check", headers=bearer(value))).status_code


async def ask(world: World, value: str, method: str, path: str, **options: Any) -> httpx.Response:
    return await world.http.request(method, path, headers=bearer(value), **options)


async def scoped(world: World, *teams: str, **more: Any) -> dict[str, Any]:
    """Make an admin key for some teams, which are made as well."""
    for team in teams:
        await world.post("/api/v1/teams", {"id": team, "name": team})
    made: dict[str, Any] = await world.post(PATH, {"name": "scoped", "role": "admin", "teams": list(teams), **more})
    return made


async def test_what_a_key_is_can_be_read_changed_and_found(world: World) -> None:
    owner = await world.post("/api/v1/owners", {"name": "Ada"})
    body = {"name": "ci", "role": "operator", "owner_id": owner["id"], "environments": ["test"], "description": "CI"}
    made = await world.post(PATH, {**body, "ttl_s": 3600})
    read = await world.get(f"{PATH}/{made['id']}")
    assert {name: read[name] for name in body} == body
    assert (read["teams"], read["source"], read["revision"], read["last_used_at"]) == (None, "database", 1, None)
    assert read["expires_at"] == made["expires_at"]
    changed = done(await world.call("PATCH", f"{PATH}/{made['id']}", json={"role": "viewer", "environments": None}))
    assert (changed["role"], changed["environments"], changed["owner_id"]) == ("viewer", None, owner["id"])
    assert (await ask(world, made["key"], "GET", "/api/v1/auth/check")).json()["role"] == "viewer"
    for query in ({"owner_id": owner["id"]}, {"name": "ci", "usable": "true"}, {"source": "database"}):
        assert [row["id"] for row in (await world.get(PATH, **query))["data"]] == [made["id"]], query
    assert (await world.get(PATH, usable="false"))["data"] == []
    late = await world.http.request(
        "PATCH", f"{PATH}/{made['id']}", json={"name": "x"}, headers={**bearer(KEYS["admin"]), "If-Match": '"1"'}
    )
    problem(late, 412)
    events = await world.rows("SELECT action, details FROM audit_events WHERE resource_id = $1 ORDER BY id", made["id"])
    assert [event["action"] for event in events] == ["api_key.created", "api_key.updated"]
    assert events[1]["details"]["role"] == "viewer"


@pytest.mark.parametrize(
    "body,field",
    [
        ({"owner_id": "o-none"}, "owner_id"),
        ({"teams": ["default", "team-none"]}, "teams"),
        ({"teams": []}, "teams"),
        ({"environments": [""]}, "environments[0]"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2030-01-01T00:00:00"}, "expires_at"),
        ({"expires_at": "2130-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "a\x1bb"}, "name"),
        ({"source": "environment"}, "source"),
    ],
)
async def test_a_key_that_cannot_be_names_the_field(world: World, body: dict[str, Any], field: str) -> None:
    made = await world.post(PATH, {"name": "ci", "role": "viewer"})
    problem(await world.call("POST", PATH, json={"name": "ci", "role": "viewer", **body}), 400, field)
    problem(await world.call("PATCH", f"{PATH}/{made['id']}", json=body), 400, field)
    assert await world.value("SELECT count(*) FROM api_keys WHERE name = 'ci'") == 1
    both = {"name": "ci", "role": "viewer", "ttl_s": 60, "expires_at": "2030-01-01T00:00:00Z"}
    problem(await world.call("POST", PATH, json=both), 400, "ttl_s")


async def test_a_key_that_was_switched_off_opens_nothing_and_stays_off(world: World) -> None:
    made = await world.post(PATH, {"name": "ci", "role": "viewer"})
    rotated = await world.post(f"{PATH}/{made['id']}/rotate")
    assert [await check(world, value) for value in (made["key"], rotated["key"])] == [200, 200]
    assert (await world.call("DELETE", f"{PATH}/{made['id']}")).status_code == 204
    assert [await check(world, value) for value in (made["key"], rotated["key"])] == [401, 401]
    for method, path, body in (
        ("DELETE", "", None), ("PATCH", "", {"name": "back"}), ("POST", "/rotate", {}),
    ):  # fmt: skip
        problem(await world.call(method, f"{PATH}/{made['id']}{path}", json=body), 409)
    assert (await world.get(PATH, usable="false"))["data"][0]["id"] == made["id"]


async def test_a_rotated_key_works_under_both_values_until_the_overlap_ends(world: World) -> None:
    made = await world.post(PATH, {"name": "ci", "role": "viewer"})
    path = f"{PATH}/{made['id']}"
    second = await world.post(f"{path}/rotate", {"overlap_s": 600})
    assert second["id"] == made["id"]
    assert second["key"] != made["key"]
    read = await world.get(path)
    assert read["previous_until"] == second["previous_until"]
    assert await world.value("SELECT previous_until - now() BETWEEN '9 minutes' AND '10 minutes' FROM api_keys "
                             "WHERE id = $1", made["id"])  # fmt: skip
    old = (await ask(world, made["key"], "GET", "/api/v1/auth/check")).json()
    assert old["expires_at"] == second["previous_until"], "a caller sees that its value ends"
    assert await check(world, second["key"]) == 200
    await world.execute("UPDATE api_keys SET previous_until = now() WHERE id = $1", made["id"])
    assert [await check(world, value) for value in (made["key"], second["key"])] == [401, 200]
    third = await world.post(f"{path}/rotate", {"overlap_s": 600})
    fourth = await world.post(f"{path}/rotate", {"overlap_s": 600})
    values = (second["key"], third["key"], fourth["key"])
    assert [await check(world, value) for value in values] == [401, 200, 200], "two values at most"
    last = await world.post(f"{path}/rotate", {"overlap_s": 0})
    assert [await check(world, value) for value in (fourth["key"], last["key"])] == [401, 200]
    assert (await world.get(path))["previous_until"] is None
    stored = str(await world.rows("SELECT to_jsonb(k)::text, to_jsonb(e)::text FROM api_keys k, audit_events e"))
    assert not [value for value in (*values, last["key"]) if value in stored]


async def test_a_rotation_does_not_outlive_the_key(world: World) -> None:
    made = await world.post(PATH, {"name": "ci", "role": "viewer", "ttl_s": 60})
    rotated = await world.post(f"{PATH}/{made['id']}/rotate")
    await world.execute("UPDATE api_keys SET expires_at = now() WHERE id = $1", made["id"])
    assert [await check(world, value) for value in (made["key"], rotated["key"])] == [401, 401]
    world.clock.advance(timedelta(hours=1))
    problem(await world.call("POST", f"{PATH}/{made['id']}/rotate", json={}), 409)


async def test_a_key_of_the_environment_can_only_be_looked_at(world: World) -> None:
    key_id = (await world.get(PATH, name="viewer"))["data"][0]["id"]
    for method, path, body in (
        ("DELETE", "", None), ("PATCH", "", {"name": "mine"}), ("POST", "/rotate", {}),
    ):  # fmt: skip
        said = problem(await world.call(method, f"{PATH}/{key_id}{path}", json=body), 409)
        assert "CERTCTL_API_KEYS_NAMED" in said["detail"]
    assert await check(world, KEYS["viewer"]) == 200


async def only_admin(world: World) -> dict[str, Any]:
    """Make an admin key and switch off the environment's."""
    made: dict[str, Any] = await world.post(PATH, {"name": "root", "role": "admin"})
    await world.execute("UPDATE api_keys SET disabled_at = now() WHERE source = 'environment'")
    return made


async def test_the_last_admin_key_stays_one(world: World) -> None:
    root = await only_admin(world)
    path = f"{PATH}/{root['id']}"
    await ask(world, root["key"], "POST", "/api/v1/teams", json={"id": "team-a", "name": "A"})
    for more in ({"teams": ["team-a"]}, {"environments": ["test"]}, {"role": "operator"}, {"ttl_s": 60}):
        done(await ask(world, root["key"], "POST", PATH, json={"name": "lesser", "role": "admin", **more}))
    await world.execute("UPDATE api_keys SET expires_at = now() WHERE expires_at IS NOT NULL")
    assert "last admin" in problem(await ask(world, root["key"], "DELETE", path), 409)["detail"]
    other = done(await ask(world, root["key"], "POST", PATH, json={"name": "second", "role": "admin"}))
    for change in ({"role": "viewer"}, {"teams": ["team-a"]}):
        done(await ask(world, root["key"], "PATCH", f"{PATH}/{other['id']}", json=change))
        problem(await ask(world, root["key"], "DELETE", path), 409)
        done(await ask(world, root["key"], "PATCH", f"{PATH}/{other['id']}", json={"role": "admin", "teams": None}))
    assert (await ask(world, root["key"], "DELETE", path)).status_code == 204
    for change in ({"role": "viewer"}, {"environments": ["test"]}):
        problem(await ask(world, other["key"], "PATCH", f"{PATH}/{other['id']}", json=change), 403)


async def test_of_two_admins_who_switch_each_other_off_one_stays(world: World) -> None:
    one = await only_admin(world)
    for _ in range(5):
        two = done(await ask(world, one["key"], "POST", PATH, json={"name": "two", "role": "admin"}))
        answers = await asyncio.gather(
            ask(world, one["key"], "DELETE", f"{PATH}/{two['id']}"),
            ask(world, two["key"], "DELETE", f"{PATH}/{one['id']}"),
        )
        first, second = sorted(answer.status_code for answer in answers)
        assert (first, second in {401, 409}) == (204, True)
        one = two if await check(world, one["key"]) == 401 else one
        assert await check(world, one["key"]) == 200


async def test_nobody_raises_or_extends_themselves(world: World) -> None:
    made = await scoped(world, "team-a", ttl_s=3600)
    path = f"{PATH}/{made['id']}"
    for change in ({"teams": None}, {"expires_at": None}, {"teams": ["default"]}, {"role": "viewer"}):
        assert problem(await ask(world, made["key"], "PATCH", path, json=change), 403), change
    assert done(await ask(world, made["key"], "PATCH", path, json={"description": "mine"}))["description"] == "mine"
    assert "key" in done(await ask(world, made["key"], "POST", f"{path}/rotate", json={}))


async def test_a_key_gives_no_more_than_it_has(world: World) -> None:
    made = await scoped(world, "team-a", "team-b", environments=["test"])
    inside = {"name": "in", "role": "admin", "teams": ["team-a"], "environments": ["test"]}
    within = done(await ask(world, made["key"], "POST", PATH, json=inside))
    for wider in ({"teams": None}, {"environments": None}, {"teams": ["team-a", "default"]}, {"environments": ["x"]}):
        problem(await ask(world, made["key"], "POST", PATH, json={**inside, **wider}), 403)
        problem(await ask(world, made["key"], "PATCH", f"{PATH}/{within['id']}", json=wider), 403)
    listed = done(await ask(world, made["key"], "GET", PATH))["data"]
    assert {row["id"] for row in listed} == {made["id"], within["id"]}
    outside = await world.post(PATH, {"name": "out", "role": "viewer", "teams": ["team-a"]})
    for method, path, body in (
        ("GET", "", None), ("DELETE", "", None), ("PATCH", "", {"name": "mine"}), ("POST", "/rotate", {}),
    ):  # fmt: skip
        problem(await ask(world, made["key"], method, f"{PATH}/{outside['id']}{path}", json=body), 404)


async def test_a_role_that_may_more_is_not_given(world: World) -> None:
    values = {"name": "x", "description": "", "owner_id": None, "expires_at": None}
    for maker, role, scope in (("operator", "auditor", None), ("viewer", "admin", None), ("admin", "viewer", ["x"])):
        actor = Actor("key", "key-x", maker, maker, Scope(None, ("test",)))
        wanted = {**values, "role": role, "teams": None, "environments": scope}
        async with world.ctx.db.transaction() as tx:
            with pytest.raises(Forbidden):
                await keys.make(tx, actor, wanted, world.clock.now(), "req-1")


async def test_an_owner_and_a_team_of_a_key_stay_while_it_works(world: World) -> None:
    owner = await world.post("/api/v1/owners", {"name": "Ada"})
    made = await scoped(world, "team-a", "team-b", owner_id=owner["id"])
    for path in (f"/api/v1/owners/{owner['id']}", "/api/v1/teams/team-b"):
        assert f"in use by 1 API keys ({made['id']})" in problem(await world.call("DELETE", path), 409)["detail"]
    assert (await world.call("DELETE", f"{PATH}/{made['id']}")).status_code == 204
    for path in (f"/api/v1/owners/{owner['id']}", "/api/v1/teams/team-b"):
        assert (await world.call("DELETE", path)).status_code == 204
    assert (await world.get(f"{PATH}/{made['id']}"))["owner_id"] is None


async def test_uses_are_stored_together_and_late(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = [await world.post(PATH, {"name": name, "role": "viewer"}) for name in ("one", "two")]
    for made in (one, one, two):
        assert await check(world, made["key"]) == 200
    assert await check(world, "ctk_" + "x" * 43) == 401
    assert (await world.get(f"{PATH}/{one['id']}"))["last_used_at"] is None
    world.ctx.uses.keys[one["id"]] = time.monotonic() - 3600
    await store_uses(world.ctx)
    ages = await world.rows("SELECT id, extract(epoch FROM now() - last_used_at)::float8 AS age FROM api_keys")
    age = {row["id"]: row["age"] for row in ages}
    assert 3600 <= age[one["id"]] < 3660
    assert 0 <= age[two["id"]] < 60
    assert world.ctx.uses.keys == {}
    newest = (await world.get(PATH, sort="-last_used_at"))["data"]
    assert newest[-1]["last_used_at"] is None or newest[-1]["id"] == one["id"]
    world.ctx.uses.key(two["id"])

    async def away(*_: object) -> None:
        raise Transient("the database is away")

    monkeypatch.setattr("coordinator.access.store.touch_keys", away)
    with pytest.raises(CertctlError):
        await store_uses(world.ctx)
    assert two["id"] in world.ctx.uses.keys, "what could not be stored is kept for the next time"


async def test_a_request_costs_one_statement_for_its_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await scoped(world, "team-a", environments=["test"])
    asked: list[str] = []
    for name in ("fetch", "fetchrow", "fetchval", "execute"):
        real = getattr(Connection, name)

        async def counted(conn: Connection, sql: str, *values: object, real: Any = real) -> Any:
            asked.append(sql)
            return await real(conn, sql, *values)

        monkeypatch.setattr(Connection, name, counted)
    told = done(await ask(world, made["key"], "GET", "/api/v1/auth/check"))
    assert told["scope"] == {"teams": ["team-a"], "environments": ["test"]}
    assert (told["kind"], told["id"]) == ("key", made["id"])
    assert len(asked) == 1, asked


async def test_a_stop_stores_what_was_noted(world: World) -> None:
    made = await world.post(PATH, {"name": "ci", "role": "viewer"})
    task = asyncio.create_task(uses.run(world.ctx))
    await asyncio.sleep(0)
    assert await check(world, made["key"]) == 200
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await world.get(f"{PATH}/{made['id']}"))["last_used_at"] is not None
