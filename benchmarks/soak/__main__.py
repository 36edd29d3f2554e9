"""Shake a whole platform for some minutes, let it come to rest, and check that nothing was lost and nothing done twice.

Three coordinators on one PostgreSQL behind HAProxy, 200 simulated agents with a certificate each, renewals all the
time; every 20 seconds a fault. Needs root on Linux: it runs in network, mount and process namespaces of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from benchmarks.checker.__main__ import tell
from benchmarks.checker.rules import check
from benchmarks.lab.fleet import APIError
from benchmarks.lab.processes import REPOSITORY, Process, stopped_at_the_end, wait_until
from benchmarks.lab.results import save
from benchmarks.soak.estate import Estate
from benchmarks.soak.faults import Trouble

EVERY_S, QUIET_S = 20.0, 240.0
_INSIDE = "SOAK_INSIDE"
_UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def main() -> int:
    """Soak; exit code 1 when the checker finds something, or the platform does not come to rest."""
    parser = argparse.ArgumentParser(prog="make soak-kill", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--agents", type=int, default=200)
    parser.add_argument("--processes", type=int, default=20, help="processes that the agents run in")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--keep", action="store_true", help="leave the folder with logs and disks when it ends")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.stderr.write("make soak-kill needs root: it makes network namespaces and small disks of its own\n")
        return 2
    if _INSIDE not in os.environ:
        argv = [*_UNSHARE, sys.executable, "-m", "benchmarks.soak", *sys.argv[1:]]
        os.execvpe(argv[0], argv, {**os.environ, _INSIDE: "1", "PYTHONPATH": str(REPOSITORY)})  # noqa: S606 - argv
    folder = Path(tempfile.mkdtemp(prefix="certctl-soak-"))
    folder.chmod(0o755)
    processes: list[Process] = []
    try:
        with stopped_at_the_end(processes):
            return _soak(folder, processes, options)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _soak(folder: Path, processes: list[Process], options: argparse.Namespace) -> int:
    say(f"seed {options.seed}; everything is in {folder}")
    lifetime_s = 120 if options.minutes < 10 else 300  # noqa: PLR2004 - short enough to fall due several times
    estate = Estate(
        folder, agents=options.agents, processes=options.processes, lifetime_s=lifetime_s, processes_kept=processes
    )
    wait_until("the first certificates are served", lambda: estate.live_jobs() == 0, 180, pause_s=0.5)
    say(f"{len(estate.certificates)} certificates are served; {options.minutes:g} minutes of trouble begin")
    renewals, chance = Renewals(estate, options.seed), random.Random(options.seed)
    faults, ended = _trouble(Trouble(estate, chance, folder), chance, options.minutes * 60)
    renewals.stop()
    say("all is mended; waiting for rest")
    rested = _rest(estate)
    estate.fleet.stop()
    world = estate.world()
    findings = {**check(world), "processes stay up": ended}
    if not rested:
        findings["at rest"] = [f"{estate.live_jobs()} jobs were still live after {QUIET_S:.0f} s"]
    requested = sum(event["action"] == "certificate.renewal_requested" for event in world.rows("audit_events"))
    if requested < renewals.accepted:
        findings["requests kept"] = [f"{renewals.accepted} requests were accepted and {requested} recorded"]
    report = _report(options, faults, renewals, world.tables, findings)
    say(f"\n{tell(world, findings)}\n{_summary(report)}\nwritten to {save('soak_kill', report)}")
    return 1 if any(findings.values()) else 0


def say(text: str) -> None:
    """Tell those who watch."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


class Renewals:
    """Asks for a renewal every second, of any certificate, as long as it is not stopped."""

    def __init__(self, estate: Estate, seed: int) -> None:
        self.accepted = self.refused = 0
        self._estate = estate
        self._chance = random.Random(seed + 1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Ask for no more."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(1.0):
            try:
                self._estate.api.post(f"/api/v1/certificates/{self._chance.choice(self._estate.certificates)}/renew")
                self.accepted += 1
            except (APIError, httpx.HTTPError, json.JSONDecodeError):
                self.refused += 1


def _trouble(trouble: Trouble, chance: random.Random, seconds: float) -> tuple[Counter[str], list[str]]:
    """Strike until the time is up; return how often each kind struck, and which processes ended by themselves."""
    faults, ended = Counter[str](), list[str]()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        struck = trouble.strike()
        faults[struck.kind] += 1
        hold_s = chance.uniform(2, EVERY_S - 5)
        say(f"{struck.kind}: {struck.where}, for {hold_s:.0f} s")
        try:
            time.sleep(hold_s)
        finally:
            struck.mend()
        ended += trouble.revive()
        time.sleep(max(0.0, min(EVERY_S - (time.monotonic() - began), end - time.monotonic())))
    return faults, ended


def _rest(estate: Estate) -> bool:
    wait_until("the platform answers", estate.ready, QUIET_S, pause_s=0.5)
    try:
        wait_until("the platform comes to rest", estate.halt, QUIET_S, pause_s=0.05)
    except TimeoutError:
        return False
    return True


def _report(
    options: argparse.Namespace,
    faults: Counter[str],
    renewals: Renewals,
    tables: dict[str, list[dict[str, Any]]],
    findings: dict[str, list[str]],
) -> dict[str, Any]:
    jobs = Counter(f"{job['kind']} {job['state']}" for job in tables["jobs"])
    return {
        "minutes": options.minutes,
        "seed": options.seed,
        "agents": options.agents,
        "faults": dict(faults),
        "renewals_accepted": renewals.accepted,
        "renewals_refused": renewals.refused,
        "certificates": len(tables["certificates"]),
        "versions": len(tables["certificate_versions"]),
        "jobs": dict(jobs),
        "findings": findings,
    }


def _summary(report: dict[str, Any]) -> str:
    faults = ", ".join(f"{count} × {kind}" for kind, count in sorted(report["faults"].items()))
    jobs = ", ".join(f"{count} {kind}" for kind, count in sorted(report["jobs"].items()))
    return (
        f"{sum(report['faults'].values())} faults: {faults}\n"
        f"{report['renewals_accepted']} renewals accepted, {report['renewals_refused']} not; "
        f"{report['certificates']} certificates, {report['versions']} versions\njobs: {jobs}\n"
        f"findings: {sum(map(len, report['findings'].values()))}"
    )


if __name__ == "__main__":
    sys.exit(main())
