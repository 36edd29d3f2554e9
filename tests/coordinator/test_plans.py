"""No list reads a big table from end to end: the plans of what is really asked, on a database with real proportions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks.api.seed import seed
from benchmarks.api.stock import RARE, Stock
from coordinator.approvals import deciding
from coordinator.bindings import service as bindings
from coordinator.certificates.store import LISTING
from coordinator.database import searching
from coordinator.database.connection import Connection
from coordinator.database.listing import EVERYTHING, Scope
from coordinator.events import store as events
from coordinator.notifications import alerts, delivery
from tests.coordinator.world import KEYS, World, open_world, variables
from tests.postgres import PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(300)]
CERTIFICATES = 50_000
BIG_BYTES = 1_000_000
"""Tables from this size on may not be read from end to end; months of the audit trail count each by itself."""


class Statement(NamedTuple):
    """What was asked of the database."""

    sql: str
    arguments: tuple[Any, ...]


@pytest.fixture(scope="module")
def stocked(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """DSN of a database with 50,000 certificates and what belongs to them."""
    with postgres_server.fresh_database() as dsn:

        async def fill() -> None:
            async with open_world(variables(dsn, tmp_path_factory.mktemp("data"))) as world:
                await seed(dsn, Stock(CERTIFICATES, world.clock.now()), quiet=True)

        asyncio.run(fill())
        yield dsn


@pytest.fixture
async def large(stocked: str, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(variables(stocked, tmp_path)) as world:
        yield world


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


async def asked(
    world: World, monkeypatch: pytest.MonkeyPatch, path: str, key: str = "admin", **query: Any
) -> list[Statement]:
    """Return the statements that a request led to."""
    return await told_by(monkeypatch, lambda: world.get(f"/api/v1/{path}", key, **query))


async def told_by(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Awaitable[object]]) -> list[Statement]:
    """Return the statements that something led to."""
    told = list[Statement]()
    with monkeypatch.context() as patched:
        for name in ("fetch", "fetchrow", "fetchval", "execute"):
            plain = getattr(Connection, name)

            async def listening(self: Any, sql: str, *arguments: Any, plain: Any = plain) -> Any:
                told.append(Statement(sql, arguments))
                return await plain(self, sql, *arguments)

            patched.setattr(Connection, name, listening)
        await act()
    return told


async def scans(world: World, statement: Statement) -> list[str]:
    """Return the big tables that a statement's plan reads from end to end."""
    async with world.ctx.db.connection() as conn:
        said = await conn.fetchval(f"EXPLAIN (FORMAT JSON) {statement.sql}", *statement.arguments)
        found = nodes(json.loads(said)[0]["Plan"])
        read = [node["Relation Name"] for node in found if node["Node Type"] == "Seq Scan"]
        big = "SELECT relname FROM pg_class WHERE relname = ANY($1) AND pg_relation_size(oid) > $2"
        return [row["relname"] for row in await conn.fetch(big, read, BIG_BYTES)]


def lists(world: World) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every list with each of its filters, common and rare values, and each sort."""
    certificate, now = Stock(CERTIFICATES, world.clock.now()).id(17), world.clock.now()
    moments = {days: (now + timedelta(days=days)).isoformat() for days in (-399, -1, 10)}
    values: dict[str, list[str]] = {
        "q": ["example", "com", RARE, f"{RARE} eu", "mail-17", "nothingofthekind"],
        "name": ["api-1"],
        "common_name": ["api-1"],
        "life": ["pending", "valid", "due", "expired", "revoked"],
        "service": ["served", "partly", "drifted", "outdated", "not served", "unknown"],
        "environment": ["prod", "lab", "none"],
        "owner_id": ["o-1"],
        "team_id": ["team-0", "team-49"],
        "issuer_id": ["iss-local", "iss-0"],
        "profile_id": ["prof-default", "prof-none"],
        "renewal_policy_id": ["rp-default", "rp-0"],
        "agent_id": ["ag-1"],
        "target_id": ["tgt-1"],
        "tag": ["tier:1", "ticket:T-17", "ticket:none"],
        "archived": ["true"],
        **{f"{what}_before": list(moments.values()) for what in ("expires", "renews", "created", "updated")},
        **{f"{what}_after": list(moments.values()) for what in ("expires", "created", "updated")},
    }
    assert set(values) | {"standing"} >= {name for name in LISTING.filters if not name.startswith("life_")}
    yield "certificates", {}
    for name, some in values.items():
        for value in some:
            yield "certificates", {name: value}
            yield "certificates", {name: value, "environment": "prod", "sort": "expires_at"}
    for sort in LISTING.sorts:
        yield "certificates", {"sort": sort}
        yield "certificates", {"sort": f"-{sort}", "environment": "lab"}
    for part in ("versions", "deployments", "timeline"):
        yield f"certificates/{certificate}/{part}", {}
    yield f"certificates/{certificate}", {}
    for query in (
        {},
        {"certificate_id": certificate},
        {"agent_id": "ag-1"},
        {"state": "Completed"},
        {"state": "Failed"},
    ):
        yield "jobs", query
    for what in ("summary", "certificates-by-status", "expiration-timeline", "job-trends", "issuance-rate"):
        yield f"stats/{what}", {}
    for path in ("overview", "horizon", "metrics", "fleet/map"):
        yield path, {}
    for text in ("api", RARE, "host-1", "owner 7", certificate, "nothingofthekind"):
        yield "search", {"q": text}
    for query in (
        {},
        {"resource_id": certificate, "resource_type": "certificate"},
        {"actor": "agent:ag-1"},
        {"action": "certificate.due"},
        {"action": "no.such"},
    ):
        yield "audit", query


async def test_no_list_reads_a_big_table_from_end_to_end(
    large: World, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    for path, query in lists(large):
        with subtests.test(f"{path} {query}"):
            for statement in await asked(large, monkeypatch, path, **query):
                assert await scans(large, statement) == [], statement.sql


async def test_numbers_and_pages_of_a_part_read_no_big_table_either(
    large: World, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    parts = (
        {"teams": ["team-0", "team-1"]},
        {"environments": ["lab"]},
        {"teams": ["team-49"], "environments": ["prod"]},
    )
    for number, part in enumerate(parts):
        made = await large.post("/api/v1/api-keys", {"name": f"part {number}", "role": "viewer", **part})
        monkeypatch.setitem(KEYS, "part", made["key"])
        for path in ("stats/summary", "stats/expiration-timeline", "overview", "horizon", "search"):
            query = {"q": "api"} if path == "search" else {}
            with subtests.test(f"{path} {part}"):
                for statement in await asked(large, monkeypatch, path, key="part", **query):
                    assert await scans(large, statement) == [], statement.sql


@pytest.mark.parametrize("text", ["api", "site-1", "tgt-17", "nothingofthekind"])
async def test_a_search_walks_past_nothing(large: World, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """No plan filters a big index from end to end; only the newest certificates are looked through for words."""
    for statement in await asked(large, monkeypatch, "search", q=text):
        async with large.ctx.db.connection() as conn:
            said = await conn.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.sql}", *statement.arguments)
        for node in nodes(json.loads(said)[0]["Plan"]):
            passed = node.get("Rows Removed by Filter", 0) + node["Actual Rows"]
            assert passed <= (searching.NEAR if "search @@" in statement.sql else 1000), statement.sql


@pytest.mark.parametrize("scope", [EVERYTHING, Scope(("team-0",)), Scope(None, ("lab",))])
async def test_events_are_read_from_their_place(large: World, monkeypatch: pytest.MonkeyPatch, scope: Scope) -> None:
    told = list[Statement]()
    plain = Connection.fetch

    async def listening(self: Any, sql: str, *arguments: Any) -> Any:
        told.append(Statement(sql, arguments))
        return await plain(self, sql, *arguments)

    monkeypatch.setattr(Connection, "fetch", listening)
    async with large.ctx.db.connection() as conn:
        until = await events.horizon(conn)
        place = events.Place(until.era, until.xact - 1, 0)
        for everything in (False, True):
            await events.after(conn, events.Wanted(place, until, None, everything=everything), scope, 200)
    monkeypatch.undo()
    assert [await scans(large, statement) for statement in told] == [[], []]


async def test_loops_look_for_ends_and_timeouts_without_reading_everything(
    large: World, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    await alerts.watch(large.ctx)
    await large.execute("UPDATE alerts_watch SET looked_until = looked_until - interval '1 hour'")
    ticks: dict[str, Callable[[], Awaitable[object]]] = {
        "alerts": lambda: alerts.watch(large.ctx),
        "approvals": lambda: deciding.expire(large.ctx),
        "delivery": lambda: delivery.deliver(large.ctx, "webhook"),
        "reconciler": lambda: bindings.reconcile(large.ctx),
    }
    for name, tick in ticks.items():
        statements = await told_by(monkeypatch, tick)
        for statement in statements:
            with subtests.test(name):
                assert await scans(large, statement) == [], statement.sql
    assert await large.value("SELECT count(*) FROM notifications") > 0


async def test_notifications_are_read_from_their_place(
    large: World, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    await large.execute(
        """
        INSERT INTO notifications (id, key, type, severity, certificate_id, channel, subject, message, status,
                                   next_retry_at, read_at)
        SELECT 'ntf-' || n, 'n' || n, 'certificate_expiring', 'error', certificates.id, 'log', 'it ends', 'and why',
          'sent', NULL, CASE WHEN n % 100 > 0 THEN now() END
        FROM (SELECT id, row_number() OVER () AS n FROM certificates LIMIT 30000) AS certificates
        """
    )
    await large.execute("ANALYZE notifications")
    certificate = Stock(CERTIFICATES, large.clock.now()).id(17)
    queries: list[dict[str, Any]] = [
        {}, {"status": "sent"}, {"status": "dead"}, {"unread": True}, {"certificate_id": certificate},
        {"type": "certificate_expiring"}, {"type": "certificate_failing"},
    ]  # fmt: skip
    for query in queries:
        with subtests.test(f"{query}"):
            for statement in await asked(large, monkeypatch, "notifications", **query):
                assert await scans(large, statement) == [], statement.sql
    for statement in await asked(large, monkeypatch, "notifications/counts"):
        assert await scans(large, statement) == [], statement.sql


async def test_a_page_in_the_middle_is_read_from_its_place(large: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for sort in LISTING.sorts:
        cursor = (await large.get("/api/v1/certificates", per_page=100, page=50, sort=sort))["next_cursor"]
        statements = await asked(large, monkeypatch, "certificates", cursor=cursor, sort=sort)
        page = next(statement for statement in statements if "sort_key" in statement.sql)
        async with large.ctx.db.connection() as conn:
            said = await conn.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {page.sql}", *page.arguments)
        (scan,) = [node for node in nodes(json.loads(said)[0]["Plan"]) if node.get("Relation Name") == "certificates"]
        assert scan["Actual Rows"] <= 51, sort


@pytest.mark.parametrize(
    "word", ["example", "eu", "team1", "team49", RARE, "nothingofthekind", "api team1", "edge team49"]
)
@pytest.mark.parametrize("query", [{}, {"environment": "prod"}, {"environment": "lab", "sort": "-expires_at"}])
@pytest.mark.parametrize("near", [10, 10_000])
async def test_a_search_finds_what_is_there(
    large: World, monkeypatch: pytest.MonkeyPatch, word: str, query: dict[str, str], near: int
) -> None:
    monkeypatch.setattr(searching, "NEAR", near)
    page = await large.get("/api/v1/certificates", q=word, **query)
    matching = "NOT archived AND name ~ ALL ($1) AND environment = coalesce($2, environment)"
    order = "expires_at DESC, id DESC" if "sort" in query else "created_at DESC, id DESC"
    select = f"SELECT id FROM certificates WHERE {matching} ORDER BY {order}"
    rows = await large.rows(select, [rf"\m{each}" for each in word.split()], query.get("environment"))
    assert [row["id"] for row in page["data"]] == [row["id"] for row in rows[:50]]
    if page["next_cursor"]:
        following = await large.get("/api/v1/certificates", q=word, cursor=page["next_cursor"], **query)
        assert [row["id"] for row in following["data"]] == [row["id"] for row in rows[50:100]]
    assert (page["total"], page["total_exact"]) == (min(len(rows), 10_000), len(rows) <= 10_000)


@pytest.mark.parametrize("text", ["api team1", "search eu", "team4 edge us"])
async def test_how_many_a_search_for_common_words_finds_is_estimated(
    large: World, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    words = [rf"\m{word}" for word in text.split()]
    there = await large.value("SELECT count(*) FROM certificates WHERE NOT archived AND name ~ ALL ($1)", words)
    monkeypatch.setattr(searching, "_FEW", 1000)
    page = await large.get("/api/v1/certificates", q=text)
    assert page["total"] == pytest.approx(there, rel=0.5)
    assert not page["total_exact"]
    narrowed = await large.get("/api/v1/certificates", q=text, environment="prod")
    assert narrowed["total_exact"]


async def test_what_reads_everything_is_found_out(large: World) -> None:
    statement = Statement("SELECT count(*) FROM certificates WHERE lifetime_s = $1", (1,))
    assert await scans(large, statement) == ["certificates"]
