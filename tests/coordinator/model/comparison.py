"""What is looked at after every step: the database against the book, and the rules that hold whatever the book says."""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis.stateful import RuleBasedStateMachine, invariant

from core import wire
from core.states import JobKind, JobState, may_follow
from tests.coordinator.model.book import DEPLOYMENT, FINAL, Book, Job
from tests.coordinator.model.stage import AGENTS, Rows, Stage

T = TypeVar("T")
JITTER = 0.8, 1.2


@dataclass
class Process:
    """An agent's process: its boot id and what it holds."""

    boot: str
    hands: dict[str, wire.IssuanceItem | wire.DeploymentItem] = field(default_factory=dict)


@dataclass
class Tally:
    """What a run visited."""

    examples: int = 0
    steps: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    moves: Counter[str] = field(default_factory=Counter)
    states: set[tuple[Any, ...]] = field(default_factory=set)

    def table(self) -> str:
        """Return it for a person."""
        parts = [f"{self.examples} histories, {self.steps} states compared, {len(self.states)} different situations"]
        for title, counts in (("answers", self.answers), ("moves", self.moves)):
            parts += [f"{title}:", *(f"  {count:>7} {name}" for name, count in sorted(counts.items()))]
        return "\n".join(parts)


class Comparison(RuleBasedStateMachine):
    """A machine without rules; set ``stage`` and ``tally`` on a subclass."""

    stage: Stage
    tally: Tally

    def __init__(self) -> None:
        super().__init__()
        self.agreed = False
        self.tally.examples += 1
        self.run(self.stage.clean())
        self.book = Book(self.stage.now)
        self.processes = [Process(f"boot{number:05d}") for number in range(AGENTS)]
        self.gaps: set[tuple[str, str]] = set()
        self.last: dict[str, tuple[str, int]] = {}

    def run(self, work: Awaitable[T]) -> T:
        self.agreed = False
        return self.stage.runner.run(_awaited(work))

    @invariant()
    def compare(self) -> None:
        """Check the whole state. New jobs are met here: the book learns their ids and their chosen pauses."""
        seen = self.run(self.stage.observe())
        self.book = met(self.book, seen["jobs"])
        check(self.book, seen)
        self._rules_of_jobs(seen["jobs"])
        self._rules_of_wishes(seen)
        self.tally.steps += 1
        self.tally.states.add(self._outline())
        self.agreed = True

    def _rules_of_jobs(self, rows: Rows) -> None:
        live = Counter(
            (r["kind"], r["certificate"], r["target"] or r["agent"]) for r in rows if r["state"] not in FINAL
        )
        assert all(count == 1 for count in live.values()), f"two live jobs for one purpose: {live}"
        for row in rows:
            state, epoch = self.last.get(row["id"], (row["state"], 0))
            assert row["epoch"] >= epoch, f"an epoch went back: {row}"
            if state != row["state"]:
                self.tally.moves[f"{row['kind']} {state} → {row['state']}"] += 1
                assert reachable(row["kind"], state, row["state"]), f"no way leads from {state}: {row}"
            if row["target"]:
                assert row["agent"] == self.book.targets[row["target"]], f"another agent's work: {row}"
            self.last[row["id"]] = row["state"], row["epoch"]

    def _rules_of_wishes(self, seen: dict[str, Rows]) -> None:
        for row in seen["versions"]:
            assert row["chosen"] == [row["serial"]], f"its serial number is not that of its one request: {row}"
        served = {row["target"] for row in seen["jobs"] if row["kind"] == DEPLOYMENT and row["state"] not in FINAL}
        for row in seen["bindings"]:
            if row["wanted"] not in {"", row["served"]}:
                lost = (row["certificate"], row["target"]) in self.gaps
                assert row["target"] in served or lost, f"nobody serves {row}"
                assert row["reason"], f"no word why this is not served: {row}"

    def _outline(self) -> tuple[Any, ...]:
        """Return the state without names and times: what tells one situation from another."""
        boots = {process.boot for process in self.processes}
        return tuple(sorted(_outline_of(self.book, job, boots) for job in self.book.jobs.values() if job.live))


async def _awaited(work: Awaitable[T]) -> T:
    async with asyncio.timeout(60):
        return await work


def reachable(kind: str, old: str, new: str) -> bool:
    """Say whether one call may lead from ``old`` to ``new``, over states in between if need be."""
    machine = JobKind(kind)
    between = JobState.AWAITING_CA if machine is JobKind.ISSUANCE else JobState.RUNNING
    direct = may_follow(machine, JobState(old), JobState(new))
    return direct or (may_follow(machine, JobState(old), between) and may_follow(machine, between, JobState(new)))


def _outline_of(book: Book, job: Job, boots: set[str]) -> tuple[Any, ...]:
    request, now = book.requests.get(job.id), book.now
    owner = "nobody" if not job.owner else "process" if job.owner in boots else "the dead"
    waits, expired = (job.not_before or now) > now, (job.lease_until or now) < now
    return job.kind, job.state, min(job.epoch, 3), min(job.attempt, 3), owner, waits, expired, request is not None


_DESCRIBED = "kind", "certificate", "agent", "target", "version", "state", "attempt"


def _described(job: Job) -> tuple[Any, ...]:
    return tuple(getattr(job, name) for name in _DESCRIBED)


def met(book: Book, rows: Rows) -> Book:
    """Return the book with the jobs that it predicted and had not seen; each must be there, within its jitter."""
    book = copy.deepcopy(book)
    unseen = {_described(job): job for job in book.unseen}
    for row in rows:
        if row["id"] not in book.jobs:
            job = unseen.pop(tuple(row[name] for name in _DESCRIBED), None)
            assert job is not None, f"nobody asked for {row}"
            low, high = (job.queued + factor * job.wait for factor in JITTER)
            assert low <= row["not_before"] <= high, f"it should wait {job.wait}: {row}"
            job.id, job.not_before = row["id"], row["not_before"]
            book.jobs[job.id] = job
    assert not unseen, f"these jobs are missing: {unseen}"
    book.unseen = []
    return book


def check(book: Book, seen: dict[str, Rows]) -> None:
    """Compare every row with the book."""
    fields = list(seen["jobs"][0]) if seen["jobs"] else []
    for row in seen["jobs"]:
        assert {name: getattr(book.jobs[row["id"]], name) for name in fields} == row
    assert {(r["certificate"], r["agent"]): (r["version"], r["renew_at"], r["failures"]) for r in seen["holders"]} == {
        key: (holder.wanted, holder.renew_at, holder.failures) for key, holder in book.holders.items()
    }
    assert {(r["certificate"], r["target"]): (r["wanted"], r["served"], r["failures"]) for r in seen["bindings"]} == {
        key: (binding.wanted, binding.served, binding.failures) for key, binding in book.bindings.items()
    }
    assert {r["job_id"]: (r["spki"], r["state"], r["generation"]) for r in seen["requests"]} == {
        key: (request.spki, "issued" if request.issued else "signing", book.generations.get(key))
        for key, request in book.requests.items()
    }
