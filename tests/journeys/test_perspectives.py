"""Challenges looked at by real agents from where they stand: what a hijack at one place brings, and what it does not.

The places are resolvers: the coordinator asks one, two agents another, the third agent a third one. The client speaks
to one coordinator and the agents to a second one, on the same database.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks.lab.acmeclient import Client
from benchmarks.lab.fleet import API, Agent
from benchmarks.lab.processes import free_ports, wait_until
from coordinator.database import driver
from core import acme
from tests.connectors.validation.world import ChallengeServer
from tests.journeys.pages import showing
from tests.journeys.stage import Stage, playing
from tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(180)
GROUP = "grp-perspectives"
SITE, ATTACKER = "127.0.0.3", "127.0.0.2"
"""Where a name leads to, and where it does not."""


class Home(NamedTuple):
    """The coordinator of the agents; its administrator's key was made by the other one."""

    url: str
    ca_path: Path
    api: API

    def enrollment_token(self) -> str:
        """Make a one-time token."""
        return str(self.api.post("/api/v1/enrollment-tokens", {})["token"])


class Estate:
    """Two coordinators, the places, and agents: ``a`` and ``b`` at one, ``c`` at another, ``d`` has not opted in."""

    def __init__(self, stage: Stage, dsn: str) -> None:
        self._stage, self.dsn = stage, dsn
        self.here, self.there, self.far = (self._place(name) for name in ("here", "there", "far"))
        (self.port,) = free_ports(1)
        env = {
            "CERTCTL_DATABASE_URL": dsn,
            "CERTCTL_CONFIG_ENCRYPTION_KEY": secrets.token_urlsafe(48),
            "CERTCTL_ACME_SERVER_ENABLED": "true",
            "CERTCTL_ACME_SERVER_DEFAULT_AUTH_MODE": "challenge",
            "CERTCTL_ACME_SERVER_DNS01_RESOLVER": f"127.0.0.1:{self.here.ports.dns}",
            "CERTCTL_ACME_SERVER_HTTP01_PORT": str(self.port),
            "CERTCTL_ACME_SERVER_ALLOWED_NETWORKS": "127.0.0.0/8",
            "CERTCTL_ACME_SERVER_PERSPECTIVES": GROUP,
            "CERTCTL_ACME_SERVER_GC_INTERVAL": "1s",
        }
        self.asked, home = (stage.coordinator(name, **env) for name in ("asked", "home"))
        self.api = home.api((self.asked.data_dir / "admin.key").read_text().strip())
        self._home = Home(home.url, home.ca_path, self.api)
        self.api.post("/api/v1/agent-groups", {"id": GROUP, "name": "perspectives"})
        places = {"a": self.there, "b": self.there, "c": self.far, "d": None}
        self.agents = {name: self.agent(name, place) for name, place in places.items()}

    def _place(self, name: str) -> ChallengeServer:
        folder = self._stage.folder / name
        folder.mkdir()
        server = ChallengeServer(folder)
        self._stage.keep(server.process)
        server.process.start().await_ready(server.ready)
        return server

    def agent(self, name: str, place: ChallengeServer | None) -> Agent:
        """Start an agent that stands at a place, or has not opted in, and put it into the group."""
        policy = (
            ""
            if place is None
            else f"""
[perspective]
enabled = true
allowed_networks = ["127.0.0.0/8"]
resolvers = ["127.0.0.1:{place.ports.dns}"]
http_port = {self.port}
"""
        )
        agent = self._stage.agent(name, self._home, policy)
        self.member(agent, "include")
        return agent

    def member(self, agent: Agent, membership: str) -> None:
        """Put an agent into the group or out of it."""
        path = f"/api/v1/agent-groups/{GROUP}/members/{agent.agent_id}"
        self.api.call("PUT", path, {"membership": membership})

    def leads(self, name: str, **places: str) -> None:
        """Say where a name leads to, by place."""
        for place, address in places.items():
            getattr(self, place).tell("add-a", host=f"{name}.", addresses=[address])

    def execute(self, statement: str) -> list[Any]:
        """Run a statement behind the coordinators' backs."""

        async def run() -> list[Any]:
            connection = await driver.connect(self.dsn, {})
            try:
                return await connection.fetch(statement)
            finally:
                await connection.close()

        return asyncio.run(run())


class Order:
    """An order of a client of its own for one name, and the challenge that it answers."""

    def __init__(self, estate: Estate, name: str) -> None:
        self._estate = estate
        self.client = Client(f"{estate.asked.url}/acme/directory", estate.asked.ca_path, 1)
        identifiers = {"identifiers": [{"type": "dns", "value": name}]}
        made = self.client.post("newOrder", self.client.directory["newOrder"], identifiers)
        self.order_id = made.headers["location"].rpartition("/")[2]
        found = json.loads(self.client.post("authorization", json.loads(made.body)["authorizations"][0]).body)
        (self.challenge,) = [each for each in found["challenges"] if each["type"] == acme.HTTP_01]
        self.text = f"{self.challenge['token']}.{self.client.thumbprint}"

    def answer(self) -> None:
        """Say that the answer is there, and nothing more."""
        self.client.post("challenge", self.challenge["url"], {})
        self.client.close()

    def told(self) -> dict[str, Any]:
        """Return the challenge as operators see it, with the order's status."""
        state = self._estate.api.get(f"/api/v1/acme-orders/{self.order_id}")
        (found,) = [each for each in state["authorizations"][0]["challenges"] if each["type"] == acme.HTTP_01]
        return {**found, "order": state["status"]}

    def ends(self) -> dict[str, Any]:
        """Wait until it is looked at, and return how that ended."""
        wait_until("it is looked at", lambda: self.told()["status"] not in {"pending", "processing"})
        return self.told()

    def hurry(self) -> None:
        """Let as much time pass as it takes until somebody looks again."""
        self._estate.execute("UPDATE acme_authorizations SET answered_at = now() - interval '3 minutes' "
                             "WHERE answered_at IS NOT NULL")  # fmt: skip


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[Estate]:
    """All of it, once."""
    with ExitStack() as stack:
        dsn = stack.enter_context(postgres_server.fresh_database(migrated=False))
        yield Estate(stack.enter_context(playing(tmp_path_factory.mktemp("perspectives"))), dsn)


def states(told: dict[str, Any]) -> dict[str, str]:
    return {view["name"]: view["state"] for view in told["evidence"]["perspectives"]}


def test_all_places_see_the_same(estate: Estate) -> None:
    """An agent whose host has not opted in says so, and is not counted."""
    order = Order(estate, "same.test")
    estate.leads("same.test", here=SITE, there=SITE, far=SITE)
    with showing(SITE, estate.port, order.text):
        order.answer()
        told = order.ends()
    assert (told["status"], told["order"]) == ("valid", "ready")
    assert states(told) == {"a": "seen", "b": "seen", "c": "seen", "d": "none"}
    views = {view["name"]: view for view in told["evidence"]["perspectives"]}
    assert views["c"]["evidence"][0]["addresses"] == [SITE]
    assert views["c"]["evidence"][0]["resolvers"] == [f"127.0.0.1:{estate.far.ports.dns}"]
    assert "set enabled = true in [perspective] in " in views["d"]["detail"]


def test_a_hijack_that_the_coordinator_alone_sees(estate: Estate) -> None:
    """The attacker answers where the coordinator looks; the site itself, where all others look, does not."""
    order = Order(estate, "hijacked.test")
    estate.leads("hijacked.test", here=ATTACKER, there=SITE, far=SITE)
    with showing(ATTACKER, estate.port, order.text), showing(SITE, estate.port, "welcome"):
        order.answer()
        told = order.ends()
    assert (told["status"], told["order"]) == ("invalid", "invalid")
    assert told["error"]["type"] == acme.URN + "incorrectResponse"
    assert "not at 3 of 3 other perspectives" in told["error"]["detail"]
    assert "a: failed" in told["error"]["detail"]
    assert "answered 'welcome'" in told["error"]["detail"]
    assert "agent.toml" not in told["error"]["detail"], "how hosts are set up is not the client's to know"
    assert told["evidence"]["addresses"] == [ATTACKER]
    seen = {view["name"]: view["evidence"][0] for view in told["evidence"]["perspectives"] if view["state"] == "failed"}
    assert {name: (view["addresses"], view["answer"]) for name, view in seen.items()} == {
        name: ([SITE], "welcome") for name in "abc"
    }


def test_one_place_of_three_that_sees_something_else(estate: Estate) -> None:
    """As with a record that has not come everywhere: the others are enough, and the difference is kept."""
    order = Order(estate, "slow.test")
    estate.leads("slow.test", here=SITE, there=SITE, far=ATTACKER)
    with showing(SITE, estate.port, order.text), showing(ATTACKER, estate.port, "not yet"):
        order.answer()
        told = order.ends()
    assert (told["status"], told["order"]) == ("valid", "ready")
    assert states(told) == {"a": "seen", "b": "seen", "c": "failed", "d": "none"}


def test_too_few_and_then_enough(estate: Estate) -> None:
    """The order waits, operators see why, and it goes on when another agent is there."""
    order = Order(estate, "few.test")
    estate.leads("few.test", here=SITE, there=SITE, far=SITE)
    for name in "ab":
        estate.member(estate.agents[name], "exclude")
    with showing(SITE, estate.port, order.text):
        order.answer()
        wait_until("it is put off", lambda: bool(order.told()["put_off"]))
        told = order.told()
        assert (told["status"], told["order"]) == ("processing", "pending")
        assert "too few perspectives have looked, at least 2 have to: d: none" in told["put_off"]
        estate.agent("late", estate.there)
        order.hurry()
        assert states(order.ends()) == {"late": "seen", "c": "seen", "d": "none"}
    for name in "ab":
        estate.member(estate.agents[name], "include")


def test_a_coordinator_killed_while_agents_look(estate: Estate) -> None:
    """The other one goes on: with a look of its own, and with new ones of the agents."""
    order = Order(estate, "killed.test")
    estate.leads("killed.test", here=SITE, there=SITE, far=SITE)
    for agent in estate.agents.values():
        agent.process.signal(signal.SIGSTOP)
    with showing(SITE, estate.port, order.text):
        order.answer()
        wait_until("agents are asked", lambda: len(estate.execute("SELECT FROM acme_looks")) > 0)
        estate.asked.process.kill()
        for agent in estate.agents.values():
            agent.process.signal(signal.SIGCONT)
        wait_until("they have told", lambda: len(estate.execute("SELECT FROM acme_looks WHERE report IS NULL")) == 0)
        assert order.told()["status"] == "processing", "nobody waits for them"
        order.hurry()
        told = order.ends()
    assert (told["status"], told["order"]) == ("valid", "ready")
    assert estate.execute("SELECT FROM acme_looks") == []
    estate.asked.start()
