"""What should be: jobs, holders, bindings and requests as the documentation describes them, in memory.

Written from the documentation, not from the code: no import of the coordinator's. A version is named by the issuance
job that made it, since one request has one version. ``dies`` names the crash point at which the coordinator dies in
this very call; 500 is its answer then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

ISSUANCE, DEPLOYMENT = "issuance", "deployment"
FINAL = {"Completed", "Failed", "Cancelled"}
DELIVERED = {"AwaitingCSR", "Pending", "Running"}
LEASE = timedelta(minutes=3)
INTERRUPTED_AFTER = timedelta(seconds=10)
NOW = timedelta()
LONGEST_WAIT = {ISSUANCE: timedelta(hours=1), DEPLOYMENT: timedelta(minutes=15)}
OK, DIED, BAD, UNKNOWN, CONFLICT, REFUSED = 200, 500, 400, 404, 409, 422

Holder = tuple[str, str]
Binding = tuple[str, str]


@dataclass
class Job:
    """One attempt; ``id`` is empty until it was seen. ``wait`` is the pause that it may begin with, for that long."""

    kind: str
    certificate: str
    agent: str
    target: str
    version: str
    attempt: int
    queued: datetime
    wait: timedelta
    state: str = ""
    id: str = ""
    not_before: datetime | None = None
    epoch: int = 0
    owner: str = ""
    lease_until: datetime | None = None

    def __post_init__(self) -> None:
        self.state = "AwaitingCSR" if self.kind == ISSUANCE else "Pending"

    @property
    def live(self) -> bool:
        return self.state not in FINAL

    def end(self, state: str) -> None:
        self.state, self.lease_until = state, None


@dataclass
class Request:
    """What a CSR has led to."""

    spki: str
    not_after: datetime
    accepted: datetime
    issued: bool = False


@dataclass
class Wish:
    """A holder or a binding: what it should have, what it has, and how often in a row that failed."""

    wanted: str = ""
    served: str = ""
    failures: int = 0
    renew_at: datetime | None = None


@dataclass
class Book:
    """The whole prediction. ``unseen`` are jobs whose ids are not known yet."""

    now: datetime
    lifetimes: dict[str, timedelta] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    unseen: list[Job] = field(default_factory=list)
    requests: dict[str, Request] = field(default_factory=dict)
    holders: dict[Holder, Wish] = field(default_factory=dict)
    bindings: dict[Binding, Wish] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)

    def all_jobs(self) -> list[Job]:
        return [*self.jobs.values(), *self.unseen]

    def live(self, kind: str, certificate: str, *, agent: str = "", target: str = "") -> list[Job]:
        """Return live jobs of a certificate, of one agent or one target when asked."""
        return [
            job
            for job in self.all_jobs()
            if job.live
            and (job.kind, job.certificate) == (kind, certificate)
            and agent in {"", job.agent}
            and target in {"", job.target}
        ]

    # --- what operators do -------------------------------------------------------------------------------------------

    def certificate(self, certificate: str, lifetime: timedelta, targets: list[str], agents: set[str]) -> None:
        self.lifetimes[certificate] = lifetime
        for target in targets:
            self.bindings[certificate, target] = Wish()
        for agent in sorted(agents | {self.targets[target] for target in targets}):
            self.holders[certificate, agent] = Wish()
            self._queue(ISSUANCE, certificate, agent)

    def bound(self, target: str) -> bool:
        return any(place == target for _, place in self.bindings)

    def renew(self, certificate: str) -> int:
        agents = [agent for other, agent in self.holders if other == certificate]
        for agent in agents:
            live = self.live(ISSUANCE, certificate, agent=agent)
            for job in live:
                job.not_before = min(job.not_before or self.now, self.now)
            if not live:
                self._queue(ISSUANCE, certificate, agent)
        return OK if agents else CONFLICT

    def cancel_by_hand(self, job_id: str) -> None:
        self.jobs[job_id].state = "Cancelled"

    # --- what agents do ----------------------------------------------------------------------------------------------

    def poll(self, agent: str, boot: str, held: list[str], *, dies: str = "") -> dict[str, int] | None:
        """Return the epochs of the jobs that are given; None when the coordinator dies before its commit."""
        due = [
            job
            for job in self.jobs.values()
            if job.agent == agent
            and job.state in DELIVERED
            and (job.not_before or self.now) <= self.now
            and not (job.owner == boot and job.id in held)
        ]
        if (dies == "lease.extended" and held) or (dies == "lease.claimed" and due):
            return None
        for job in self.jobs.values():
            if job.agent == agent and job.owner == boot and job.id in held and job.state in {"AwaitingCSR", "Running"}:
                job.lease_until = self.now + LEASE
        for job in due:
            job.epoch, job.owner, job.lease_until = job.epoch + 1, boot, self.now + LEASE
            job.state = "Running" if job.kind == DEPLOYMENT else job.state
        return {job.id: job.epoch for job in due}

    def may_write(self, job: Job, epoch: int) -> bool:
        """Say whether a worker with this epoch may: the job lives, was given out, and to nobody else since."""
        return job.live and epoch > 0 and job.epoch == epoch

    def submit(self, agent: str, job_id: str, epoch: int, spki: str, *, dies: str = "") -> int:
        job, request = self.jobs[job_id], self.requests.get(job_id)
        if job.agent != agent:
            return UNKNOWN
        if request is None:
            if not self.may_write(job, epoch) or job.kind != ISSUANCE:
                return CONFLICT
            if self._key_is_anothers(spki, job):
                return REFUSED
            if dies == "issuance.accepted":
                return DIED
            not_after = self.now.replace(microsecond=0) + self.lifetimes[job.certificate]
            self.requests[job_id] = Request(spki, not_after, self.now)
            job.state = "AwaitingCA"
        elif request.spki != spki:
            return CONFLICT
        return DIED if dies == "issuance.intent" else self.finish(job_id, dies=dies)

    def finish(self, job_id: str, *, dies: str = "") -> int:
        """Sign what was accepted, or find it signed."""
        job, request = self.jobs[job_id], self.requests[job_id]
        if not request.issued:
            if not job.live:
                return CONFLICT
            older = self.live(DEPLOYMENT, job.certificate, agent=job.agent)
            if dies in {"issuance.signed", "issuance.recorded"} or (dies == "lease.superseded" and older):
                return DIED
            self._issue(job, request, older)
        return DIED if dies == "issuance.stored" else OK

    def _issue(self, job: Job, request: Request, older: list[Job]) -> None:
        request.issued = True
        job.end("Completed")
        holder = self.holders[job.certificate, job.agent]
        made = [self.jobs[version] for version in self.generations]
        self.generations[job.id] = 1 + sum(j.certificate == job.certificate and j.agent == job.agent for j in made)
        holder.wanted, holder.failures = job.id, 0
        holder.renew_at = request.not_after - (request.not_after - self.now) / 3
        for deployment in older:
            deployment.end("Cancelled")
        for (certificate, target), binding in self.bindings.items():
            if certificate == job.certificate and self.targets[target] == job.agent:
                binding.wanted, binding.failures = job.id, 0
                self._queue(DEPLOYMENT, certificate, job.agent, target, job.id)

    def report(
        self, agent: str, job_id: str, epoch: int, *, failed: bool, other_seen: bool = False, dies: str = ""
    ) -> int:
        job = self.jobs[job_id]
        if job.agent != agent:
            return UNKNOWN
        if not self.may_write(job, epoch):
            return CONFLICT
        if not failed and job.kind == ISSUANCE:
            return REFUSED
        if not failed and other_seen:
            return BAD
        if dies == "report.stored":
            return DIED
        if failed:
            self._fail(job)
        else:
            job.end("Completed")
            binding = self.bindings[job.certificate, job.target]
            binding.served, binding.failures = job.version, 0
        return DIED if dies == "report.committed" else OK

    # --- what the loops do -------------------------------------------------------------------------------------------

    def end_silent(self) -> int:
        """End deployments whose agent let the lease run out; return how many."""
        silent = [j for j in self.jobs.values() if j.state == "Running" and (j.lease_until or self.now) < self.now]
        for job in silent:
            self._fail(job)
        return len(silent)

    def issue_unissued(self) -> int:
        """Queue what holders without anything lack; return how many."""
        unissued = [key for key, holder in self.holders.items() if not holder.wanted]
        unissued = [key for key in unissued if not self.live(ISSUANCE, key[0], agent=key[1])]
        for certificate, agent in unissued:
            self._queue(ISSUANCE, certificate, agent)
        return len(unissued)

    def serve_unserved(self) -> int:
        """Queue what bindings with a gap lack; return how many."""
        unserved = self.unserved()
        for certificate, target in unserved:
            wanted = self.bindings[certificate, target].wanted
            self._queue(DEPLOYMENT, certificate, self.targets[target], target, wanted)
        return len(unserved)

    def reconcile(self) -> int:
        """Do all three, as the recovery loop does; return how many gaps there were."""
        return self.end_silent() + self.issue_unissued() + self.serve_unserved()

    def unserved(self) -> list[Binding]:
        """Return bindings with a gap that no live job is closing."""
        return [
            key
            for key, binding in self.bindings.items()
            if binding.wanted not in {"", binding.served} and not self.live(DEPLOYMENT, key[0], target=key[1])
        ]

    def renew_due(self) -> int:
        due = [
            key
            for key, holder in self.holders.items()
            if holder.renew_at is not None
            and holder.renew_at <= self.now
            and not self.live(ISSUANCE, key[0], agent=key[1])
        ]
        for certificate, agent in due:
            self._queue(ISSUANCE, certificate, agent)
        return len(due)

    def interrupted(self) -> list[str]:
        """Return the jobs whose signature a dead coordinator owes."""
        return [
            job_id
            for job_id, request in self.requests.items()
            if not request.issued
            and self.jobs[job_id].state == "AwaitingCA"
            and request.accepted < self.now - INTERRUPTED_AFTER
        ]

    # --- pieces ------------------------------------------------------------------------------------------------------

    def _queue(
        self,
        kind: str,
        certificate: str,
        agent: str,
        target: str = "",
        version: str = "",
        after: tuple[int, int] = (0, 0),
    ) -> None:
        """Queue a job unless one is live; ``after`` is the attempt before and how many failed in a row."""
        if self.live(kind, certificate, agent=agent, target=target):
            return
        attempt, failures = after
        wait = self._wait(kind, certificate, failures)
        self.unseen.append(Job(kind, certificate, agent, target, version, attempt + 1, self.now, wait))

    def _wait(self, kind: str, certificate: str, failures: int) -> timedelta:
        """Two seconds, doubled with each failure in a row, up to a limit or a twentieth of the life; at least 5 s."""
        if not failures:
            return NOW
        longest = min(LONGEST_WAIT[kind], self.lifetimes[certificate] / 20)
        return min(max(timedelta(seconds=5), longest), timedelta(seconds=2 ** min(failures, 20)))

    def _fail(self, job: Job) -> None:
        job.end("Failed")
        if job.kind == ISSUANCE:
            wish, version = self.holders[job.certificate, job.agent], ""
        else:
            wish = self.bindings[job.certificate, job.target]
            version = wish.wanted
        wish.failures += 1
        self._queue(job.kind, job.certificate, job.agent, job.target, version, (job.attempt, wish.failures))

    def _key_is_anothers(self, spki: str, job: Job) -> bool:
        others = (self.jobs[other] for other, request in self.requests.items() if request.spki == spki)
        return any((other.certificate, other.agent) != (job.certificate, job.agent) for other in others)
