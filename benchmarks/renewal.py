"""How long a renewal takes, from the request to the new certificate on the wire.

100 renewals, one after another, over 4 nginx servers with an agent each. The end is seen from outside, by handshakes
every few milliseconds; the parts come from the run's own timeline, so they do not add up to the whole.

Then 200 certificates of one nginx, and 200 of five, are renewed at once; the time runs from the first request to the
moment when a client has seen every one of them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.lab.fleet import API, Agent, Coordinator
from benchmarks.lab.processes import Process, free_ports, stopped_at_the_end
from benchmarks.lab.results import save, summary, table
from benchmarks.lab.servers import Nginx
from benchmarks.lab.together import Together, renew_together
from benchmarks.lab.wire import look, wait_for_change

SERVERS, RENEWALS = 4, 100
TOGETHER = 200
GOAL_P50_S, GOAL_P95_S = 0.5, 1.0
GOALS_TOGETHER_S = {1: 10.0, 5: 30.0}
"""By the number of services that the certificates belong to."""
Hosts = list[tuple[Nginx, str, str]]
"""Server, name, certificate id."""


def main() -> int:
    """Measure; exit code 1 when a renewal was not seen."""
    parser = argparse.ArgumentParser(prog="make bench-renewal", description=__doc__)
    parser.add_argument("--renewals", type=int, default=RENEWALS)
    parser.add_argument("--together", type=int, default=TOGETHER)
    options = parser.parse_args()
    folder, processes = Path(tempfile.mkdtemp(prefix="certctl-bench-")), list[Process]()
    try:
        with stopped_at_the_end(processes):
            coordinator = Coordinator(folder / "coordinator")
            processes.append(coordinator.process)
            api = coordinator.start().api()
            hosts = _fleet(folder, processes, coordinator, api)
            samples = [_renew(api, *hosts[number % len(hosts)]) for number in range(options.renewals)]
            _tell(samples)
            _tell_together(
                [
                    renew_together(folder, processes, coordinator, options.together, services)
                    for services in GOALS_TOGETHER_S
                ]
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _fleet(folder: Path, processes: list[Process], coordinator: Coordinator, api: API) -> Hosts:
    hosts: Hosts = []
    for number, port in enumerate(free_ports(SERVERS), 1):
        name = f"host-{number}"
        server = Nginx(name, folder / name, port, [f"{name}.example.test"])
        agent = Agent(name, folder / f"agent-{name}", coordinator, server.policy())
        processes += [server.process, agent.process]
        server.start()
        agent.start()
        hosts.append((server, f"{name}.example.test", _first(api, server, agent.agent_id, f"{name}.example.test")))
    return hosts


def _first(api: API, server: Nginx, agent_id: str, name: str) -> str:
    target = {"name": name, "type": "nginx", "agent_id": agent_id, "config": server.target_config(name)}
    target_id = api.post("/api/v1/targets", target)["id"]
    created = api.post("/api/v1/certificates", {"common_name": name, "target_ids": [target_id]})
    run = api.follow(created["job_ids"][0])
    if run["state"] != "served":
        message = f"{name} was not served at first: {run}"
        raise RuntimeError(message)
    return str(created["certificate"]["id"])


def _renew(api: API, server: Nginx, name: str, certificate_id: str) -> dict[str, float]:
    """Renew once; return milliseconds by part."""
    old = look(server.port, name)
    asked = time.monotonic()
    run_id = api.post(f"/api/v1/certificates/{certificate_id}/renew")["run_id"]
    _, seen = wait_for_change(server.port, name, old.fingerprint if old else "")
    run = api.follow(run_id)
    if run["state"] != "served":
        message = f"{name} was renewed, but its run is {run['state']}"
        raise RuntimeError(message)
    return {"request to served": (seen - asked) * 1000, **_parts(run)}


def _tell_together(runs: Sequence[Together]) -> None:
    sys.stdout.write("\n")
    for run in runs:
        goal_s = GOALS_TOGETHER_S[run.services]
        word = "met" if run.seconds <= goal_s else "NOT met"
        sys.stdout.write(
            f"{run.certificates} certificates of {run.services} nginx renewed at once by one agent: all served after "
            f"{run.seconds:.1f} s (goal {goal_s:g} s: {word}), {run.reloads} reloads, "
            f"agent {run.agent_before_mb:.0f} MB before and {run.agent_peak_mb:.0f} MB at most\n"
        )
    path = save("renewal_together", {"runs": [asdict(run) for run in runs], "goals_s": GOALS_TOGETHER_S})
    sys.stdout.write(f"written to {path}\n")


def _parts(run: dict[str, Any]) -> dict[str, float]:
    issuance, deployment = run["jobs"]
    made, installed = _steps(issuance), _steps(deployment)
    return {
        "wake-up": _between(made, "queued", "delivered") + _between(installed, "queued", "delivered"),
        "key and CSR": made["key"]["ms"] + made["csr"]["ms"],
        "sign and store": _between(made, "key", "completed"),
        "deploy": sum(installed[step]["ms"] for step in ("staged", "validated", "published", "checked")),
        "reload": installed["reloaded"]["ms"],
        "seen by the agent": installed["served"]["ms"],
    }


def _steps(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {step["step"]: step for step in job["timeline"]}


def _between(steps: dict[str, dict[str, Any]], first: str, second: str) -> float:
    instants = (datetime.fromisoformat(steps[step]["at"]) for step in (first, second))
    start, end = instants
    return (end - start).total_seconds() * 1000


def _tell(samples: list[dict[str, float]]) -> None:
    rows = {part: summary([sample[part] for sample in samples]) for part in samples[0]}
    whole = rows["request to served"]
    met = whole["p50"] <= GOAL_P50_S * 1000 and whole["p95"] <= GOAL_P95_S * 1000
    goal = f"goal p50 ≤ {GOAL_P50_S} s and p95 ≤ {GOAL_P95_S} s: {'met' if met else 'NOT met'}"
    path = save("renewal", {"renewals": len(samples), "servers": SERVERS, "unit": "ms", "parts": rows, "goal_met": met})
    sys.stdout.write(f"{len(samples)} renewals over {SERVERS} nginx and {SERVERS} agents; {goal}\n\n")
    sys.stdout.write(f"{table(rows, 'milliseconds')}\n\nwritten to {path}\n")


if __name__ == "__main__":
    sys.exit(main())
