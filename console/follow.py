"""Following a run to its end, live: every step of every attempt, through restarts of the coordinator.

``follow`` is the loop, ``console.progress`` what a person sees. Attempts that ended before the request are history: a
renewal that joins an attempt in hand is not blamed for its predecessors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from console.answer import Answer, path_of
from console.model import Job, Run
from core.errors import Transient

if TYPE_CHECKING:
    from console.client import Client

T = TypeVar("T")
Outcome = Literal["served", "stored", "issued", "failed", "superseded", "timeout"]
LONGEST_WAIT_S = 25.0
_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 2.0


class Watcher(Protocol):
    """Is told what happens while a run is followed."""

    def progress(self, jobs: Sequence[Job]) -> None:
        """See the run's attempts as they now stand."""

    def away(self, error: Transient) -> None:
        """Learn that the coordinator cannot be asked at the moment."""


@dataclass(frozen=True)
class Deadline:
    """A point on a monotonic clock; ``sleep`` is what passes time until then."""

    at: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the deadline that lies ``seconds`` ahead."""
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Return the seconds that are left; 0 when it has passed."""
        return max(0.0, self.at - self.clock())

    def pause(self, seconds: float) -> None:
        """Sleep, but not past the deadline."""
        self.sleep(min(seconds, self.left_s))


@dataclass(frozen=True)
class Ended:
    """How a run ended for the one who asked; ``run`` is None when the coordinator could never be asked."""

    outcome: Outcome
    run: Answer[Run] | None
    jobs: tuple[Job, ...] = ()
    failed: tuple[Job, ...] = ()


def follow(client: Client, run_id: str, job_ids: Sequence[str], deadline: Deadline, watcher: Watcher) -> Ended:
    """Return how the run ended: everything is served or issued, an attempt failed, or the time is up.

    ``job_ids`` are the attempts that the request started or joined; none means the whole run.
    """
    run: Answer[Run] | None = None
    jobs: tuple[Job, ...] = ()
    while True:
        seen = run.value.seen if run else 0
        newer = _poll(client, run_id, seen, deadline, watcher)
        if newer is None:
            return Ended("timeout", run, jobs, failures(jobs))
        if run is not None and newer.value.seen == seen:
            deadline.pause(_PAUSE_S)  # a coordinator that is stopping answers at once
        run, jobs = newer, asked_for(newer.value.jobs, job_ids)
        watcher.progress(jobs)
        outcome = outcome_of(jobs)
        if outcome is not None:
            return Ended(outcome, run, jobs, failures(jobs))


def _poll(client: Client, run_id: str, seen: int, deadline: Deadline, watcher: Watcher) -> Answer[Run] | None:
    """Return the run's next answer, or None at the deadline; nobody answering is no reason to give up before."""

    def ask() -> Answer[Run]:
        wait = round(min(LONGEST_WAIT_S, deadline.left_s), 3) if seen else 0
        return client.get(path_of("runs", run_id), Run, {"wait": wait, "seen": seen}, wait_s=wait)

    return patiently(ask, deadline, watcher)


def patiently(ask: Callable[[], T], deadline: Deadline, watcher: Watcher) -> T | None:
    """Return what ``ask`` returns, trying again while nobody answers; None at the deadline."""
    pause = _PAUSE_S
    while deadline.left_s > 0:
        try:
            return ask()
        except Transient as error:
            watcher.away(error)
            deadline.pause(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)
    return None


def asked_for(jobs: Sequence[Job], job_ids: Sequence[str]) -> tuple[Job, ...]:
    """Leave out what lies before the first attempt that the request started or joined."""
    places = [place for place, job in enumerate(jobs) if job.id in job_ids]
    return tuple(jobs[min(places, default=0) :])


def outcome_of(jobs: Sequence[Job]) -> Outcome | None:
    """Say how these attempts ended, or None while one that is not a mere retry goes on."""
    newest = {job.part: job for job in jobs}
    failed = {job.part for job in failures(jobs)}
    if not newest or any(job.is_live for part, job in newest.items() if part not in failed):
        return None
    if failed:
        return "failed"
    if any(job.state == "Cancelled" for job in newest.values()):
        return "superseded"
    deployments = [job for job in newest.values() if job.kind == "deployment"]
    if not deployments:
        return "issued"
    return "served" if all(job.served_fingerprint for job in deployments) else "stored"


def failures(jobs: Sequence[Job]) -> tuple[Job, ...]:
    """Return the newest failed attempt of every part that no later attempt has brought to its end."""
    newest = {job.part: job for job in jobs}
    failed = {job.part: job for job in jobs if job.state == "Failed"}
    return tuple(job for part, job in failed.items() if newest[part].state != "Completed")


def next_attempt(job: Job, jobs: Sequence[Job]) -> Job | None:
    """Return the live attempt that follows a failed one."""
    return next((other for other in jobs if other.part == job.part and other.is_live), None)


def old_certificate(job: Job) -> str:
    """Say what a failed attempt left in place."""
    if job.kind == "issuance":
        return "nothing was changed; what was served before still is"
    words = {
        "failed": "the undo failed as well: the target needs a hand",
        "done": "undone: what was there before is back",
        "not_needed": "nothing had to be undone",
    }
    return words.get(job.undo, "it was not reported whether what was there before is back: look at the host")
