"""The simulated fleet: agents that crash, on a slow disk, behind a bad network, come to serve what they should."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.fleet.__main__ import Stage, measure
from benchmarks.fleet.config import Faults
from benchmarks.fleet.lab import Fleet
from benchmarks.fleet.measure import running_in
from benchmarks.lab.fleet import API, Coordinator
from benchmarks.lab.processes import Process, stopped_at_the_end, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
AGENTS, SITES = 50, 2
BAD = Faults(
    delay_ms=10, loss=0.03, answer_loss=0.03, drop=0.03, clock_offset_s=-5400, slow_disk_ms=3, crash_per_minute=120
)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    coordinator = Coordinator(tmp_path / "coordinator")
    try:
        yield coordinator.start()
    finally:
        coordinator.close()
        coordinator.process.stop()


@pytest.fixture
def api(coordinator: Coordinator) -> API:
    return coordinator.api()


@pytest.fixture
def fleet(tmp_path: Path, coordinator: Coordinator, api: API) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path / "fleet", coordinator.url, coordinator.ca_path, api, sites=SITES)
    try:
        yield fleet
    finally:
        fleet.stop()


def test_a_fleet_under_faults_comes_to_serve_everything(fleet: Fleet, api: API) -> None:
    fleet.grow([f"host-{number}" for number in range(AGENTS)])
    fleet.start()
    fleet.await_enrolled(60)
    fleet.set_faults(BAD)
    certificates = fleet.add_certificates()
    fleet.kill(0)
    fleet.restart(0)
    try:
        wait_until("every certificate served", lambda: not_served(api, certificates) == [], 150, pause_s=0.5)
    except TimeoutError as late:
        late.add_note("\n".join(histories(api, certificates)))
        raise
    happened = Counter(event["event"] for event in fleet.events())
    assert happened["crashed"] > 0
    assert happened["started"] == len(fleet.processes) + 1


def not_served(api: API, certificates: dict[str, str]) -> list[str]:
    """Return the sites whose certificate the coordinator does not hold for served."""
    found = {site: api.get(f"/api/v1/certificates/{each}")["status"] for site, each in certificates.items()}
    return [site for site, status in found.items() if status["service"] != "served"]


def histories(api: API, certificates: dict[str, str]) -> list[str]:
    """Return what has happened to the certificates that are not served."""
    found = [f"/api/v1/certificates/{certificates[site]}" for site in not_served(api, certificates)]
    return [json.dumps([api.get(path)["status"], api.get(f"{path}/timeline")], indent=1) for path in found]


def test_what_the_servers_show_is_what_was_issued(fleet: Fleet, api: API) -> None:
    fleet.grow(["host-1", "host-2"])
    fleet.start()
    fleet.await_enrolled(30)
    certificates = fleet.add_certificates()
    wait_until("every certificate served", lambda: not_served(api, certificates) == [], 30, pause_s=0.2)
    issued = {}
    for site, each in certificates.items():
        (holder,) = api.get(f"/api/v1/certificates/{each}")["status"]["holders"]
        issued[site] = holder["fingerprint"]
    assert {**fleet.served("host-1"), **fleet.served("host-2")} == issued


def test_a_small_fleet_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    processes: list[Process] = []
    with stopped_at_the_end(processes), Stage.open(tmp_path, processes) as stage:
        first = measure(stage, 3, argparse.Namespace(settle=0, idle=1, jobs=4))
        second = measure(stage, 8, argparse.Namespace(settle=0, idle=1, jobs=4))
        assert running_in(stage.cluster)
    assert (first["agents"], second["agents"]) == (3, 8)
    for figures in (first, second):
        assert 0 < figures["p50_ms"] <= figures["p99_ms"] < 5000
        assert 0 < figures["back_s"] < 60
        assert figures["rss_mb"] > 20
        assert figures["requests"] >= figures["agents"]
    assert not any(process.running() for process in processes)
    assert running_in(stage.cluster) == []
