"""Answers to challenges: those that agents show on their hosts, and records that are written from here.

An answer is a row before anybody shows it, so that whoever goes on after a crash knows what to take away. An agent's is
shown by every agent that holds the certificate, since nobody knows which of their hosts a name leads to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
import structlog

from connectors import together
from connectors.issuers.acme.challenges import Challenge
from connectors.issuers.acme.config import ACMEConfig
from connectors.issuers.acme.dns import registry
from connectors.issuers.acme.dns.answerer import DNSAnswerer
from connectors.issuers.acme.dns.script import ScriptConfig
from coordinator.audit import service as audit
from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row
from coordinator.issuers import scripts, secrets
from coordinator.jobs import service as jobs
from coordinator.ordering import challenge_store as store
from coordinator.ordering import queue
from coordinator.ordering import store as orders
from coordinator.ordering.accounts import Authority
from coordinator.web.table import Actor
from core.crash import crash_point
from core.errors import CertctlError, NotFound, Refused, Transient
from core.ids import new_id
from core.wire import ChallengeItem, ChallengeReport

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger()
OFFERED_AGAIN = timedelta(seconds=30)
SHOWN_WITHIN_S = 45.0
"""How long the holder's own agent may take; then the order waits for it."""
OTHERS_WITHIN_S = 5.0
"""How long the others may take: one that is away must not keep the rest from their certificates."""
MOST_A_POLL = 32
_TRIED_AGAIN, _TRIED_FOR = timedelta(minutes=5), timedelta(days=7)
"""How often and for how long a record is tried to be removed that could not be."""


def topic(order_id: str) -> str:
    """Return the topic that wakes whoever waits for an order's answers."""
    return f"ca-order:{order_id}"


async def show(ctx: Context, order: Row, authority: Authority, chosen: Sequence[Challenge]) -> None:
    """Have all answers shown; return when an authority can see them.

    Raises ``Refused`` for one that cannot be shown, ``Transient`` while the agent is away.
    """
    at_agents = [each for each in chosen if not each.is_dns]
    agents = await _want(ctx, order, chosen, at_agents)
    in_dns = [row for row in await _rows(ctx, order["id"]) if row["agent_id"] is None and row["state"] == "wanted"]
    if in_dns:
        answerer = _answerer(ctx, authority.config)
        await together.for_each(in_dns, lambda row: _present(ctx, row, answerer))
    if at_agents:
        await _shown_by_agents(ctx, order, {each.url for each in at_agents}, agents)


async def _want(ctx: Context, order: Row, chosen: Sequence[Challenge], at_agents: Sequence[Challenge]) -> list[str]:
    """Store what is to be shown, and wake the agents that have to; return them."""
    async with ctx.db.transaction() as tx:
        agents = await store.holders(tx, order["certificate_id"]) if at_agents else []
        if at_agents and not agents:
            types = ", ".join(sorted({each.type for each in at_agents}))
            detail = f"no agent holds this certificate, so nobody answers {types}; let the issuer use dns-01"
            raise Refused(detail)
        rows = [
            (new_id("cch"), order["id"], agent, each.url, msgspec.to_builtins(each))
            for each in chosen
            for agent in ([None] if each.is_dns else agents)
        ]
        await store.want(tx, rows)
        tx.wake(*(jobs.agent_topic(agent) for agent in agents))
        crash_point("ca_order.challenges_wanted")
    return agents


async def _present(ctx: Context, row: Row, answerer: DNSAnswerer) -> None:
    challenge = msgspec.convert(row["challenge"], Challenge)
    await answerer.present(challenge)
    crash_point("ca_order.record_written")
    async with ctx.db.transaction() as tx:
        await store.shown(tx, row["id"], f"TXT {challenge.dns_name}")


async def _shown_by_agents(ctx: Context, order: Row, urls: set[str], agents: Sequence[str]) -> None:
    """Wait until the holder's own agent shows all its answers, and the others theirs, or have had their time."""
    started, own = time.monotonic(), order["agent_id"] or agents[0]
    with ctx.db.wakeups.subscribe(topic(order["id"])) as waiter:
        while True:
            rows = [row for row in await _rows(ctx, order["id"]) if row["agent_id"] and row["url"] in urls]
            failed = [row for row in rows if row["state"] == "failed" and row["agent_id"] == own]
            if failed:
                detail = f"agent {own} cannot show the answer: {failed[0]['problem']}"
                raise Refused(detail)
            missing = {row["agent_id"] for row in rows if row["state"] == "wanted"}
            waited = time.monotonic() - started
            if not missing or (own not in missing and waited > OTHERS_WITHIN_S):
                return
            left = (SHOWN_WITHIN_S if own in missing else OTHERS_WITHIN_S) - waited
            if left <= 0:
                detail = f"agent {own} has not shown the answer yet; see that it runs and is connected"
                raise Transient(detail, retry_after_s=SHOWN_WITHIN_S)
            await waiter.wait(left + 0.01)


async def take_away(ctx: Context, order_id: str, issuer_id: str) -> None:
    """Have all answers of an order taken away; an error in that costs nobody a certificate: a loop tries again."""
    async with ctx.db.transaction() as tx:
        for agent in await store.over(tx, order_id):
            tx.wake(jobs.agent_topic(agent))
    rows = [row for row in await _rows(ctx, order_id) if row["agent_id"] is None and row["state"] != "gone"]
    if not rows:
        return
    try:
        async with ctx.db.connection() as conn:
            config, _ = await secrets.acme(ctx, conn, issuer_id)
        if config.dns is None:
            remedy = (
                f"issuer {issuer_id} has no DNS provider any more; remove the order's TXT records, or name one again"
            )
            raise Refused(remedy)
        answerer = _answerer(ctx, config)
    except CertctlError as error:
        log.warning("answers_left", order_id=order_id, detail=error.detail)
        return
    await asyncio.gather(*(_clean_up(ctx, row, answerer) for row in rows))


async def take_away_left(ctx: Context) -> None:
    """Take away what orders have left that are over: a coordinator died, or a record could not be removed."""
    async with ctx.db.connection() as conn:
        left = await store.left(conn, _TRIED_AGAIN, _TRIED_FOR)
    for row in left:
        await take_away(ctx, row["id"], row["issuer_id"])


async def _clean_up(ctx: Context, row: Row, answerer: DNSAnswerer) -> None:
    challenge = msgspec.convert(row["challenge"], Challenge)
    try:
        await answerer.clean_up(challenge)
    except CertctlError as error:
        log.warning("acme_clean_up_failed", name=str(challenge.name), challenge=challenge.type, cause=error.detail)
        async with ctx.db.transaction() as tx:
            await store.stays(tx, row["id"], f"TXT {challenge.dns_name} was not removed: {error.detail}")
        return
    crash_point("ca_order.record_removed")
    async with ctx.db.transaction() as tx:
        await store.gone(tx, row["id"])


def _answerer(ctx: Context, acme: ACMEConfig) -> DNSAnswerer:
    config = acme.dns
    assert config is not None  # noqa: S101 - a DNS challenge is chosen only with one
    kind, provider = config.provider
    if isinstance(provider, ScriptConfig):
        scripts.check(ctx, provider)
    return DNSAnswerer(registry.provider(kind, provider), config.lookup)


async def _rows(ctx: Context, order_id: str) -> list[Row]:
    async with ctx.db.connection() as conn:
        return await store.of_order(conn, [order_id])


async def keep_verdicts(ctx: Context, order_id: str, seen: Sequence[Challenge]) -> None:
    """Keep what the authority says of challenges, so that people see why one failed."""
    async with ctx.db.transaction() as tx:
        for each in seen:
            problem = each.problem.text if each.problem is not None else ""
            words = {"status": each.status, "error": msgspec.to_builtins(each.problem)}
            await store.verdict(tx, order_id, each.url, problem, words)


# What agents see -------------------------------------------------------------------------------------------------


async def are_waiting(conn: Connection, agent_id: str, boot: str) -> bool:
    """Say whether there is an answer for this process of an agent to show or to take away."""
    return await store.wait(conn, agent_id, boot, OFFERED_AGAIN)


async def offer(tx: Transaction, agent_id: str, boot: str) -> tuple[ChallengeItem, ...]:
    """Return what this process of an agent should show or take away now."""
    rows = await store.offer(tx, agent_id, boot, OFFERED_AGAIN, MOST_A_POLL)
    return tuple(_item(row) for row in rows)


def _item(row: Row) -> ChallengeItem:
    challenge = msgspec.convert(row["challenge"], Challenge)
    return ChallengeItem(
        challenge_id=row["id"],
        type=challenge.type,
        name=challenge.name,
        token=challenge.token,
        key_authorization=challenge.key_authorization,
        over=row["state"] == "over",
    )


async def take_report(ctx: Context, actor: Actor, challenge_id: str, report: ChallengeReport, request_id: str) -> str:
    """Keep what an agent says of an answer; raise ``NotFound`` unless it is this agent's."""
    async with ctx.db.transaction() as tx:
        row = await store.of_agent(tx, challenge_id, actor.id)
        if row is None:
            detail = f"there is no challenge {challenge_id} for this agent"
            raise NotFound(detail)
        await _note(tx, actor, row, report, request_id)
        crash_point("ca_order.answer_stored")
    return report.state


async def _note(tx: Transaction, actor: Actor, row: Row, report: ChallengeReport, request_id: str) -> None:
    if report.state == "gone":
        if row["state"] == "over":
            await store.gone(tx, row["id"])
        return
    if report.state == "failed":
        await store.failed(tx, row["id"], report.problem)
        details = {"challenge_id": row["id"], "problem": report.problem}
        await audit.record(tx, actor, "ca_challenge.not_shown", "ca_order", row["order_id"], details, request_id)
    else:
        await store.shown(tx, row["id"], report.where)
    await orders.hurry(tx, row["order_id"])
    tx.wake(topic(row["order_id"]), queue.ORDERS_TOPIC)
