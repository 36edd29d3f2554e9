"""Metrics: the reference's families, right on every coordinator, and told without a key on their own listener only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator import serving
from coordinator.metrics import state
from core.errors import Transient
from tests.coordinator.world import World, bearer, done, transport_of

pytestmark = pytest.mark.anyio
FAMILIES = {
    *("certificate_total", "certificate_active", "certificate_expiring_soon", "certificate_expired"),
    *("certificate_revoked", "agent_total", "agent_online", "job_pending", "job_completed", "job_failed"),
    *("uptime_seconds", "issuance", "issuance_duration_seconds", "issuance_failures", "deploy"),
    *("deploy_duration_seconds", "queue_age_seconds", "wakeup_latency_seconds", "http_requests"),
    *("http_request_duration_seconds",),
}
PAGE = Path(__file__).parents[2] / "docs" / "watching.md"
SECRETS = ("admin-key-of-the-tests", "test-encryption-key")


def samples(text: str) -> dict[tuple[Any, ...], float]:
    """Return the samples of a text by name and labels."""
    return {
        (sample.name.removeprefix("certctl_"), *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def told(world: World) -> dict[tuple[Any, ...], float]:
    response = await world.call("GET", "/api/v1/metrics/prometheus", "viewer")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return samples(response.text)


async def play(world: World) -> None:
    """Issue one certificate that is served, and one that fails on its target."""
    agent = await world.agent()
    for n, word in enumerate(("served", "failed")):
        await world.certificate(target_ids=[await world.target(agent, word)], common_name=f"a{n}.example.com")
        await agent.issue(await agent.item())
        item = await agent.item()
        await (agent.serve(item) if word == "served" else agent.fail(item))


async def test_the_families_are_there_and_count_what_happened(world: World) -> None:
    before = await told(world)
    await play(world)
    after = await told(world)
    response = await world.call("GET", "/api/v1/metrics/prometheus")
    assert {f"certctl_{name}" for name in FAMILIES} <= {
        family.name for family in text_string_to_metric_families(response.text)
    }
    assert not any(secret in response.text for secret in SECRETS)

    def grew(*sample: Any) -> float:
        return after.get(sample, 0) - before.get(sample, 0)

    local = ("issuer_type", "local")
    assert grew("issuance_total", local, ("outcome", "success")) == 2
    assert grew("issuance_duration_seconds_count", local) == 2
    assert [grew("deploy_total", ("outcome", word)) for word in ("served", "failed")] == [1, 1]
    assert (after[("certificate_total",)], after[("certificate_active",)]) == (2, 2)
    assert (after[("job_completed_total",)], after[("job_failed_total",)]) == (3, 1)
    assert after[("certificate_service", ("service", "served"))] == 1
    assert after[("job_live", ("state", "Pending"))] == 1, "the next attempt"


async def test_a_refused_csr_is_a_failure_of_its_class(world: World) -> None:
    before = await told(world)
    agent = await world.agent()
    await world.certificate(agent_id=agent.id)
    assert (await agent.submit(await agent.item(), b"no CSR")).status_code == 400
    sample = ("issuance_failures_total", ("error_class", "validation"), ("issuer_type", "local"))
    assert (await told(world))[sample] == before.get(sample, 0) + 1


async def test_json_says_the_same(world: World) -> None:
    await play(world)
    found = await world.get("/api/v1/metrics", "viewer")
    text = await told(world)
    assert found["gauge"] == {name: text[(name,)] for name in found["gauge"]}
    assert {name: text[(name,)] for name in found["counter"]} == found["counter"]
    assert found["uptime"]["seconds"] > 0


async def test_the_age_of_the_queue_is_that_of_its_oldest_ready_job(world: World) -> None:
    agent = await world.agent()
    await world.certificate(agent_id=agent.id)
    await world.execute("UPDATE jobs SET not_before = now() - interval '70 seconds'")
    assert 70 <= (await told(world))[("queue_age_seconds", ("state", "AwaitingCSR"))] < 100
    await world.execute("UPDATE jobs SET not_before = now() + interval '70 seconds'")
    assert ("queue_age_seconds", ("state", "AwaitingCSR")) not in await told(world)


async def test_two_coordinators_tell_one_state(replicas: tuple[World, World]) -> None:
    one, two = replicas
    await play(one)
    assert (await one.get("/api/v1/metrics"))["gauge"] == (await two.get("/api/v1/metrics"))["gauge"]


async def test_the_way_of_a_wake_up_is_timed(world: World) -> None:
    count = ("wakeup_latency_seconds_count",)
    before = (await told(world))[count]
    await world.certificate()

    async def grew() -> bool:
        return (await told(world))[count] > before

    for _ in range(100):
        if await grew():
            break
    assert await grew()


async def test_who_sees_a_part_is_told_numbers_of_that_part(world: World) -> None:
    await play(world)
    await world.post("/api/v1/teams", {"id": "team-web", "name": "web"})
    made = await world.post("/api/v1/api-keys", {"name": "limited", "role": "viewer", "teams": ["team-web"]})
    found = done(await world.http.get("/api/v1/metrics", headers=bearer(made["key"])))
    assert (found["gauge"]["certificate_total"], found["counter"]["job_completed_total"]) == (0, 0)
    assert found["gauge"]["job_pending"] == 0


async def test_the_listener_tells_all_and_goes_on_without_the_database(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await play(world)
    app = serving.metrics_app(world.ctx)
    async with httpx.AsyncClient(transport=transport_of(app), base_url="http://metrics.test") as client:
        assert samples((await client.get("/metrics")).text)[("certificate_total",)] == 2
        await world.certificate(common_name="later.example.com")
        assert samples((await client.get("/metrics")).text)[("certificate_total",)] == 2, "kept for some seconds"
        world.ctx.kept_state._until = 0.0

        async def away(*_: Any) -> state.State:
            message = "the database does not answer"
            raise Transient(message)

        monkeypatch.setattr(state, "read", away)
        found = samples((await client.get("/metrics")).text)
        assert ("uptime_seconds",) in found
        assert ("certificate_total",) not in found


async def test_the_page_names_every_family(world: World) -> None:
    text = (await world.call("GET", "/api/v1/metrics/prometheus")).text
    families = {f"{f.name}{'_total' if f.type == 'counter' else ''}" for f in text_string_to_metric_families(text)}
    rows = re.findall(r"^\| (`certctl_.*?) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = set[str]()
    for row in rows:
        first, *rest = re.findall(r"`(\w+)`", row)
        named.add(first)
        stem = first.removesuffix("_total")
        named |= {f"{stem}{name}" if name.startswith("_") else name for name in rest}
    families = {name for name in families if not name.endswith("_created")}
    assert families - named == set()
    assert named - families <= {"certctl_queue_age_seconds"}, "told only while something waits"
