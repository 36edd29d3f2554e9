"""The chapters: what happens to each target, and what must be so at the end of each.

They are played in order, on one road: a coordinator, an agent of the subject's own, its program and one certificate.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from benchmarks.lab.fleet import Agent, Coordinator
from benchmarks.lab.processes import wait_until
from benchmarks.lab.wire import Seen
from tests.journeys.crash.sites import is_pair
from tests.journeys.stage import Journey, Stage
from tests.journeys.targets.subject import SITE, Chapter, Subject
from tests.journeys.targets.visitors import Visitors, visiting


@dataclass(frozen=True)
class Size:
    """How much is played: renewals under load, and the points at which the agent dies."""

    renewals: int
    kept_too: bool
    points: tuple[str, ...]


QUICK = Size(2, kept_too=False, points=("deploy.published",))
WHOLE = Size(
    10,
    kept_too=True,
    points=("deploy.journaled", "deploy.published", "deploy.checked", "deploy.reloaded", "deploy.served"),
)


class Road:
    """One subject on its way."""

    def __init__(self, stage: Stage, coordinator: Coordinator, subject: Subject, size: Size) -> None:
        self.subject, self.size = subject, size
        for process in subject.processes():
            stage.keep(process)
        subject.start()
        name = subject.folder.name
        self.agent: Agent = stage.agent(name, coordinator, subject.policy())
        self.journey = Journey(coordinator)
        self.name = name
        self.certificate_id = ""

    def install(self) -> None:
        """Make target and certificate."""
        target = {"name": self.name, "type": self.subject.target_type, "agent_id": self.agent.agent_id}
        target_id = self.journey.api.post("/api/v1/targets", {**target, "config": self.subject.config()})["id"]
        self.certificate_id = self.journey.want(SITE, target_id, name=self.name)

    def renew(self) -> str:
        """Ask for another version; return the run."""
        return self.journey.renew(self.certificate_id)

    def newest(self) -> str:
        """Return the fingerprint of the newest version."""
        return str(self.journey.versions(self.certificate_id)[0]["fingerprint"])

    def arrives(self) -> None:
        """See the newest version served to a client that checks everything, known to be, and a pair in the files."""
        self.journey.settled(self.certificate_id)
        served = self._trusted().fingerprint
        versions = [version["fingerprint"] for version in self.journey.versions(self.certificate_id)]
        assert served == versions[0], f"served is {served}; versions, the newest first: {versions}"
        assert self.holds_pair()
        assert list(self.agent.state_dir.glob("journal*/*")) == []

    def holds_pair(self) -> bool:
        """Say whether what the program would read is one complete pair."""
        return is_pair(*self.subject.pair())

    def fails(self, run_id: str, cause: str) -> None:
        """See the first attempt of a run fail for this cause, told where people look, with another one queued."""
        run = self.journey.api.follow(run_id)
        assert run["state"] == "retrying", run
        causes = [job["failure"]["cause"] for job in run["jobs"] if job["failure"]]
        assert re.search(cause, causes[0]), causes
        told = self.journey.api.get(f"/api/v1/certificates/{self.certificate_id}")["status"]
        assert re.search(cause, told["reason"]), told

    def still(self, before: Seen) -> None:
        """See that the certificate of before is served, from files that are the pair of before."""
        seen = self.subject.seen()
        assert seen is not None
        assert seen.fingerprint == before.fingerprint
        assert self.holds_pair()

    def now(self) -> Seen:
        """Return what is served."""
        seen = self.subject.seen()
        assert seen is not None
        return seen

    def _trusted(self) -> Seen:
        return self.subject.trusted(self.journey.root_pem)


def first_install(road: Road) -> None:
    """A placeholder is replaced by the first certificate."""
    placeholder = road.now()
    road.install()
    road.arrives()
    assert road.now().fingerprint != placeholder.fingerprint


def renewal_under_load(road: Road) -> None:
    """Visitors on new connections notice nothing; kept connections suffer no more than from as many reloads."""
    with visiting(road.subject) as fresh:
        took_s = _renew_often(road)
    assert fresh.failed == [], fresh.failed
    assert fresh.served > road.size.renewals
    if road.size.kept_too:
        with visiting(road.subject, kept=True) as kept:
            _renew_often(road)
        control = _control(road.subject, road.size.renewals, took_s / road.size.renewals)
        # A reload closes a kept connection once, whoever asked for it; which of them the visitor notices is chance.
        assert len(kept.failed) <= max(len(control.failed), road.size.renewals), (kept, control)


def _renew_often(road: Road) -> float:
    started = time.monotonic()
    for _ in range(road.size.renewals):
        road.journey.api.follow(road.renew())
        road.arrives()
    return time.monotonic() - started


def _control(subject: Subject, count: int, pace_s: float) -> Visitors:
    with visiting(subject, kept=True) as visitors:
        for _ in range(count):
            subject.reload()
            time.sleep(pace_s)
    return visitors


def broken_configuration(road: Road) -> None:
    """What somebody broke elsewhere stops a renewal before the reload, and is named; mended, it goes on."""
    before = road.now()
    road.subject.damage()
    road.fails(road.renew(), road.subject.broken_cause)
    road.still(before)
    road.subject.mend()
    road.arrives()


def failing_reload(road: Road) -> None:
    """A reload that fails leaves the old pair served and in the files."""
    before = road.now()
    road.subject.gate.shut()
    road.fails(road.renew(), road.subject.reload_cause)
    road.still(before)
    road.subject.gate.open()
    road.arrives()


def wrong_certificate_served(road: Road) -> None:
    """A renewal that is loaded and not served is none: it is undone and told."""
    road.subject.divert()
    road.fails(road.renew(), "was not served within")
    assert road.holds_pair()
    assert road.now().fingerprint != road.newest()
    road.subject.mend()
    road.arrives()


def killed_in_the_middle(road: Road) -> None:
    """An agent that dies on its way is started again: first the old pair is back, then the new one is served."""
    for point in road.size.points:
        if point in road.subject.unreached:
            continue
        road.agent.process.stop()
        road.agent.process.set_variable("CERTCTL_CRASH_POINT", point)
        road.agent.process.start()
        road.renew()
        wait_until(f"it dies at {point}", lambda: not road.agent.process.running())
        assert road.agent.process.returncode() == -signal.SIGKILL
        with suppress(FileNotFoundError):
            if road.subject.config().get("layout") != "separate":
                assert road.holds_pair()
        road.agent.process.set_variable("CERTCTL_CRASH_POINT", None)
        road.agent.process.start()
        road.arrives()


CHAPTERS: dict[Chapter, Callable[[Road], None]] = {
    "first install": first_install,
    "renewal under load": renewal_under_load,
    "broken configuration": broken_configuration,
    "failing reload": failing_reload,
    "wrong certificate served": wrong_certificate_served,
    "kill -9 in the middle": killed_in_the_middle,
}
