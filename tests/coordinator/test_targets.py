"""Targets that change: what is deployed anew, what is refused, and secrets that only their agent can read."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.deployment.prepare import prepare
from agent.policy import load_policy
from coordinator.bindings import service as bindings
from core import keys, wire
from core.errors import Refused
from core.keys import KeyAlgorithm
from core.marking import IS_SET
from core.secret import Secret
from tests.connectors.targets import secretive
from tests.coordinator.world import KEYS, FakeAgent, World, bearer, csr_for, done, dump, problem

pytestmark = pytest.mark.anyio
LOGIN = {"user": "ada", "password": "correct horse battery"}  # pragma: allowlist secret


def config(name: str = "site", **more: Any) -> dict[str, Any]:
    return {"cert_path": f"/etc/nginx/{name}.pem", "key_path": f"/etc/nginx/{name}.key", **more}


@pytest.fixture
async def served(world: World) -> tuple[FakeAgent, str]:
    """An agent with a target that serves the certificate mc-site."""
    agent = await world.agent()
    target_id = await world.target(agent)
    await world.certificate(target_ids=[target_id], id="mc-site")
    await agent.work()
    return agent, f"/api/v1/targets/{target_id}"


async def stand(world: World) -> Any:
    return (await world.get("/api/v1/certificates/mc-site"))["status"]


async def test_another_configuration_is_deployed_and_another_name_is_not(
    world: World, served: tuple[FakeAgent, str]
) -> None:
    agent, path = served
    renamed = done(await world.call("PATCH", path, json={"name": "shop"}))
    assert (renamed["name"], renamed["revision"], renamed["certificate_id"]) == ("shop", 2, "mc-site")
    assert await agent.poll() == []
    moved = done(await world.call("PATCH", path, json={"config": {"probe": {"port": 8443}}}))
    assert moved["config"]["probe"] == {"port": 8443}
    assert moved["config"]["cert_path"] == renamed["config"]["cert_path"]
    assert (await stand(world))["service"] == "not served"
    item = await agent.item()
    assert item.config["probe"] == {"port": 8443}
    await agent.serve(item)
    assert (await stand(world))["service"] == "served"
    body = {"name": "shop", "type": "NGINX", "agent_id": agent.id, "config": config("other")}
    assert done(await world.call("PUT", path, json=body))["config"] == config("other")
    assert (await agent.item()).config == config("other")
    actions = await world.rows("SELECT action FROM audit_events WHERE resource_type = 'target' ORDER BY id")
    assert [row["action"] for row in actions] == ["target.created", *["target.updated"] * 3]


async def test_a_deployment_in_hand_is_overtaken_by_the_new_configuration(
    world: World, served: tuple[FakeAgent, str]
) -> None:
    agent, path = served
    done(await world.call("PATCH", path, json={"config": config("one")}))
    first = await agent.item()
    done(await world.call("PATCH", path, json={"config": config("two")}))
    assert problem(await agent.report(first.job_id, agent.report_on(first)), 409)["type"].endswith("stale-lease")
    second = await agent.item()
    assert second.config["cert_path"] == "/etc/nginx/two.pem"
    await agent.serve(second)
    assert (await stand(world))["service"] == "served"


async def test_seven_of_eight_serve_it_and_the_eighth_says_why_not(world: World) -> None:
    """Each agent has its own key; no failure stops another target, and a renewal goes to all again."""
    agents = [await world.agent(f"edge-{number}") for number in range(4)]
    targets = [await world.target(agents[number % 4], f"site-{number}") for number in range(8)]
    certificate_id, _ = await world.certificate(target_ids=targets)
    for agent in agents:
        await agent.issue(await agent.item())
    for agent in agents:
        for item in await agent.poll():
            assert isinstance(item, wire.DeploymentItem)
            await (agent.fail(item, "disk full") if item.target_id == targets[6] else agent.serve(item))
    path = f"/api/v1/certificates/{certificate_id}"
    found = (await world.get(path))["status"]
    assert (found["service"], found["served_on"], found["wanted_on"]) == ("partly", 7, 8)
    assert found["reason"] == "disk full"
    unserved = [bound["target_name"] for bound in found["bindings"] if not bound["served_version_id"]]
    assert unserved == ["site-6"]
    versions = (await world.get(f"{path}/versions"))["data"]
    assert len({version["spki_sha256"] for version in versions}) == 4
    await world.post(f"{path}/renew")
    for agent in agents:
        await agent.work()
    assert (await world.get(path))["status"]["served_on"] == 8


async def test_a_target_that_is_switched_off_is_left_alone_until_it_is_switched_on(
    world: World, served: tuple[FakeAgent, str]
) -> None:
    agent, path = served
    assert done(await world.call("PATCH", path, json={"enabled": False}))["enabled"] is False
    assert (await stand(world))["service"] == "served"
    await world.post("/api/v1/certificates/mc-site/renew")
    await agent.work()
    assert await bindings.reconcile(world.ctx) == 0
    found = await stand(world)
    assert (found["service"], "switched off" in found["reason"]) == ("outdated", True)
    done(await world.call("PATCH", path, json={"config": config("other")}))
    assert await agent.poll() == []
    done(await world.call("PATCH", path, json={"enabled": True}))
    await agent.serve(await agent.item())
    assert (await stand(world))["service"] == "served"


async def test_a_failure_of_a_target_that_was_switched_off_is_not_tried_again(
    world: World, served: tuple[FakeAgent, str]
) -> None:
    agent, path = served
    done(await world.call("PATCH", path, json={"config": config("other")}))
    item = await agent.item()
    done(await world.call("PATCH", path, json={"enabled": False}))
    await agent.fail(item)
    await world.execute("UPDATE jobs SET not_before = now() WHERE state = 'Pending'")
    assert await agent.poll() == []


async def test_what_waits_is_cancelled_when_its_target_is_switched_off(
    world: World, served: tuple[FakeAgent, str]
) -> None:
    agent, path = served
    done(await world.call("PATCH", path, json={"config": config("other")}))
    done(await world.call("PATCH", path, json={"enabled": False}))
    assert await agent.poll() == []
    (job,) = (await world.get("/api/v1/jobs", state="Cancelled"))["data"]
    assert "switched off" in job["failure"]["cause"]


async def test_a_target_that_should_serve_something_stays_and_says_what(
    world: World, served: tuple[FakeAgent, str]
) -> None:
    agent, path = served
    said = problem(await world.call("DELETE", path), 409)
    assert (said["certificate_id"], "mc-site" in said["detail"]) == ("mc-site", True)
    await world.post("/api/v1/certificates/mc-site/renew")
    item = await agent.item()
    assert (await world.call("DELETE", path, params={"force": "true", "reason": "sold"})).status_code == 204
    assert (await world.call("DELETE", path)).status_code == 204
    problem(await agent.submit(item, csr_for(item)), 409)
    gone = await world.get(path)
    assert (gone["archived_reason"], gone["certificate_id"]) == ("sold", None)
    assert gone["archived_at"] is not None
    assert (await world.get("/api/v1/targets"))["data"] == []
    assert [row["id"] for row in (await world.get("/api/v1/targets", archived="true"))["data"]] == [gone["id"]]
    found = await stand(world)
    assert (found["holders"], found["bindings"], "no agent" in found["reason"]) == ([], [], True)
    problem(await world.call("PATCH", path, json={"name": "x"}), 409)
    problem(await world.call("DELETE", "/api/v1/targets/tgt-none"), 404)
    await world.target(agent, "site")  # its name is free again


async def test_a_target_beside_another_one_of_its_agent_goes_without_the_key(
    world: World, served: tuple[FakeAgent, str]
) -> None:
    agent, path = served
    second = await world.target(agent, "second")
    await world.execute(
        "INSERT INTO bindings (certificate_id, target_id, desired_version_id) "
        "SELECT 'mc-site', $1, version_id FROM holders",
        second,
    )
    assert (await world.call("DELETE", path, params={"force": "true"})).status_code == 204
    found = await stand(world)
    assert [holder["agent_id"] for holder in found["holders"]] == [agent.id]
    assert [binding["target_id"] for binding in found["bindings"]] == [second]


async def test_a_target_moves_to_another_agent_which_makes_its_own_key(
    world: World, served: tuple[FakeAgent, str]
) -> None:
    agent, path = served
    other = await world.agent("other")
    done(await world.call("PATCH", path, json={"agent_id": other.id}))
    assert await agent.poll() == []
    found = await stand(world)
    assert ([holder["agent_id"] for holder in found["holders"]], found["served_on"]) == ([other.id], 0)
    await other.work()
    found = await stand(world)
    assert (found["service"], found["bindings"][0]["agent_id"]) == ("served", other.id)


async def test_a_target_moves_to_an_agent_that_has_the_certificate_already(world: World) -> None:
    one, two = await world.agent("one"), await world.agent("two")
    targets = [await world.target(one, "a"), await world.target(one, "b"), await world.target(two, "c")]
    await world.certificate(target_ids=targets, id="mc-site")
    for agent in (one, two):
        await agent.work()
    done(await world.call("PATCH", f"/api/v1/targets/{targets[0]}", json={"agent_id": two.id}))
    (item,) = await two.poll()
    assert isinstance(item, wire.DeploymentItem)
    await two.serve(item)
    assert await one.poll() == []
    found = await stand(world)
    assert (found["service"], len(found["holders"])) == ("served", 2)


async def test_a_move_while_the_old_agent_issues_ends_with_the_new_ones_certificate(world: World) -> None:
    one, two = await world.agent("one"), await world.agent("two")
    path = f"/api/v1/targets/{await world.target(one)}"
    await world.certificate(target_ids=[path.rpartition("/")[2]], id="mc-site")
    item = await one.item()
    csr = csr_for(item)
    moved, _ = await asyncio.gather(
        world.call("PATCH", path, json={"agent_id": two.id}), one.submit(item, csr), return_exceptions=True
    )
    assert not isinstance(moved, BaseException)
    if moved.status_code == 503:
        moved = await world.call("PATCH", path, json={"agent_id": two.id})
    done(moved)
    await two.work()
    assert await one.poll() == []
    found = await stand(world)
    assert ([holder["agent_id"] for holder in found["holders"]], found["service"]) == ([two.id], "served")


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "an unknown type": ({"type": "gopher"}, 400, "type"),
    "an unknown agent": ({"agent_id": "ag-none"}, 400, "agent_id"),
    "an unknown setting": ({"config": {"colour": "red"}}, 400, "config.colour"),
    "a setting that is taken away": ({"config": {"cert_path": None}}, 400, "config.cert_path"),
    "no configuration": ({"config": None}, 400, "config"),
    "a name that is taken": ({"name": "taken"}, 409, ""),
}


async def test_a_wrong_change_is_named_and_changes_nothing(
    world: World, served: tuple[FakeAgent, str], subtests: pytest.Subtests
) -> None:
    agent, path = served
    await world.target(agent, "taken")
    tag = (await world.call("GET", path)).headers["ETag"]
    before = await dump(world.dsn)
    for what, (body, status, field) in WRONG.items():
        with subtests.test(what):
            problem(await world.call("PATCH", path, json=body), status, field)
    with subtests.test("of what was changed meanwhile"):
        headers = {**bearer(KEYS["admin"]), "If-Match": '"99"'}
        problem(await world.http.patch(path, json={"name": "x"}, headers=headers), 412)
    assert await dump(world.dsn) == before
    headers = {**bearer(KEYS["admin"]), "If-Match": tag}
    done(await world.http.patch(path, json={"name": "x"}, headers=headers))


async def test_targets_are_found_by_what_they_are(world: World, subtests: pytest.Subtests) -> None:
    one, two = await world.agent("one"), await world.agent("two")
    ids = {name: await world.target(agent, name) for name, agent in (("a", one), ("b", one), ("c", two))}
    await world.certificate(target_ids=[ids["a"]], id="mc-site")
    done(await world.call("PATCH", f"/api/v1/targets/{ids['b']}", json={"enabled": False, "type": "files"}))
    found: dict[str, tuple[dict[str, str], list[str]]] = {
        "by agent": ({"agent_id": one.id}, ["a", "b"]),
        "by type": ({"type": "NGINX"}, ["a", "c"]),
        "by name": ({"name": "c"}, ["c"]),
        "switched off": ({"enabled": "false"}, ["b"]),
        "bound": ({"bound": "true"}, ["a"]),
        "free": ({"bound": "false"}, ["b", "c"]),
        "by certificate": ({"certificate_id": "mc-site"}, ["a"]),
        "by text": ({"q": "NGINX/C/"}, ["c"]),
    }
    for what, (query, names) in found.items():
        with subtests.test(what):
            rows = (await world.get("/api/v1/targets", sort="name", **query))["data"]
            assert [row["name"] for row in rows] == names


@pytest.fixture
def connector(monkeypatch: pytest.MonkeyPatch) -> secretive.SecretiveTarget:
    return secretive.offer(monkeypatch)


def body_of(agent: FakeAgent, **settings: Any) -> dict[str, Any]:
    return {"name": "vault", "type": "secretive", "agent_id": agent.id, "config": config(**settings)}


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., Any]:
    """What a real agent makes of a work item, before it touches its host."""
    toml = tmp_path / "agent.toml"
    toml.write_text('allowed_paths = ["/etc/nginx"]\n[services.secretive]\ntype = "secretive"\n')
    toml.chmod(0o600)
    policy = load_policy(toml, required=True)

    def make(agent: FakeAgent, item: wire.DeploymentItem, key: keys.PrivateKey) -> Any:
        return prepare(item, keys.to_pem(key), policy, agent.sealing)

    return make


async def deployment(agent: FakeAgent) -> tuple[wire.DeploymentItem, keys.PrivateKey]:
    """Issue what is asked for; return the deployment that follows and the key that it is for."""
    key = keys.generate(KeyAlgorithm.ECDSA_P256)
    item = await agent.item()
    done(await agent.submit(item, csr_for(item, key)))
    return await agent.item(), key


async def test_a_secret_reaches_the_connector_on_its_agent_and_nobody_else(
    world: World, connector: secretive.SecretiveTarget, prepared: Callable[..., Any]
) -> None:
    agent = await world.agent()
    sent = await world.call("POST", "/api/v1/targets", json=body_of(agent, login=LOGIN, pin="<pin-of-the-test>"))
    shown = done(sent)
    assert shown["config"] == config(login={"user": "ada", "password": IS_SET}, pin=IS_SET)
    assert await world.get(f"/api/v1/targets/{shown['id']}") == shown
    await world.certificate(target_ids=[shown["id"]])
    item, key = await deployment(agent)
    assert set(item.sealed) == {"pin", "login.password"}
    everything = f"{await dump(world.dsn)} {sent.text} {item} {(await world.call('GET', '/api/v1/audit')).text}"
    for secret in (LOGIN["password"], "<pin-of-the-test>"):
        assert secret not in everything
        assert base64.b64encode(secret.encode()).decode().rstrip("=") not in everything
    made = prepared(agent, item, key)
    (seen,) = connector.seen
    assert seen.pin == Secret("<pin-of-the-test>")
    assert seen.login is not None
    assert (seen.login.user, seen.login.password.reveal()) == ("ada", LOGIN["password"])
    assert LOGIN["password"] not in repr(made)
    for stranger in (await world.agent("other"),):
        with pytest.raises(Refused, match="enter it again"):
            prepared(stranger, item, key)


async def test_a_placeholder_keeps_a_secret_and_text_replaces_it(
    world: World, connector: secretive.SecretiveTarget, prepared: Callable[..., Any]
) -> None:
    agent = await world.agent()
    shown = await world.post("/api/v1/targets", body_of(agent, login=LOGIN, pin="1111"))
    path = f"/api/v1/targets/{shown['id']}"
    await world.certificate(target_ids=[shown["id"]])
    changes: list[tuple[str, dict[str, Any], str | None]] = [
        ("PATCH", {"name": "other"}, "1111"),
        ("PATCH", {"config": {"pin": IS_SET}}, "1111"),
        ("PATCH", {"config": {"login": {"user": "bob"}}}, "1111"),
        ("PATCH", {"config": {"pin": "2222"}}, "2222"),
        ("PATCH", {"config": {"pin": None}}, None),
        ("PUT", body_of(agent, login={"user": "eve", "password": IS_SET}, pin="3333"), "3333"),
        ("PUT", body_of(agent, login={"user": "eve", "password": IS_SET}), None),
    ]
    for method, body, pin in changes:
        answer = done(await world.call(method, path, json=body))
        assert answer["config"].get("pin") == (IS_SET if pin else None)
    item, key = await deployment(agent)
    prepared(agent, item, key)
    (seen,) = connector.seen
    assert seen.pin is None
    assert seen.login is not None
    assert (seen.login.user, seen.login.password.reveal()) == ("eve", LOGIN["password"])


@pytest.mark.usefixtures("connector")
async def test_a_placeholder_for_nothing_is_refused(world: World) -> None:
    agent = await world.agent()
    refused = await world.call("POST", "/api/v1/targets", json=body_of(agent, pin=IS_SET))
    problem(refused, 400, "config.pin")
    shown = await world.post("/api/v1/targets", body_of(agent, pin="1111"))
    path = f"/api/v1/targets/{shown['id']}"
    login = {"config": {"login": {"user": "ada", "password": IS_SET}}}
    problem(await world.call("PATCH", path, json=login), 400, "config.login.password")
    problem(await world.call("PATCH", path, json={"config": {"login": {"user": "x"}}}), 400, "config.login.password")
    problem(await world.call("PATCH", path, json={"config": {"pin": 7}}), 400, "config.pin")
    assert await world.get(path) == shown


async def test_another_agent_needs_the_secrets_again_and_the_answer_names_them(
    world: World, connector: secretive.SecretiveTarget, prepared: Callable[..., Any]
) -> None:
    agent, other = await world.agent(), await world.agent("other")
    shown = await world.post("/api/v1/targets", body_of(agent, login=LOGIN, pin="1111"))
    path = f"/api/v1/targets/{shown['id']}"
    await world.certificate(target_ids=[shown["id"]])
    shown = await world.get(path)
    refused = problem(await world.call("PATCH", path, json={"agent_id": other.id}), 422, "config.pin")
    assert {error["field"] for error in refused["errors"]} == {"config.pin", "config.login.password"}
    half = {"agent_id": other.id, "config": {"pin": "1111"}}
    refused = problem(await world.call("PATCH", path, json=half), 422, "config.login.password")
    assert len(refused["errors"]) == 1
    assert await world.get(path) == shown
    whole = {"agent_id": other.id, "config": {"pin": "1111", "login": LOGIN}}
    done(await world.call("PATCH", path, json=whole))
    item, key = await deployment(other)
    prepared(other, item, key)
    assert connector.seen[-1].pin == Secret("1111")


@pytest.mark.usefixtures("connector")
async def test_secrets_go_with_their_target(world: World) -> None:
    agent = await world.agent()
    for name in ("one", "two"):
        await world.post("/api/v1/targets", {**body_of(agent, pin="1111"), "name": name, "id": f"tgt-{name}"})
    assert (await world.call("DELETE", "/api/v1/targets/tgt-one")).status_code == 204
    done(await world.call("DELETE", f"/api/v1/agents/{agent.id}", params={"force": "true", "reason": "gone"}))
    assert await world.rows("SELECT DISTINCT sealed FROM targets") == [{"sealed": {}}]


@pytest.mark.usefixtures("connector")
async def test_every_kind_of_target_describes_itself(world: World) -> None:
    answer = await world.get("/api/v1/target-types", "viewer")
    kinds = {kind["type"]: kind for kind in answer["data"]}
    # The double of the entry points stands in for all that is installed; the built-in ones are modules.
    assert {"nginx", "files", "secretive", "broken"} <= kinds.keys()
    assert answer["total"] == len(kinds)
    assert kinds["secretive"]["secret_fields"] == ["pin", "login.password"]
    assert "cannot be loaded" in kinds["broken"]["problem"]
    nginx = await world.get("/api/v1/target-types/nginx")
    assert nginx == kinds["nginx"]
    fields = nginx["schema"]["$defs"]["NginxConfig"]["properties"]
    assert fields["service"]["default"] == "nginx"
    assert all(field["description"] for field in fields.values())
    problem(await world.call("GET", "/api/v1/target-types/gopher"), 404)
    assert (await world.get("/api/v1/target-types/broken"))["problem"]
