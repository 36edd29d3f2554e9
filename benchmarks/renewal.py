"""How long a renewal takes, from the request to the new certificate on the wire.

100 renewals, one after another, over 4 nginx servers with an agent each. The end is seen from outside, by handshakes
every few milliseconds; the parts come from the run's own timeline, so they do not add up to the whole.

Then 200 certificates of one nginx are renewed at once; the time runs from the first request to the moment when a
client has seen every one of them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.lab.fleet import API, Agent, Coordinator
from benchmarks.lab.processes import Process, free_ports, stopped_at_the_end, wait_until
from benchmarks.lab.results import save, summary, table
from benchmarks.lab.servers import Nginx
from benchmarks.lab.wire import look, wait_for_change

SERVERS, RENEWALS = 4, 100
TOGETHER = 200
GOAL_P50_S, GOAL_P95_S, GOAL_TOGETHER_S = 0.5, 1.0, 10.0
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
            _tell_together(*_together(folder, processes, coordinator, api, options.together))
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


def _together(
    folder: Path, processes: list[Process], coordinator: Coordinator, api: API, count: int
) -> tuple[int, float, int]:
    """Renew all certificates of one nginx at once; return how many, the seconds, and the reloads that it took."""
    names = [f"site-{number}.example.test" for number in range(count)]
    server = Nginx("many", folder / "many", free_ports(1)[0], names)
    agent = Agent("many", folder / "agent-many", coordinator, server.policy())
    processes += [server.process, agent.process]
    server.start()
    agent.start()
    certificates = []
    for name in names:
        target = {"name": name, "type": "nginx", "agent_id": agent.agent_id, "config": server.target_config(name)}
        target_id = api.post("/api/v1/targets", target)["id"]
        created = api.post("/api/v1/certificates", {"common_name": name, "target_ids": [target_id]})
        certificates.append(created["certificate"]["id"])
    for certificate_id in certificates:
        wait_until("the first ones are served", lambda: _is_served(api, certificate_id), 120)  # noqa: B023
    old = {name: seen.fingerprint for name in names if (seen := look(server.port, name))}
    before, asked = _reloads(server), time.monotonic()
    for certificate_id in certificates:
        api.post(f"/api/v1/certificates/{certificate_id}/renew")
    for name in names:
        wait_for_change(server.port, name, old[name], deadline_s=120)
    return count, time.monotonic() - asked, _reloads(server) - before


def _is_served(api: API, certificate_id: str) -> bool:
    return bool(api.get(f"/api/v1/certificates/{certificate_id}")["status"]["service"] == "served")


def _reloads(server: Nginx) -> int:
    """Count nginx's reloads by its own log."""
    return (server.folder / "error.log").read_text().count(", reconfiguring")


def _tell_together(count: int, seconds: float, reloads: int) -> None:
    met = seconds <= GOAL_TOGETHER_S
    path = save("renewal_together", {"certificates": count, "seconds": seconds, "reloads": reloads, "goal_met": met})
    goal = f"goal {GOAL_TOGETHER_S:g} s: {'met' if met else 'NOT met'}"
    sys.stdout.write(f"\n{count} certificates of one nginx renewed at once: all served after {seconds:.1f} s, ")
    sys.stdout.write(f"{reloads} reloads; {goal}\nwritten to {path}\n")


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
