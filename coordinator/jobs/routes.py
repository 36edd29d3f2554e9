"""Reading jobs and following runs.

A run is what one request brought about: the issuance and every deployment that followed, retries included. Its id is
that of its first issuance job.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from coordinator.database.driver import Record as Row
from coordinator.jobs import milestones, service, store
from coordinator.jobs.milestones import RunStep
from coordinator.web.paging import Page, PageQuery, read_page
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Streamed, Strict
from core.errors import NotFound
from core.states import FINAL, JobKind, JobState


class Job(msgspec.Struct):
    """One attempt. ``timeline`` holds steps with their time ``at`` and, where measured, their duration ``ms``.

    ``undo`` and ``served_fingerprint`` are the agent's words: whether the old state is back (``not_needed``, ``done``,
    ``failed``), and what was seen on the wire last. Both are empty until it has reported.
    """

    id: str
    kind: str
    run_id: str
    certificate_id: str
    agent_id: str | None
    target_id: str | None
    version_id: str | None
    state: str
    trigger: str
    attempt: int
    not_before: datetime
    lease_epoch: int
    failure: dict[str, Any] | None
    undo: str
    served_fingerprint: str
    timeline: list[dict[str, Any]]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobQuery(PageQuery):
    """Filters of the job list."""

    certificate_id: str | None = None
    agent_id: str | None = None
    state: JobState | None = None
    kind: JobKind | None = None
    run_id: str | None = None
    target_id: str | None = None


RunState = Literal["running", "retrying", "served", "stored", "issued", "failed", "superseded"]


class Run(msgspec.Struct):
    """How far a request has come. ``seen`` goes into the next call's query to wait for more than that.

    ``steps`` tell the whole of it, from the request to what was seen on the wire, each with its time and its evidence.
    """

    id: str
    certificate_id: str
    state: RunState
    seen: int
    jobs: list[Job]
    steps: list[RunStep]


class RunQuery(Strict):
    """Wait up to ``wait`` seconds for more steps than ``seen``."""

    wait: Annotated[float, msgspec.Meta(ge=0, le=55)] = 0
    seen: Annotated[int, msgspec.Meta(ge=0)] = 0


def shape(row: Row) -> Job:
    """Return a job as it is answered."""
    return Job(**row)


def run_state(jobs: Sequence[Job]) -> RunState:
    """Say where a run stands: the newest attempt of each part decides."""
    newest = {(job.kind, job.agent_id, job.target_id): job for job in jobs}.values()
    states = {job.state for job in newest}
    if any(JobState(state) not in FINAL for state in states):
        return "retrying" if any(job.state == JobState.FAILED for job in jobs) else "running"
    if JobState.FAILED in states or any(_was_not_approved(job) for job in newest):
        return "failed"
    if JobState.CANCELLED in states:
        return "superseded"
    deployments = [job for job in newest if job.kind == JobKind.DEPLOYMENT]
    if not deployments:
        return "issued"
    return "served" if all(job.served_fingerprint for job in deployments) else "stored"


def _was_not_approved(job: Job) -> bool:
    return job.state == JobState.CANCELLED and job.failure is not None and job.failure["step"] == "approval"


async def list_jobs(call: Call[NoBody, JobQuery]) -> Page[Job] | Streamed:
    """List jobs, newest first."""
    return await read_page(call, store.LISTING, Job)


async def get(call: Call[NoBody, NoQuery]) -> Job:
    """Return one job."""
    async with call.ctx.db.connection() as conn:
        row = await store.LISTING.get(conn, call.path["job_id"], {}, call.actor.scope)
    if row is None:
        detail = f"there is no job {call.path['job_id']}"
        raise NotFound(detail)
    return shape(row)


async def follow(call: Call[NoBody, RunQuery]) -> Run:
    """Return a run; with ``wait``, only once it has more steps than ``seen`` or the time is up."""
    run_id, query = call.path["run_id"], call.query
    deadline = time.monotonic() + query.wait
    with call.ctx.db.wakeups.subscribe(service.run_topic(run_id)) as waiter:
        while True:
            run = await _run(call, run_id)
            left = deadline - time.monotonic()
            if run.seen > query.seen or left <= 0 or call.ctx.stopping:
                return run
            await waiter.wait(left)


async def _run(call: Call[NoBody, RunQuery], run_id: str) -> Run:
    async with call.ctx.db.connection() as conn:
        jobs = [shape(row) for row in await store.of_run(conn, run_id, call.actor.scope)]
        if not jobs:
            detail = f"there is no run {run_id}; a run has the id of its first issuance job"
            raise NotFound(detail)
        proofs = {row["id"]: dict(row.items()) for row in await store.proofs_of_run(conn, run_id)}
    seen = sum(len(job.timeline) for job in jobs)
    return Run(run_id, jobs[0].certificate_id, run_state(jobs), seen, jobs, milestones.steps(jobs, proofs))


ROUTES = [
    Route(
        "GET", "/api/v1/jobs", list_jobs, Permission.READ, "List jobs", Page[Job], query=JobQuery, listing=store.LISTING
    ),
    Route("GET", "/api/v1/jobs/{job_id}", get, Permission.READ, "Get a job", Job, errors=(NotFound,)),
    Route(
        "GET", "/api/v1/runs/{run_id}", follow, Permission.READ, "Follow a run", Run, query=RunQuery, errors=(NotFound,)
    ),
]
