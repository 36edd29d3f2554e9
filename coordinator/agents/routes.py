"""Agents for operators, and the agents' own routes: enroll, nonce, token, work, CSR, result."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated

import msgspec

from coordinator.access import service as access
from coordinator.agents import retirement, service, store, tokens
from coordinator.agents.polling import LONGEST_WAIT_S, Asked, Poll
from coordinator.agents.retirement import Dependents, Preflight, Retirement
from coordinator.bindings import drift as bindings_drift
from coordinator.bindings import service as bindings
from coordinator.enrollment.acme import perspectives
from coordinator.issuance import service as issuance
from coordinator.jobs import service as jobs
from coordinator.ordering import challenges
from coordinator.targets import trials
from coordinator.web.paging import Page, PageQuery, read_page
from coordinator.web.table import Access, Call, NoBody, NoQuery, Permission, Route, Streamed, Strict
from core.errors import (
    Conflict,
    Gone,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    Refused,
    StaleLease,
    Unauthenticated,
)
from core.wire import (
    TIME_HEADER,
    ChallengeReport,
    CSRAnswer,
    CSRSubmission,
    Enrolled,
    Enrollment,
    Findings,
    FindingsTaken,
    LookReport,
    Nonce,
    Receipt,
    SignedReport,
    Token,
    TokenRequest,
    TrialReport,
    Work,
)

_JOB_LIST = re.compile(r"(?:job-[a-z0-9]{1,64})(?:,job-[a-z0-9]{1,64})*|")

_MILLISECONDS = re.compile(r"[0-9]{1,15}")


class Agent(msgspec.Struct):
    """An agent. ``skew_ms`` is its clock minus the coordinator's; ``online`` means seen within two minutes."""

    id: str
    name: str
    hostname: str
    os: str
    architecture: str
    address: str
    version: str
    skew_ms: int
    last_seen_at: datetime
    enrolled_at: datetime
    retired_at: datetime | None
    retired_reason: str
    revision: int
    online: bool


class CreateToken(Strict):
    """A one-time enrollment token: what it is for, and how long it may be used (seconds)."""

    note: Annotated[str, msgspec.Meta(max_length=255)] = ""
    ttl_s: Annotated[int, msgspec.Meta(ge=60, le=30 * 86400)] = 86400


class CreatedToken(msgspec.Struct):
    """A new enrollment token; ``token`` is shown this once."""

    id: str
    token: str
    expires_at: str


class EnrollmentToken(msgspec.Struct):
    """An enrollment token without its value."""

    id: str
    note: str
    created_by: str
    created_at: datetime
    expires_at: datetime
    used_by: str | None
    used_at: datetime | None
    revoked_at: datetime | None


class RetiredQuery(PageQuery):
    """Filters of the agent lists; ``q`` is looked for in id, name, host name and address."""

    name: str | None = None
    os: str | None = None
    architecture: str | None = None
    version: str | None = None
    q: str | None = None


class AgentQuery(RetiredQuery):
    """Filters of the agent list, which is without the retired ones unless it is asked for them."""

    group_id: str | None = None
    online: bool | None = None
    retired: bool = False


class AgentPatch(Strict):
    """What can be changed of an agent: its name, which nobody else in service may have."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class RetireQuery(Strict):
    """``force`` carries a retirement through although something depends on the agent; it needs a ``reason``."""

    force: bool = False
    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""


class PollQuery(Strict):
    """Wait up to ``wait`` seconds. ``boot`` names the agent's process, ``held`` the jobs in its hands (comma list)."""

    boot: Annotated[str, msgspec.Meta(pattern="^[a-z0-9]{8,64}$")]
    wait: Annotated[float, msgspec.Meta(ge=0, le=LONGEST_WAIT_S)] = 30
    held: str = ""


class InTheWay(msgspec.Struct):
    """What depends on the agent."""

    counts: Dependents


async def list_agents(call: Call[NoBody, AgentQuery]) -> Page[Agent] | Streamed:
    """List agents, newest first."""
    return await read_page(call, store.LISTING, Agent)


async def list_retired(call: Call[NoBody, RetiredQuery]) -> Page[Agent] | Streamed:
    """List retired agents, the last one first."""
    return await read_page(call, store.RETIRED, Agent)


async def change(call: Call[AgentPatch, NoQuery]) -> Agent:
    """Give an agent another name."""
    return Agent(**await service.rename(call, call.path["agent_id"], call.body.name))


async def retirement_preflight(call: Call[NoBody, NoQuery]) -> Preflight:
    """Say what depends on an agent."""
    return await retirement.preflight(call.ctx, call.path["agent_id"])


async def retire(call: Call[NoBody, RetireQuery]) -> Retirement | None:
    """Retire an agent: refused with the counts as long as something depends on it, unless forced.

    With force its targets are archived, its bindings and jobs end; certificates stay. Repeated, it answers 204.
    """
    query = call.query
    return await retirement.retire(
        call.ctx,
        call.actor,
        call.path["agent_id"],
        force=query.force,
        reason=query.reason,
        request_id=call.request_id,
    )


async def get(call: Call[NoBody, NoQuery]) -> Agent:
    """Return one agent."""
    async with call.ctx.db.connection() as conn:
        row = await store.get(conn, call.path["agent_id"])
    if row is None:
        detail = f"there is no agent {call.path['agent_id']}"
        raise NotFound(detail)
    return Agent(**row)


async def create_token(call: Call[CreateToken, NoQuery]) -> CreatedToken:
    """Make a one-time enrollment token."""
    ttl = timedelta(seconds=call.body.ttl_s)
    token_id, value, ends = await tokens.create(call.tx, call.actor, call.body.note, ttl, call.request_id)
    return CreatedToken(token_id, value.reveal(), ends)


async def list_tokens(call: Call[NoBody, PageQuery]) -> Page[EnrollmentToken] | Streamed:
    """List enrollment tokens, newest first."""
    return await read_page(call, store.TOKENS, EnrollmentToken)


async def revoke_token(call: Call[NoBody, NoQuery]) -> None:
    """Make a token useless that has let in nobody yet."""
    await tokens.revoke(call.ctx, call.actor, call.path["token_id"], call.request_id)


async def enroll(call: Call[Enrollment, NoQuery]) -> Enrolled:
    """Register an agent's public keys under a token."""
    return await service.enroll(call.ctx, call.body, call.request_id, call.address)


async def nonce(call: Call[NoBody, NoQuery]) -> Nonce:
    """Give a nonce to sign."""
    return await service.new_nonce(call.ctx, call.path["agent_id"])


async def token(call: Call[TokenRequest, NoQuery]) -> Token:
    """Give a bearer token for a signed nonce."""
    return await service.new_session(call.ctx, call.path["agent_id"], call.body)


async def work(call: Call[NoBody, PollQuery]) -> Work | Poll:
    """Return due work, or wait for some."""
    query = call.query
    held = tuple(query.held.split(",")) if query.held else ()
    if len(held) > jobs.MOST_HELD or not _JOB_LIST.fullmatch(query.held):
        raise InvalidInput.of("held", f"is not a comma list of at most {jobs.MOST_HELD} job ids")
    stated = call.headers.get(TIME_HEADER, "")
    time_ms = int(stated) if _MILLISECONDS.fullmatch(stated) else None
    session = access.digest_of(call.headers.get("Authorization", ""))
    return await service.poll(call.ctx, Asked(call.actor.id, session, query.boot, held, query.wait), time_ms)


async def submit_csr(call: Call[CSRSubmission, NoQuery]) -> CSRAnswer:
    """Take a CSR and answer with the certificate."""
    return await issuance.submit(call.ctx, call.actor, call.path["job_id"], call.body, call.request_id)


async def result(call: Call[SignedReport, NoQuery]) -> Receipt:
    """Take the signed report of how a job ended."""
    return Receipt(await bindings.take_report(call.ctx, call.actor, call.path["job_id"], call.body, call.request_id))


async def trial_result(call: Call[TrialReport, NoQuery]) -> Receipt:
    """Take the report of how a trial of a target ended."""
    return Receipt(await trials.take_report(call.ctx, call.actor, call.path["trial_id"], call.body, call.request_id))


async def challenge(call: Call[ChallengeReport, NoQuery]) -> Receipt:
    """Take what became of the answer to a challenge."""
    challenge_id = call.path["challenge_id"]
    return Receipt(await challenges.take_report(call.ctx, call.actor, challenge_id, call.body, call.request_id))


async def look(call: Call[LookReport, NoQuery]) -> Receipt:
    """Take how a challenge of an ACME client looked from where an agent stands."""
    return Receipt(await perspectives.take_report(call.ctx, call.actor, call.path["look_id"], call.body))


async def drift(call: Call[Findings, NoQuery]) -> FindingsTaken:
    """Take what an agent found when it looked again at what it had installed."""
    return FindingsTaken(await bindings_drift.take(call.ctx, call.actor, call.body.findings, call.request_id))


_ONE = "/api/v1/agents/{agent_id}"
_JOB = f"{_ONE}/jobs/{{job_id}}"
_TOKENS = "/api/v1/enrollment-tokens"

ROUTES = [
    Route(
        "GET",
        "/api/v1/agents",
        list_agents,
        Permission.READ,
        "List agents",
        Page[Agent],
        query=AgentQuery,
        listing=store.LISTING,
    ),
    Route(
        "GET",
        "/api/v1/agents/retired",
        list_retired,
        Permission.READ,
        "List retired agents",
        Page[Agent],
        query=RetiredQuery,
        listing=store.RETIRED,
    ),
    Route("GET", _ONE, get, Permission.READ, "Get an agent", Agent, errors=(NotFound,)),
    Route(
        "PATCH",
        _ONE,
        change,
        Permission.AGENTS_WRITE,
        "Rename an agent",
        Agent,
        request=AgentPatch,
        errors=(NotFound, PreconditionFailed, Conflict),
    ),
    Route(
        "GET",
        f"{_ONE}/retirement",
        retirement_preflight,
        Permission.READ,
        "What a retirement would meet",
        Preflight,
        errors=(NotFound,),
    ),
    Route(
        "DELETE",
        _ONE,
        retire,
        Permission.AGENTS_WRITE,
        "Retire an agent",
        Retirement,
        query=RetireQuery,
        errors=(NotFound, Conflict),
        empty=True,
        conflict=InTheWay,
    ),
    Route(
        "POST",
        "/api/v1/agents",
        enroll,
        Access.OPEN,
        "Enroll an agent (the token in the body is the credential)",
        Enrolled,
        request=Enrollment,
        status=201,
        errors=(Unauthenticated, Conflict, Gone),
    ),
    Route("POST", f"{_ONE}/nonce", nonce, Access.OPEN, "A nonce to sign", Nonce, errors=(NotFound, Gone)),
    Route(
        "POST",
        f"{_ONE}/token",
        token,
        Access.OPEN,
        "A bearer token for a signed nonce",
        Token,
        request=TokenRequest,
        errors=(Unauthenticated, NotFound, Gone),
    ),
    Route(
        "GET",
        f"{_ONE}/work",
        work,
        Access.AGENT,
        "Poll for work",
        Work,
        query=PollQuery,
        errors=(Gone,),
        headers={TIME_HEADER: "The agent's clock in milliseconds since 1970, for its skew."},
    ),
    Route(
        "POST",
        f"{_JOB}/csr",
        submit_csr,
        Access.AGENT,
        "Submit a CSR",
        CSRAnswer,
        request=CSRSubmission,
        errors=(NotFound, StaleLease, Refused, Gone),
    ),
    Route(
        "POST",
        f"{_JOB}/result",
        result,
        Access.AGENT,
        "Report how a job ended",
        Receipt,
        request=SignedReport,
        errors=(NotFound, StaleLease, Unauthenticated, Gone),
    ),
    Route(
        "POST",
        f"{_ONE}/trials/{{trial_id}}/result",
        trial_result,
        Access.AGENT,
        "Report how a trial of a target went",
        Receipt,
        request=TrialReport,
        errors=(NotFound, Gone),
    ),
    Route(
        "POST",
        f"{_ONE}/challenges/{{challenge_id}}",
        challenge,
        Access.AGENT,
        "Report that the answer to a challenge is shown, cannot be, or was taken away",
        Receipt,
        request=ChallengeReport,
        errors=(NotFound, Gone),
    ),
    Route(
        "POST",
        f"{_ONE}/looks/{{look_id}}",
        look,
        Access.AGENT,
        "Report how a challenge of an ACME client looked from where the agent stands",
        Receipt,
        request=LookReport,
        errors=(NotFound, Gone),
    ),
    Route(
        "POST",
        f"{_ONE}/drift",
        drift,
        Access.AGENT,
        "Report what was found of earlier installations",
        FindingsTaken,
        request=Findings,
        errors=(Gone,),
    ),
    Route(
        "POST",
        _TOKENS,
        create_token,
        Permission.ENROLLMENT,
        "Make a one-time enrollment token",
        CreatedToken,
        request=CreateToken,
        status=201,
    ),
    Route(
        "GET",
        _TOKENS,
        list_tokens,
        Permission.ENROLLMENT,
        "List enrollment tokens",
        Page[EnrollmentToken],
        query=PageQuery,
        listing=store.TOKENS,
    ),
    Route(
        "DELETE",
        f"{_TOKENS}/{{token_id}}",
        revoke_token,
        Permission.ENROLLMENT,
        "Revoke an enrollment token",
        None,
        status=204,
        errors=(NotFound, Conflict),
    ),
]
