"""Limits on requests: what is counted for whom, before and after it is known who asks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.access import service as access
from coordinator.agents import tokens as enrollment
from coordinator.app import create_app
from coordinator.limits import service as limits
from coordinator.metrics.service import REGISTRY
from core.errors import TooManyRequests, Transient
from tests.coordinator.world import KEYS, World, bearer, done, open_world, problem, variables

pytestmark = pytest.mark.anyio

BURST = 5
SLOWLY = {"CERTCTL_RATE_LIMIT_RPS": "1", "CERTCTL_RATE_LIMIT_BURST": str(BURST)}
CHECK = "/api/v1/auth/check"
WRONG = "some-other-key-of-somebody"


@pytest.fixture
async def strict(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A coordinator with budgets of five, and a clock for them that stands still."""
    async with open_world(variables(database_url, tmp_path, **SLOWLY)) as world:
        hold(world)
        yield world


def hold(world: World) -> list[float]:
    """Stop the clock of the budgets; return what it shows, to be moved."""
    shown = [1000.0]
    budgets = world.ctx.budgets
    for each in (budgets.open, budgets.failures, budgets.chances, budgets.sign_ins, budgets.callers):
        each._now = lambda: shown[0]
    return shown


def limited(scope: str) -> float:
    return REGISTRY.get_sample_value("certctl_rate_limited_total", {"scope": scope}) or 0.0


def too_many(response: httpx.Response) -> dict[str, Any]:
    found = problem(response, 429)
    assert found["type"] == "urn:certctl:problem:too-many-requests"
    assert int(response.headers["retry-after"]) >= 1
    return found


def from_address(world: World, address: str) -> httpx.AsyncClient:
    """Return a client with another address."""
    app: Any = create_app(world.ctx)
    transport = httpx.ASGITransport(app=app, client=(address, 1234))
    return httpx.AsyncClient(transport=transport, base_url="https://certctl.test")


async def test_a_caller_has_its_own_budget_and_is_told_how_it_stands(strict: World) -> None:
    before = limited("credential")
    answers = [await strict.call("GET", CHECK, "viewer") for _ in range(BURST + 1)]
    assert [answer.status_code for answer in answers] == [200] * BURST + [429]
    assert [answer.headers["ratelimit"] for answer in answers] == [
        *(f'"credential";r={left};t={BURST - left}' for left in (4, 3, 2, 1, 0)),
        f'"credential";r=0;t={BURST}',
    ]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {f'"credential";q={BURST};w={BURST}'}
    too_many(answers[-1])
    assert answers[-1].headers["retry-after"] == "1"
    assert limited("credential") == before + 1
    assert (await strict.call("GET", CHECK, "admin")).is_success, "another key at the same address"


async def test_a_budget_comes_back_with_time(strict: World) -> None:
    shown = hold(strict)
    for _ in range(BURST):
        done(await strict.call("GET", CHECK))
    too_many(await strict.call("GET", CHECK))
    shown[0] += 1
    done(await strict.call("GET", CHECK))
    too_many(await strict.call("GET", CHECK))
    shown[0] += 60
    for _ in range(BURST):
        done(await strict.call("GET", CHECK))
    too_many(await strict.call("GET", CHECK))


async def test_callers_with_a_budget_of_their_own(database_url: str, tmp_path: Path) -> None:
    more = {"CERTCTL_RATE_LIMIT_PER_USER_BURST": "7"}
    async with open_world(variables(database_url, tmp_path, **SLOWLY, **more)) as world:
        hold(world)
        answers = [await world.call("GET", CHECK) for _ in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 7 + [429]


async def test_what_a_caller_may_not_do_is_counted_as_well(strict: World) -> None:
    answers = [await strict.call("GET", "/api/v1/api-keys", "viewer") for _ in range(BURST + 1)]
    assert [answer.status_code for answer in answers] == [403] * BURST + [429]
    problem(await strict.http.get(CHECK), 401)  # and not for its address


async def test_a_fleet_behind_one_address_comes_back_although_a_neighbour_fails(strict: World) -> None:
    fleet = [await strict.agent(f"web-{number}", token) for number, token in enumerate(await tokens(strict, 12))]
    strict.ctx.budgets._known.clear()  # as after a restart
    for answer in [await strict.http.get(CHECK) for _ in range(BURST)]:
        problem(answer, 401)
    too_many(await strict.http.get(CHECK))
    for agent in fleet:
        assert await agent.poll() == []
        await agent.sign_in()
        assert await agent.poll() == []


async def tokens(world: World, number: int) -> list[str]:
    """Make tokens behind the limits' back."""
    made = []
    for _ in range(number):
        async with world.ctx.db.transaction() as tx:
            _, value, _ = await enrollment.create(tx, access.SYSTEM, "", timedelta(hours=1), "")
            made.append(value.reveal())
    return made


async def test_an_agents_own_routes_are_counted_for_the_agent(strict: World) -> None:
    one, other = [await strict.agent(name, token) for name, token in zip("ab", await tokens(strict, 2), strict=True)]
    for _ in range(BURST):
        assert await one.poll() == []
    too_many(await one.call("GET", "/work", params={"boot": one.boot}))
    assert await other.poll() == []


async def test_failures_of_an_address_are_counted_whatever_they_are(strict: World) -> None:
    failures = [
        await strict.http.get(CHECK),
        await strict.http.get(CHECK, headers=bearer("ctk_" + "x" * 43)),
        await strict.http.post("/api/v1/agents/ag-none/nonce"),
        await strict.http.post("/api/v1/agents", content=b"{"),
        await strict.http.post("/api/v1/agents", content=b" " * 2 * 1024 * 1024),
    ]
    assert [answer.status_code for answer in failures] == [401, 401, 404, 400, 413]
    for answer in (await strict.http.get(CHECK), await strict.http.post("/api/v1/agents", content=b"{")):
        assert "this address" in too_many(answer)["detail"]
    async with from_address(strict, "192.0.2.7") as http:
        problem(await http.get(CHECK), 401)


async def test_a_flood_of_failures_is_not_even_looked_at(strict: World, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0
    look_up = limits.guess

    def counted(*arguments: Any) -> Any:
        nonlocal looked
        looked += 1
        return look_up(*arguments)

    agent = await strict.agent("web-1", (await tokens(strict, 1))[0])
    assert await agent.poll() == []
    monkeypatch.setattr(limits, "guess", counted)
    for number in range(100):
        await strict.http.get(CHECK, headers=bearer(f"ctk_{number:043}"))
    assert looked == BURST + 10 * BURST
    assert await agent.poll() == [], "was good a moment ago"


async def test_open_routes_are_counted_each_for_itself(strict: World) -> None:
    for http, path in ((strict.http, "/api/v1/version"), (strict.pki, "/.well-known/pki/crl/iss-local")):
        answers = [await http.get(path) for _ in range(BURST + 1)]
        assert [answer.status_code for answer in answers] == [200] * BURST + [429]
        too_many(answers[-1])
    assert (await strict.http.get("/ready")).is_success
    assert [(await strict.http.get("/health")).status_code for _ in range(BURST * 3)] == [200] * BURST * 3
    problem(await strict.http.get(CHECK), 401)


async def test_nonces_of_one_agent_run_out_for_one_address_only(strict: World) -> None:
    agent = await strict.agent("web-1", (await tokens(strict, 1))[0])
    url = f"/api/v1/agents/{agent.id}/nonce"
    answers = [await strict.http.post(url) for _ in range(BURST)]
    too_many(answers[-1])
    async with from_address(strict, "192.0.2.7") as http:
        done(await http.post(url))


async def test_limits_can_be_turned_off_but_guessing_stays_limited(database_url: str, tmp_path: Path) -> None:
    off = {"CERTCTL_RATE_LIMIT_ENABLED": "false", **SLOWLY}
    async with open_world(variables(database_url, tmp_path, **off)) as world:
        for _ in range(BURST * 3):
            answer = await world.call("GET", CHECK)
            assert answer.is_success
            assert "ratelimit" not in answer.headers
        statuses = [(await world.http.get(CHECK, headers=bearer(WRONG))).status_code for _ in range(limits.GUESSES + 2)]
        assert statuses == [401] * limits.GUESSES + [429] * 2


async def test_guesses_are_shared_by_replicas_and_lock_no_owner_out(database_url: str, tmp_path: Path) -> None:
    environment = variables(database_url, tmp_path)
    async with open_world(environment) as one, open_world(environment) as other:
        done(await one.call("GET", CHECK, "viewer"))
        statuses = []
        for number in range(limits.GUESSES + 2):
            world = (one, other)[number % 2]
            statuses.append((await world.http.get(CHECK, headers=bearer(f"{WRONG}-{number}"))).status_code)
        assert statuses == [401] * limits.GUESSES + [429] * 2
        refused = await one.call("GET", CHECK, "operator")
        assert "authentication" in too_many(refused)["detail"], "a right guess after the last one is not looked at"
        assert 20 <= int(refused.headers["retry-after"]) <= 30
        done(await one.call("GET", CHECK, "viewer"))
        async with from_address(other, "192.0.2.7") as http:
            problem(await http.get(CHECK, headers=bearer(WRONG)), 401)
            done(await http.get(CHECK, headers=bearer(KEYS["operator"])))


async def test_guesses_at_once_are_no_more(world: World) -> None:
    asked = [world.http.get(CHECK, headers=bearer(f"{WRONG}-{number}")) for number in range(3 * limits.GUESSES)]
    statuses = [answer.status_code for answer in await asyncio.gather(*asked)]
    assert (statuses.count(401), statuses.count(429)) == (limits.GUESSES, 2 * limits.GUESSES)


async def test_good_credentials_use_no_guesses_up(database_url: str, tmp_path: Path) -> None:
    static = "a static token"
    environment = variables(database_url, tmp_path, CERTCTL_AGENT_BOOTSTRAP_TOKEN=static)
    for _ in range(6):
        async with open_world(environment) as world:  # each has forgotten what was good
            for role in KEYS:
                done(await world.call("GET", CHECK, role))
    async with open_world(environment) as world:
        for number in range(limits.GUESSES + 2):
            await world.agent(f"web-{number}", static)


async def test_enrollment_tokens_that_could_be_guessed_are_counted(database_url: str, tmp_path: Path) -> None:
    static = "a static token"
    async with open_world(variables(database_url, tmp_path, CERTCTL_AGENT_BOOTSTRAP_TOKEN=static)) as world:
        agent = await world.agent(token=static)
        for number in range(limits.GUESSES):
            problem(await agent.enroll(f"guess-{number}"), 401)
        assert "enrollment" in too_many(await agent.enroll("guess-last"))["detail"]
        used = (await world.post("/api/v1/enrollment-tokens"))["token"]
        await world.agent("web-2", used)
        problem(await (await world.agent("web-3")).enroll(used), 401)
        done(await agent.enroll(static))
        done(await world.call("GET", CHECK, "viewer"))


async def test_a_key_that_was_switched_off_is_a_guess_again(world: World) -> None:
    done(await world.call("GET", CHECK, "viewer"))
    await world.execute("UPDATE api_keys SET disabled_at = now() WHERE name = 'viewer'")
    answers = [await world.call("GET", CHECK, "viewer") for _ in range(limits.GUESSES + 2)]
    assert [answer.status_code for answer in answers] == [401] * (limits.GUESSES + 1) + [429]


async def test_a_shared_bucket_of_any_name(world: World) -> None:
    hour = timedelta(hours=1)
    for _ in range(3):
        await limits.take(world.ctx, "exports", "key-1", 3, hour)
    with pytest.raises(TooManyRequests, match="exports: the 3") as caught:
        await limits.take(world.ctx, "exports", "key-1", 3, hour)
    assert 1190 <= caught.value.retry_after_s <= 1200
    await limits.take(world.ctx, "exports", "key-2", 3, hour)
    await limits.take(world.ctx, "orders", "key-1", 3, hour)
    for _ in range(9):
        await limits.take(world.ctx, "off", "key-1", 0, hour)
    await world.execute("UPDATE limit_buckets SET full_at = full_at - interval '20 minutes'")
    await limits.take(world.ctx, "exports", "key-1", 3, hour)
    with pytest.raises(TooManyRequests):
        await limits.take(world.ctx, "exports", "key-1", 3, hour)


async def test_what_is_taken_in_a_transaction_comes_back_with_it(world: World) -> None:
    hour = timedelta(hours=1)
    with contextlib.suppress(LookupError):
        async with world.ctx.db.transaction() as tx:
            await limits.take(tx, "exports", "key-1", 1, hour)
            raise LookupError
    async with world.ctx.db.transaction() as tx:
        await limits.take(tx, "exports", "key-1", 1, hour)
    with pytest.raises(TooManyRequests):
        await limits.take(world.ctx, "exports", "key-1", 1, hour)


async def test_full_buckets_are_removed(world: World) -> None:
    await limits.take(world.ctx, "exports", "key-1", 2, timedelta(hours=1))
    await limits.take(world.ctx, "exports", "key-2", 2, timedelta(hours=1))
    await world.execute("UPDATE limit_buckets SET full_at = now() WHERE subject = 'key-1'")
    await limits.purge(world.ctx)
    assert [row["subject"] for row in await world.rows("SELECT subject FROM limit_buckets")] == ["key-2"]


async def test_a_database_that_fails_uses_no_guess_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        detail = "database is not reachable"
        raise Transient(detail)

    with monkeypatch.context() as patched:
        patched.setattr(access, "_look_up", away)
        for _ in range(limits.GUESSES * 2):
            problem(await world.http.get(CHECK, headers=bearer(WRONG)), 503)
    problem(await world.http.get(CHECK, headers=bearer(WRONG)), 401)
