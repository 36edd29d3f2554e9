"""What the visitors of a live nginx notice of 50 renewals: their failed requests, counted by wrk.

Each kind of visitor (a new connection for each request; connections that are kept) is there twice: while certctl renews
the certificate 50 times, and, as the control, while nginx is only reloaded as often and at the same pace.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.lab.fleet import API, Agent, Coordinator
from benchmarks.lab.processes import Process, free_ports, stopped_at_the_end
from benchmarks.lab.results import save
from benchmarks.lab.servers import Nginx
from benchmarks.lab.wire import look, wait_for_change

RENEWALS, CONNECTIONS = 50, 8
SITE = "busy.example.test"
_ERRORS = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_REFUSED = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_REQUESTS = re.compile(r"(\d+) requests in ([\d.]+)(m?s|m)\b")


@dataclass(frozen=True)
class Traffic:
    """What one run of wrk saw: requests answered, and what failed, by kind."""

    requests: int
    connect: int
    read: int
    write: int
    timeout: int
    refused: int

    @property
    def failed(self) -> int:
        """Return all failures."""
        return self.connect + self.read + self.write + self.timeout + self.refused


@dataclass(frozen=True)
class Run:
    """One line of the table."""

    visitors: str
    meanwhile: str
    changes: int
    seconds: float
    traffic: Traffic


def main() -> int:
    """Measure; exit code 1 when visitors notice more than they may."""
    parser = argparse.ArgumentParser(prog="make bench-traffic", description=__doc__)
    parser.add_argument("--renewals", type=int, default=RENEWALS)
    count = parser.parse_args().renewals
    folder, processes = Path(tempfile.mkdtemp(prefix="certctl-bench-")), list[Process]()
    try:
        with stopped_at_the_end(processes):
            runs = measure(folder, processes, count)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    met = unnoticed(runs)
    path = save("traffic", {"runs": [asdict(run) for run in runs], "goal_met": met})
    _tell(runs)
    sys.stdout.write("\ngoal: no failure on new connections, no more than the control on kept ones: ")
    sys.stdout.write(f"{'met' if met else 'NOT met'}\nwritten to {path}\n")
    return 0 if met else 1


def measure(folder: Path, processes: list[Process], count: int) -> list[Run]:
    """Return the four runs: new and kept connections, during renewals and during as many reloads."""
    coordinator = Coordinator(folder / "coordinator")
    server = Nginx("busy", folder / "busy", free_ports(1)[0], [SITE])
    processes += [coordinator.process, server.process]
    api = coordinator.start().api()
    server.start()
    agent = Agent("busy", folder / "agent", coordinator, server.policy())
    processes.append(agent.process)
    certificate_id = _first(api, server, agent.start().agent_id)
    try:
        return _runs(api, server, certificate_id, count)
    finally:
        coordinator.close()


def _runs(api: API, server: Nginx, certificate_id: str, count: int) -> list[Run]:
    runs = []
    for visitors, headers in (("new connections", ["-H", "Connection: close"]), ("kept connections", [])):
        seconds, traffic = _under(server, headers, lambda: _renew(api, server, certificate_id, count))
        runs.append(Run(visitors, "renewals", count, seconds, traffic))
        pace = seconds / count
        seconds, traffic = _under(server, headers, lambda: _reload(server, count, pace))  # noqa: B023 - called at once
        runs.append(Run(visitors, "reloads only", count, seconds, traffic))
    return runs


def unnoticed(runs: Sequence[Run]) -> bool:
    """Say whether renewals failed nobody on a new connection, and nobody more than reloads do on a kept one."""
    new, _, kept, control = (run.traffic for run in runs)
    return new.failed == 0 and kept.failed <= control.failed and min(run.traffic.requests for run in runs) > 0


def _first(api: API, server: Nginx, agent_id: str) -> str:
    target = {"name": SITE, "type": "nginx", "agent_id": agent_id, "config": server.target_config(SITE)}
    target_id = api.post("/api/v1/targets", target)["id"]
    created = api.post("/api/v1/certificates", {"common_name": SITE, "target_ids": [target_id]})
    if api.follow(created["job_ids"][0])["state"] != "served":
        message = f"{SITE} was not served at first"
        raise RuntimeError(message)
    return str(created["certificate"]["id"])


def _under(server: Nginx, headers: Sequence[str], change: Callable[[], None]) -> tuple[float, Traffic]:
    """Let visitors come while something changes; return the seconds it took and what they saw."""
    argv = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", "10m", *headers, f"https://127.0.0.1:{server.port}/"]
    visitors = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        time.sleep(0.5)
        started = time.monotonic()
        change()
        seconds = time.monotonic() - started
        time.sleep(0.5)
        visitors.send_signal(signal.SIGINT)  # wrk then says what it saw
        said, _ = visitors.communicate(timeout=20)
    finally:
        visitors.kill()
        visitors.wait()
    return seconds, _read(said)


def _renew(api: API, server: Nginx, certificate_id: str, count: int) -> None:
    for _ in range(count):
        old = look(server.port, SITE)
        run_id = api.post(f"/api/v1/certificates/{certificate_id}/renew")["run_id"]
        wait_for_change(server.port, SITE, old.fingerprint if old else "")
        state = api.follow(run_id)["state"]
        if state != "served":
            message = f"a renewal under load is {state}"
            raise RuntimeError(message)


def _reload(server: Nginx, count: int, pace_s: float) -> None:
    for _ in range(count):
        started = time.monotonic()
        subprocess.run(
            [server.process.argv[0], "-s", "reload", "-c", str(server.config)], check=True, capture_output=True
        )
        time.sleep(max(0.0, pace_s - (time.monotonic() - started)))


def _read(said: str) -> Traffic:
    requests = _REQUESTS.search(said)
    if requests is None:
        message = f"wrk said something else than expected: {said}"
        raise RuntimeError(message)
    errors, refused = _ERRORS.search(said), _REFUSED.search(said)
    connect, read, write, timeout = (int(number) for number in errors.groups()) if errors else (0, 0, 0, 0)
    return Traffic(int(requests[1]), connect, read, write, timeout, int(refused[1]) if refused else 0)


def _tell(runs: Sequence[Run]) -> None:
    heads = ("visitors with", "meanwhile", "changes", "seconds", "requests", "failed", "connect/read/write/timeout/5xx")
    sys.stdout.write("{:<18}{:<14}{:>8}{:>9}{:>10}{:>8}  {}\n".format(*heads))
    for run in runs:
        seen = run.traffic
        kinds = f"{seen.connect}/{seen.read}/{seen.write}/{seen.timeout}/{seen.refused}"
        line = f"{run.visitors:<18}{run.meanwhile:<14}{run.changes:>8}{run.seconds:>9.1f}{seen.requests:>10}"
        sys.stdout.write(f"{line}{seen.failed:>8}  {kinds}\n")


if __name__ == "__main__":
    sys.exit(main())
