"""What a person sees while a run is followed, and the last words about it; with ``--json`` one object at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from console import follow
from console.answer import Answer, path_of
from console.errors import ExitCode
from console.follow import Deadline, Ended
from console.lookup import AGENT, TARGET, Names
from console.model import Certificate, Job, Step
from console.render import Cell
from console.session import Session
from console.times import exact, milliseconds, relative, spell, stamp
from core.errors import Transient

_WORDS = {
    "key": "key made",
    "csr": "CSR made",
    "awaitingapproval": "waits for approval",
    "undone": "undone",
}
_HIDDEN = frozenset({"awaitingca", "completed", "failed", "cancelled", "running"})
_DONE = {"served", "stored", "issued"}
_INDENT = " " * 12
_LONG_AGO = timedelta(seconds=60)
_TOGETHER = timedelta(milliseconds=5)


class Report:
    """Prints every new step with the seconds since the request, and the causes of what failed."""

    def __init__(self, session: Session, names: Names, asked_at: datetime) -> None:
        self._session, self._names, self._asked_at = session, names, asked_at
        self._shown: dict[str, int] = {}
        self._zero: datetime | None = None
        self._is_away = False

    def progress(self, jobs: Sequence[Job]) -> None:
        """Print what is new in the attempts."""
        if self._is_away:
            self._session.out.note("the coordinator answers again")
            self._is_away = False
        if self._session.out.as_json or not jobs:
            return
        with contextlib.suppress(Transient):  # an id says it as well, and the coordinator may be about to restart
            self._names.resolve(AGENT, (job.agent_id for job in jobs))
            self._names.resolve(TARGET, (job.target_id for job in jobs))
        self._zero = self._zero or self._beginning(jobs[0])
        news = [
            (at, job, step)
            for job in jobs
            for at, step in list(zip(moments(job.timeline), job.timeline, strict=True))[self._shown.get(job.id, 0) :]
        ]
        for at, job, step in sorted(news, key=lambda entry: entry[0]):
            self._step(at, job, step, jobs)
        self._shown = {job.id: len(job.timeline) for job in jobs}

    def away(self, error: Transient) -> None:
        """Say once that nobody answers."""
        if not self._is_away:
            self._session.out.note(f"{error.detail} – trying again until the time is up")
        self._is_away = True

    def _beginning(self, job: Job) -> datetime:
        """Return the zero of the seconds: the first step, unless it lies long before the request that joined it."""
        first = job.timeline[0].at if job.timeline else job.created_at
        return self._asked_at if self._asked_at - first > _LONG_AGO else first

    def _step(self, at: datetime, job: Job, step: Step, jobs: Sequence[Job]) -> None:
        if step.label == "failed":
            self._failure(at, job, jobs)
        elif step.label not in _HIDDEN:
            measured = f" ({milliseconds(step.ms)})" if step.ms is not None and step.label != "superseded" else ""
            detail = f" – {step.detail}" if step.detail else ""
            again = f", attempt {job.attempt}" if step.label == "queued" and job.attempt > 1 else ""
            text = f"{_WORDS.get(step.label, step.label)}{measured}{detail}{again}"
            self._line(at, job, text, "good" if step.label == "served" else "")

    def _line(self, at: datetime, job: Job, text: str, tone: str) -> None:
        assert self._zero is not None  # noqa: S101 - progress sets it first
        seconds = max(0.0, (at - self._zero).total_seconds())
        beginning = f"{seconds:8.3f} s  {place(job, self._names):<24}  "
        self._session.out.paragraph(f"{beginning}{text}", tone, indent=_INDENT)

    def _failure(self, at: datetime, job: Job, jobs: Sequence[Job]) -> None:
        step, cause = (job.failure.step, job.failure.cause) if job.failure else ("", "no cause was reported")
        self._line(at, job, f"FAILED at {step}: {cause}" if step else f"FAILED: {cause}", "bad")
        self._session.out.line(f"{_INDENT}{follow.old_certificate(job)}")
        again = follow.next_attempt(job, jobs)
        if again is not None:
            when = exact(again.not_before, self._session.now)
            self._session.out.line(f"{_INDENT}attempt {again.attempt} is due {when}")


def moments(timeline: Sequence[Step]) -> list[datetime]:
    """Return when the steps ended. Agents report several at once: their durations tell how far apart they were.

    Counted back from the report; where a step failed, whose duration nobody reports, on from the mark before instead.
    """
    ends = [step.at for step in timeline]
    place = len(timeline) - 1
    while place >= 0:
        first = _first_reported_with(timeline, place)
        if place + 1 < len(timeline) and timeline[place + 1].label == "failed":
            _count_on(timeline, ends, first, place)
        else:
            for earlier in range(place - 1, first - 1, -1):
                ends[earlier] = ends[earlier + 1] - timedelta(milliseconds=timeline[earlier + 1].ms or 0)
        place = first - 1
    return ends


def _first_reported_with(timeline: Sequence[Step], last: int) -> int:
    """Return where the measured steps begin that were reported together with the one at ``last``."""
    first = last
    while first > 0 and timeline[first].ms is not None and timeline[first - 1].ms is not None:
        if timeline[first].at - timeline[first - 1].at > _TOGETHER:
            break
        first -= 1
    return first


def _count_on(timeline: Sequence[Step], ends: list[datetime], first: int, last: int) -> None:
    moment = timeline[first - 1].at if first else timeline[first].at
    for place in range(first, last + 1):
        moment += timedelta(milliseconds=timeline[place].ms or 0)
        if timeline[place].label != "undone":
            ends[place] = min(moment, timeline[place].at)


def place(job: Job, names: Names) -> str:
    """Return where an attempt happens: the agent, and the target when it has one."""
    return f"{names[job.agent_id]}/{names[job.target_id]}" if job.target_id else names[job.agent_id]


def wait(session: Session, certificate: Certificate, run_id: str, job_ids: Sequence[str], seconds: float) -> ExitCode:
    """Follow a request to its end and say how it ended; what it joined in other runs is followed as well."""
    deadline, names = Deadline.after(seconds), Names(session.client)
    names.learn(_targets_of(certificate))
    asked_at, ends, left = session.now, list[Ended](), list(job_ids)
    report = Report(session, names, asked_at)
    while run_id:
        ended = follow.follow(session.client, run_id, left, deadline, report)
        ends.append(ended)
        left = [job_id for job_id in left if job_id not in {job.id for job in ended.jobs}]
        run_id = _run_of(session, left[0], deadline, report) if left and ended.outcome != "timeout" else ""
    worst = next((ended for ended in ends if ended.outcome not in _DONE), ends[-1])
    path = path_of("certificates", certificate.id)
    now = follow.patiently(lambda: session.client.get(path, Certificate), deadline, report)
    _last_words(session, names, now, worst)
    if worst.outcome not in _DONE and not session.out.as_json:
        _trouble(session, names, worst, seconds)
        session.out.line(f"See: certctl certificates get {certificate.id}")
    return ExitCode.OK if worst.outcome in _DONE else ExitCode.NOT_DONE


def _run_of(session: Session, job_id: str, deadline: Deadline, report: Report) -> str:
    job = follow.patiently(lambda: session.client.get(path_of("jobs", job_id), Job), deadline, report)
    return job.value.run_id if job else ""


class _NamedTarget(msgspec.Struct, frozen=True):
    id: str
    name: str


def _targets_of(certificate: Certificate) -> list[_NamedTarget]:
    return [_NamedTarget(bound.target_id, bound.target_name) for bound in certificate.status.bindings]


def _last_words(session: Session, names: Names, certificate: Answer[Certificate] | None, ended: Ended) -> None:
    if session.out.as_json:
        session.out.json(msgspec.json.encode(_document(ended, certificate)))
    elif certificate is not None and ended.outcome in _DONE:
        _success(session, names, certificate.value)
        if ended.outcome == "stored":
            session.out.line(Cell(f"Not seen served: {certificate.value.status.reason}", "warn"))


def _document(ended: Ended, certificate: Answer[Certificate] | None) -> dict[str, Any]:
    failed = []
    for job in ended.failed:
        again = follow.next_attempt(job, ended.jobs)
        failed.append(
            {
                "job_id": job.id,
                "agent_id": job.agent_id,
                "target_id": job.target_id,
                "step": job.failure.step if job.failure else "",
                "cause": job.failure.cause if job.failure else "",
                "left_behind": follow.old_certificate(job),
                "next_attempt_at": again.not_before if again else None,
            }
        )
    return {
        "outcome": ended.outcome,
        "failures": failed,
        "certificate": msgspec.Raw(certificate.raw) if certificate else None,
        "run": msgspec.Raw(ended.run.raw) if ended.run else None,
    }


def _success(session: Session, names: Names, certificate: Certificate) -> None:
    out, status = session.out, certificate.status
    out.line()
    for holder in status.holders:
        served = [
            bound.target_name for bound in status.bindings if bound.agent_id == holder.agent_id and bound.is_served
        ]
        where = (
            f"served on {', '.join(served)} ({names[holder.agent_id]})"
            if served
            else f"held by {names[holder.agent_id]}"
        )
        out.line(Cell(f"{certificate.name} is {where}", "good"))
        out.fields(
            [
                ("Serial", holder.serial or ""),
                ("Fingerprint", holder.fingerprint or ""),
                ("Expires", exact(holder.not_after, session.now)),
                ("Renewal", exact(holder.renew_at, session.now)),
            ],
            indent="  ",
        )


def _trouble(session: Session, names: Names, ended: Ended, seconds: float) -> None:
    out = session.out
    out.line()
    if ended.outcome == "superseded":
        ends = [job.failure.cause for job in ended.jobs if job.state == "Cancelled" and job.failure]
        took_over = "A newer version took over before this one was served everywhere."
        out.line(Cell(f"Not done: {ends[-1]}" if ends else took_over, "warn"))
    elif ended.outcome == "timeout":
        out.line(
            Cell(f"Not finished within {spell(timedelta(seconds=seconds))}; it goes on without this command.", "warn")
        )
        for job in ended.jobs:
            if job.is_live:
                since = relative(job.timeline[-1].at, session.now) if job.timeline else stamp(job.created_at)
                out.line(f"  {place(job, names)}: {_waiting_for(job)} ({since})")
    else:
        where = ", ".join(place(job, names) for job in ended.failed)
        out.line(Cell(f"Not done on {where}. certctl keeps trying.", "bad"))


def _waiting_for(job: Job) -> str:
    """Say what a live attempt needs next."""
    match job.state:
        case "AwaitingApproval":
            return "waits for approval"
        case "AwaitingCA":
            return "waits for the certificate authority"
        case "AwaitingCSR" | "Pending" if job.started_at is None:
            return "waits for the agent; is it running and connected?"
        case "AwaitingCSR":
            return "the agent has it and has not sent its CSR"
        case _:
            return "the agent works on it"
