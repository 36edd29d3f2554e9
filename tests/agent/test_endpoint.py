"""The local page: healthy or not, in numbers that Prometheus reads, on a port that is held from the start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from agent.activity import Activity
from agent.endpoint import SILENT_S, create_page, exposition, open_listener, serve_page
from agent.identity import Identity, load_identity
from core.errors import Misconfigured


@pytest.fixture
def somebody(state_dir: Path) -> Identity:
    return load_identity(state_dir)


@pytest.fixture
def activity() -> Activity:
    return Activity(held={"job-1": "mc-a"}, ended={"served": 3, "unchanged": 0, "failed": 1, "issued": 2})


def numbers(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


@pytest.mark.trio
async def test_health_is_that_of_the_connection(
    somebody: Identity, activity: Activity, autojump_clock: MockClock
) -> None:
    page = create_page(somebody, activity).test_client()
    assert (await page.get("/health")).status_code == 503
    activity.note_answer()
    answer = await page.get("/health")
    assert (answer.status_code, await answer.get_json()) == (200, {"status": "healthy", "last_error": ""})
    activity.note_trouble("not reachable")
    await trio.sleep(SILENT_S - 1)
    assert (await page.get("/health")).status_code == 200
    await trio.sleep(2)
    answer = await page.get("/health")
    assert answer.status_code == 503
    assert await answer.get_json() == {"status": "unhealthy", "last_error": "not reachable"}


@pytest.mark.trio
async def test_status_shows_what_is_in_hand(somebody: Identity, activity: Activity) -> None:
    answer = await create_page(somebody, activity).test_client().get("/status")
    assert await answer.get_json() == {
        "agent_id": "",
        "connected": False,
        "last_error": "",
        "in_hand": {"job-1": "mc-a"},
        "ended": {"served": 3, "unchanged": 0, "failed": 1, "issued": 2},
    }


@pytest.mark.trio
async def test_metrics_are_read_by_prometheus(somebody: Identity, activity: Activity) -> None:
    activity.note_answer()
    answer = await create_page(somebody, activity).test_client().get("/metrics")
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    read = {
        (name, labels.get("outcome")): value for name, labels, value in numbers(await answer.get_data(as_text=True))
    }
    assert read == {
        ("certctl_agent_connected", None): 1,
        ("certctl_agent_jobs_in_hand", None): 1,
        ("certctl_agent_jobs_ended_total", "served"): 3,
        ("certctl_agent_jobs_ended_total", "unchanged"): 0,
        ("certctl_agent_jobs_ended_total", "failed"): 1,
        ("certctl_agent_jobs_ended_total", "issued"): 2,
    }
    assert exposition(activity).endswith("\n")


@pytest.mark.trio
async def test_the_page_comes_back_on_the_same_port_after_a_crash(
    somebody: Identity, activity: Activity, nursery: trio.Nursery
) -> None:
    files = open_files()
    with open_listener(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for _ in range(3):
            async with trio.open_nursery() as run:
                run.start_soon(serve_page, listener, somebody, activity)
                async with httpx.AsyncClient(trust_env=False) as http:
                    answer = await http.get(f"{url}/health")
                run.cancel_scope.cancel()
            assert answer.status_code == 503
            assert "server" not in answer.headers
            with pytest.raises(Misconfigured):
                open_listener(listener.getsockname()[:2])
    assert open_files() == files


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_that_is_taken_is_told(host: str) -> None:
    with open_listener((host, 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(
            Misconfigured, match=f"CERTCTL_AGENT_LISTEN: cannot listen on {host}:{port}: Address already"
        ):
            open_listener((host, port))


def test_an_address_that_is_not_this_hosts_is_told() -> None:
    with pytest.raises(Misconfigured, match=r"CERTCTL_AGENT_LISTEN: cannot listen on 192\.0\.2\.1:9465"):
        open_listener(("192.0.2.1", 9465))
