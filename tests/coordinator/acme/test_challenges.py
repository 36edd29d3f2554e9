"""Challenge mode, on real DNS and real servers: what proves a name, what does not, and what is told of it."""

from __future__ import annotations

import asyncio
import http.server
import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import httpx
import pytest

from coordinator.enrollment.acme import validating
from core import acme
from tests.connectors.validation.handshakes import context_of, make
from tests.coordinator.acme.client import Client, refused
from tests.coordinator.acme.net import Net, challenge, outcome, settings
from tests.coordinator.world import World, open_world, variables

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(net: Net, database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(variables(database_url, tmp_path, **settings(net))) as opened:
        yield opened
        for task in list(opened.ctx.validations.tasks):
            await task


async def test_what_is_offered(client: Client) -> None:
    order = (await client.order("a.test", "*.a.test", "192.0.2.1")).json()
    assert order["status"] == "pending"
    offered = [
        {each["type"] for each in (await client.post(url)).json()["challenges"]} for url in order["authorizations"]
    ]
    assert offered == [
        {"http-01", "dns-01", "tls-alpn-01", "dns-account-01"},
        {"dns-01", "dns-account-01"},
        {"http-01", "tls-alpn-01"},
    ]
    refused(await client.finalize(order), "orderNotReady")


@pytest.mark.parametrize("name", ["ok.test", "127.0.0.1"])
async def test_http_01(client: Client, net: Net, name: str) -> None:
    order, found, key_authorization = await challenge(client, name, "http-01")
    net.serve(found["token"], key_authorization + "\n")
    assert (await outcome(client, order, found))["order"] == "ready"
    done = (await client.post(order)).json()
    assert (await client.finalize(done)).json()["status"] == "valid"


async def test_a_wrong_answer_is_told_with_evidence(client: Client, net: Net) -> None:
    order, found, _ = await challenge(client, "wrong.test", "http-01")
    net.serve(found["token"], "nonsense\x1b[31m")
    ended = await outcome(client, order, found)
    assert (ended["status"], ended["order"]) == ("invalid", "invalid")
    assert ended["error"]["type"] == acme.URN + "incorrectResponse"
    assert "nonsense" in ended["error"]["detail"]
    assert "evidence" not in ended
    shown = await client.world.get(f"/api/v1/acme-orders/{order.rpartition('/')[2]}")
    (told,) = [each for each in shown["authorizations"][0]["challenges"] if each["type"] == "http-01"]
    evidence = told["evidence"]
    assert evidence["addresses"] == ["127.0.0.1"]
    assert evidence["resolvers"] == [f"127.0.0.1:{net.dns_port}"]
    assert evidence["asked"].startswith("http://wrong.test:")
    assert "nonsense" in evidence["answer"]
    assert "\x1b" not in json.dumps(evidence) + ended["error"]["detail"]
    events = await client.world.rows("SELECT details FROM audit_events WHERE action = 'acme_challenge.completed'")
    assert events[0]["details"]["outcome"] == "invalid"
    again = (await client.order("wrong.test")).json()
    assert again["authorizations"] != [found["url"].replace("challenge", "authz").rpartition("/")[0]]


def redirect(net: Net, token: str, *targets: str) -> None:
    """Redirect from page to page, beginning at the challenge's."""
    places = [f"/.well-known/acme-challenge/{token}", *targets]
    for place, target in itertools.pairwise(places):

        def answer(request: http.server.BaseHTTPRequestHandler, target: str = target) -> None:
            request.send_response(302)
            request.send_header("Location", target)
            request.end_headers()

        net.pages[place] = answer


async def test_redirects_are_followed(client: Client, net: Net) -> None:
    order, found, key_authorization = await challenge(client, "moved.test", "http-01")
    redirect(net, found["token"], "/one", "http://other.test/two")
    net.serve("x", key_authorization)
    net.pages["/two"] = net.pages.pop("/.well-known/acme-challenge/x")
    assert (await outcome(client, order, found))["order"] == "ready"


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/meta-data/", "file:///etc/passwd"])
async def test_a_redirect_leads_nowhere_else(client: Client, net: Net, target: str) -> None:
    """SSRF by redirect (RFC 8555 section 10.4)."""
    order, found, _ = await challenge(client, "moved.test", "http-01")
    redirect(net, found["token"], target)
    ended = await outcome(client, order, found)
    assert ended["error"]["type"] == acme.URN + "connection"
    assert "root:" not in json.dumps(ended)


async def test_nobody_is_sent_to_this_host(net: Net, database_url: str, tmp_path: Path) -> None:
    """SSRF by DNS: a name that leads to loopback is not dialled, and only one that was looked at is."""
    strict = settings(net)
    del strict["CERTCTL_ACME_SERVER_ALLOWED_NETWORKS"]
    async with open_world(variables(database_url, tmp_path, **strict)) as world:
        client = Client(world)
        await client.register()
        for kind in ("http-01", "tls-alpn-01"):
            order, found, key_authorization = await challenge(client, f"{kind}.test", kind)
            net.serve(found["token"], key_authorization)
            ended = await outcome(client, order, found)
            assert ended["error"]["type"] == acme.URN + "connection"
            assert "127.0.0.1" in ended["error"]["detail"]


async def test_a_name_is_resolved_once_a_hop(client: Client, net: Net) -> None:
    """DNS rebinding: what was looked at is what is dialled; nothing asks the DNS between look and dial."""
    order, found, key_authorization = await challenge(client, "rebind.test", "http-01")
    net.serve(found["token"], key_authorization)
    net.set("clear-request-history", host="rebind.test", type="dns")
    await outcome(client, order, found)
    history = [str(each) for each in json.loads(_history(net, "rebind.test"))]
    assert sum("'Qtype': 1," in each for each in history) == 1, history


def _history(net: Net, host: str) -> bytes:
    url = f"http://127.0.0.1:{net.manage_port}/dns-request-history"
    return httpx.post(url, json={"host": host}).content


@pytest.mark.parametrize("name, kind", [("d.test", "dns-01"), ("*.w.test", "dns-01"), ("*.acc.test", "dns-account-01")])
async def test_dns(client: Client, net: Net, name: str, kind: str) -> None:
    order, found, key_authorization = await challenge(client, name, kind)
    at = acme.dns_name(name, client.kid if kind == "dns-account-01" else "")
    net.txt(at, "something else")
    net.txt(at, acme.txt_value(key_authorization))
    assert (await outcome(client, order, found))["order"] == "ready"
    assert (await client.finalize((await client.post(order)).json())).json()["status"] == "valid"


async def test_dns_that_says_something_else(client: Client, net: Net) -> None:
    order, found, _ = await challenge(client, "other.test", "dns-01")
    net.txt("_acme-challenge.other.test", "something else")
    ended = await outcome(client, order, found)
    assert ended["error"]["type"] == acme.URN + "incorrectResponse"
    assert "something else" in ended["error"]["detail"]


async def test_dns_that_fails(client: Client, net: Net) -> None:
    order, found, _ = await challenge(client, "broken.test", "dns-01")
    net.set("set-servfail", host="_acme-challenge.broken.test")
    assert (await outcome(client, order, found))["error"]["type"] == acme.URN + "dns"


@pytest.mark.parametrize("said, kind", [("right", ""), ("of another token", "incorrectResponse")])
async def test_tls_alpn_01(client: Client, net: Net, tmp_path: Path, said: str, kind: str) -> None:
    order, found, key_authorization = await challenge(client, "t.test", "tls-alpn-01")
    extension = acme.alpn_extension(key_authorization if said == "right" else "x.y")
    net.tls[:] = [context_of(make(tmp_path, "t.test", extension=extension))]
    ended = await outcome(client, order, found)
    if kind:
        assert ended["error"]["type"] == acme.URN + kind, ended
    else:
        assert ended["order"] == "ready", ended


CAA: list[tuple[list[dict[str, str]], bool, str]] = [
    ([{"tag": "issue", "value": "ca.test; validationmethods=dns-01"}], False, ""),
    ([{"tag": "issue", "value": "ca.test; accounturi=https://elsewhere.test/1"}], False, "caa"),
    ([{"tag": "issue", "value": "ca.test"}, {"tag": "issuewild", "value": ";"}], True, "caa"),
]


@pytest.mark.parametrize("policies, wildcard, kind", CAA)
async def test_caa(
    net: Net, database_url: str, tmp_path: Path, policies: list[dict[str, str]], wildcard: bool, kind: str
) -> None:
    """RFC 8659 and RFC 8657; the records stand at the domain above."""
    more = settings(net) | {"CERTCTL_ACME_SERVER_CAA_IDENTITIES": "ca.test"}
    async with open_world(variables(database_url, tmp_path, **more)) as world:
        client, domain = Client(world), f"d{abs(hash(str(policies)))}.test"
        await client.register()
        if policies:
            net.set("add-caa", host=f"{domain}.", policies=policies)
        name = f"*.a.{domain}" if wildcard else f"a.{domain}"
        order, found, key_authorization = await challenge(client, name, "dns-01")
        net.txt(acme.dns_name(name), acme.txt_value(key_authorization))
        ended = await outcome(client, order, found)
        assert ended.get("error", {}).get("type", "") == (acme.URN + kind if kind else ""), ended


@pytest.mark.parametrize("base", ["/acme", "/acme/profile/prof-default"])
@pytest.mark.parametrize("kind", ["http-01", "dns-account-01"])
async def test_a_dead_coordinators_challenge_is_taken_up(
    world: World, net: Net, monkeypatch: pytest.MonkeyPatch, kind: str, base: str
) -> None:
    """The account is called as the client called it: an account has two URLs at the default profile."""
    client = Client(world, base)
    await client.register()
    order, found, key_authorization = await challenge(client, "left.test", kind)
    net.serve(found["token"], key_authorization)
    net.txt(acme.dns_name("left.test", client.kid), acme.txt_value(key_authorization))
    with monkeypatch.context() as patched:
        patched.setattr(validating, "begin", lambda *_: None)
        await client.post(found["url"], {})
    await world.execute("UPDATE acme_authorizations SET answered_at = now() - interval '3 minutes'")
    assert await validating.take_up(world.ctx) == 1
    await asyncio.gather(*world.ctx.validations.tasks)
    assert (await client.post(order)).json()["status"] == "ready"


async def test_no_place_in_time_is_no_word_on_the_name(
    client: Client, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at again, as what a dead coordinator left."""
    order, found, key_authorization = await challenge(client, "busy.test", "http-01")
    net.serve(found["token"], key_authorization)
    ctx = client.world.ctx
    validator = ctx.validations.of(ctx)
    with monkeypatch.context() as patched:
        patched.setitem(validator._places, "http-01", anyio.Semaphore(0))
        patched.setattr(validator, "_settings", replace(validator._settings, deadline_s=0.05))
        assert (await outcome(client, order, found))["status"] == "processing"
    await client.world.execute("UPDATE acme_authorizations SET answered_at = now() - interval '3 minutes'")
    assert await validating.take_up(ctx) == await validating.take_up(ctx) == 1
    (task,) = ctx.validations.tasks  # the second time it was under way
    await task
    assert (await client.post(order)).json()["status"] == "ready"


async def test_a_mode_is_read_with_each_order(client: Client) -> None:
    before = (await client.order("m.test")).json()
    await client.world.call("PATCH", "/api/v1/profiles/prof-default", json={"acme_auth_mode": "trust_authenticated"})
    after = (await client.order("m.test")).json()
    assert (before["status"], after["status"]) == ("pending", "ready")
    await client.world.call("PATCH", "/api/v1/profiles/prof-default", json={"acme_auth_mode": None})
    assert (await client.order("m.test")).json()["status"] == "pending", "trust proves nothing to who wants proof"


async def test_responds_are_limited(net: Net, database_url: str, tmp_path: Path) -> None:
    few = settings(net) | {"CERTCTL_ACME_SERVER_RATE_LIMIT_CHALLENGE_RESPONDS_PER_HOUR": "1"}
    async with open_world(variables(database_url, tmp_path, **few)) as world:
        client = Client(world)
        await client.register()
        order, found, _ = await challenge(client, "once.test", "dns-01")
        await outcome(client, order, found)
        again = await client.post(found["url"], {})
        assert (again.status_code, again.json()["status"]) == (200, "invalid")
