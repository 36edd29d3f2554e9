"""Visitors of a live nginx, counted by wrk, notice no renewal beyond what any reload does to kept connections."""

from __future__ import annotations

from pathlib import Path

from benchmarks.lab.processes import Process, stopped_at_the_end
from benchmarks.traffic import CONNECTIONS, measure

RENEWALS = 5


def test_visitors_notice_no_renewal(tmp_path: Path) -> None:
    processes: list[Process] = []
    with stopped_at_the_end(processes):
        new, _, kept, control = measure(tmp_path, processes, RENEWALS)
    assert new.traffic.requests > RENEWALS
    assert new.traffic.failed == 0, new
    # nginx closes each kept connection once per reload, whoever asked for it.
    assert kept.traffic.failed <= RENEWALS * CONNECTIONS, (kept, control)
    assert kept.traffic.requests > RENEWALS
