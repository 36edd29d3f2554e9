"""People sign in and out at a real OpenID provider, a process of its own over TLS."""

from __future__ import annotations

import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.lab.processes import Process, free_ports, stopped_at_the_end
from tests.coordinator.oidc.browser import CLIENT_ID, CLIENT_SECRET, Browser, query_of, variables
from tests.coordinator.oidc.conftest import Shown
from tests.coordinator.world import World, done, dump, open_world, problem
from tests.coordinator.world import variables as world_variables

pytestmark = pytest.mark.anyio
URL = "https://127.0.0.1:8443"


class RealProvider:
    """The process, and what a browser does there."""

    def __init__(self, folder: Path, shown: Shown) -> None:
        (port,) = free_ports(1)
        self.issuer = f"https://localhost:{port}"
        arguments = [str(port), str(shown.certificate), str(shown.key), CLIENT_ID, CLIENT_SECRET]
        argv = [sys.executable, "-W", "ignore", "-m", "tests.coordinator.oidc.real_provider", *arguments]
        self.process = Process("provider", [*argv, f"{URL}/auth/oidc/callback", f"{URL}/"], folder / "provider.log")
        context = ssl.create_default_context(cafile=shown.ca)
        self.http = httpx.Client(verify=context, trust_env=False)

    def answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return self.http.get(f"{self.issuer}/jwks").is_success
        return False

    def sign_in(self, url: str, user: str = "ada") -> dict[str, str]:
        """Sign in as somebody; return the parameters that the browser is sent back with."""
        self.http.get(f"{self.issuer}/as/{user}")
        response = self.http.get(url)
        assert response.status_code == 302, response.text
        location = response.headers["Location"]
        assert location.startswith(f"{URL}/auth/oidc/callback?")
        return query_of(location)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory, shown: Shown) -> Iterator[RealProvider]:
    """The provider of this module's tests."""
    provider = RealProvider(tmp_path_factory.mktemp("real"), shown)
    with stopped_at_the_end([provider.process]), provider.http:
        provider.process.start()
        provider.process.await_ready(provider.answers)
        yield provider


@pytest.fixture
async def world(database_url: str, tmp_path: Path, provider: RealProvider, shown: Shown) -> AsyncIterator[World]:
    """A coordinator whose people sign in there."""
    more = variables(provider.issuer, shown.ca)
    async with open_world(world_variables(database_url, tmp_path, **more)) as opened:
        yield opened


async def test_somebody_signs_in_works_and_signs_out(world: World, provider: RealProvider) -> None:
    browser = Browser(world)
    told = await world.get("/api/v1/auth/info", key="")
    assert (told["methods"], told["login_url"]) == (["api-key", "oidc"], "/auth/oidc/login")
    url = await browser.begin("/certificates?status=due")
    asked = query_of(url)
    assert (asked["code_challenge_method"], len(asked["code_challenge"])) == ("S256", 43)
    back = await browser.come_back(**provider.sign_in(url))
    assert (back.status_code, back.headers["Location"]) == (302, "/certificates?status=due")
    told = await browser.whoami()
    assert (told["kind"], told["user"], told["role"]) == ("person", "Ada Lovelace", "admin")
    done(await browser.change("POST", "/api/v1/teams", json={"name": "Web"}))
    (session,) = (await world.get("/api/v1/sessions"))["data"]
    assert (session["email"], session["person_id"]) == ("ada@example.com", told["id"])

    stored = str(await dump(world.dsn))
    assert browser.session
    assert browser.session not in stored
    out = done(await browser.change("POST", "/auth/logout"))
    assert out["location"].startswith(f"{provider.issuer}/session?")
    assert query_of(out["location"])["post_logout_redirect_uri"] == f"{URL}/"
    hint = query_of(out["location"])["id_token_hint"]
    assert hint not in stored
    assert browser.session == ""
    problem(await browser.http.get("/api/v1/auth/check"), 401)
    assert (await world.get("/api/v1/sessions"))["data"] == []
    actions = await world.rows("SELECT action FROM audit_events WHERE resource_type = 'person' ORDER BY id")
    assert [row["action"] for row in actions] == ["person.login", "person.logout"]


async def test_the_cookie_is_for_this_host_alone_and_no_script_reads_it(world: World, provider: RealProvider) -> None:
    browser = Browser(world)
    back = await browser.come_back(**provider.sign_in(await browser.begin()))
    (cookie,) = (c for c in back.headers.get_list("Set-Cookie") if c.startswith("__Host-certctl="))
    assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    assert [name for name in browser.http.cookies if "login" in name] == [], "what was pending is gone"


async def test_who_is_known_and_has_no_role_does_not_come_in(world: World, provider: RealProvider) -> None:
    browser = Browser(world)
    refused = await browser.come_back(**provider.sign_in(await browser.begin(), "eve"))
    assert "CERTCTL_OIDC_ROLE_MAP" in problem(refused, 403)["detail"]
    assert browser.session == ""
    assert await world.value("SELECT count(*) FROM sessions") == 0
    (event,) = await world.rows("SELECT actor, action, details FROM audit_events WHERE resource_type = 'person'")
    assert (event["actor"], event["action"]) == ("anonymous", "person.login_failed")
    assert event["details"]["error"] == "Forbidden"


async def test_an_answer_works_once_and_in_the_browser_that_began(world: World, provider: RealProvider) -> None:
    browser, thief = Browser(world), Browser(world)
    answer = provider.sign_in(await browser.begin())
    problem(await thief.come_back(**answer), 400, "state")
    await thief.begin()
    problem(await thief.come_back(**answer), 400, "state")
    cookies = dict(browser.http.cookies)
    assert (await browser.come_back(**answer)).status_code == 302
    browser.http.cookies.update(cookies)
    assert "used already" in problem(await browser.come_back(**answer), 400, "state")["detail"]


async def test_a_code_of_another_sign_in_is_not_taken(world: World, provider: RealProvider) -> None:
    browser = Browser(world)
    first, second = provider.sign_in(await browser.begin()), provider.sign_in(await browser.begin())
    # PKCE: the code belongs to the first verifier.
    problem(await browser.come_back(**{**second, "code": first["code"]}), 401)
    assert await world.value("SELECT count(*) FROM audit_events WHERE action = 'person.login_failed'") == 1
    assert (await browser.come_back(**first)).status_code == 302, "two tabs sign in at once"


async def test_every_login_is_a_new_session_and_ends_the_one_before(world: World, provider: RealProvider) -> None:
    browser = Browser(world)
    browser.http.cookies.set("__Host-certctl", "cts_chosen-by-somebody-else", domain="127.0.0.1")
    await browser.come_back(**provider.sign_in(await browser.begin()))
    first = browser.session
    assert first not in {"", "cts_chosen-by-somebody-else"}
    await browser.come_back(**provider.sign_in(await browser.begin()))
    assert browser.session not in {"", first}
    assert await world.value("SELECT count(*) FROM sessions") == 1
    assert await world.value("SELECT count(*) FROM people") == 1


async def test_another_coordinator_goes_on_with_a_login_and_knows_the_session(
    database_url: str, tmp_path: Path, provider: RealProvider, shown: Shown
) -> None:
    environment = world_variables(database_url, tmp_path, **variables(provider.issuer, shown.ca))
    async with open_world(environment) as one, open_world(environment) as two:
        first, second = Browser(one), Browser(two)
        answer = provider.sign_in(await first.begin())
        second.http.cookies.update(first.http.cookies)
        assert (await second.come_back(**answer)).status_code == 302
        first.http.cookies.update(second.http.cookies)
        assert (await first.whoami())["user"] == (await second.whoami())["user"] == "Ada Lovelace"
