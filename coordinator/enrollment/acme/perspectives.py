"""Challenges looked at from elsewhere: by agents, each from where it stands (RFC 8555 section 10.2, BR 3.2.2.9).

The coordinator has looked first, so that agents validate nothing: they corroborate, or they do not. A look is a row
before an agent hears of it. It has no lease, since one that is taken twice does no harm, and it lasts as long as the
coordinator that asked waits for it: another one that goes on after that one's death asks anew.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from connectors.validation.service import Asked, printable
from coordinator.database.connection import Connection, Transaction
from coordinator.enrollment.acme import counting, quorum
from coordinator.enrollment.acme import perspectives_store as store
from coordinator.enrollment.acme.quorum import State
from coordinator.enrollment.acme.settings import MOST_PERSPECTIVES
from coordinator.jobs import service as jobs
from coordinator.web.table import Actor
from core.crash import crash_point
from core.errors import NotFound
from core.ids import new_id
from core.wire import LookItem, LookReport

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger()
LOOKED_WITHIN_S = 45.0
"""How long the looks may take together."""
OTHERS_WITHIN_S = 3.0
"""How long the rest may take once the verdict is clear: what they saw is told with it."""
OFFERED_AGAIN = timedelta(seconds=15)
_WANTED = timedelta(seconds=LOOKED_WITHIN_S)
MOST_A_POLL = 32
_MOST_DETAIL, _MOST_TOLD = 1000, 300


class View(msgspec.Struct, frozen=True):
    """What one perspective saw; ``evidence`` is in its own words, except for its printing."""

    agent_id: str
    name: str
    state: State
    type: str
    detail: str
    evidence: tuple[object, ...]

    @property
    def said(self) -> str:
        """Return why it did not see it, as it is told among others."""
        return printable(self.detail, _MOST_TOLD) or "as it has to be"


class NotCorroborated(Exception):
    """Perspectives see something else than the coordinator: ``type`` is that of most of their ACME errors."""

    def __init__(self, type_: str, detail: str, views: Sequence[View]) -> None:
        super().__init__(detail)
        self.type, self.detail, self.views = type_, detail, views


class TooFew(Exception):
    """Not enough perspectives have answered for a verdict: that is no word on the name."""

    def __init__(self, detail: str, views: Sequence[View] = ()) -> None:
        super().__init__(detail)
        self.detail, self.views = detail, views


def _topic(authorization_id: str) -> str:
    return f"acme-looks:{authorization_id}"


async def corroborate(ctx: Context, authorization_id: str, asked: Asked) -> Sequence[View]:
    """Return what the perspectives saw, nothing where there are to be none; raise ``NotCorroborated``, ``TooFew``."""
    settings = ctx.settings.acme
    if not settings.perspectives:
        return ()
    agents, looks = await _ask(ctx, authorization_id, asked)
    views = await _views(ctx, authorization_id, agents, looks)
    for view in views:
        counting.perspective(view.state)
        tell = log.warning if view.state == "failed" else log.info
        about = {"authorization_id": authorization_id, "agent_id": view.agent_id, "state": view.state}
        tell("challenge_seen_elsewhere", **about, detail=view.detail)
    verdict = _judged(ctx, views)
    if verdict == "refused":
        raise _not_corroborated(asked, views)
    if verdict != "corroborated":
        hindered_first = sorted(views, key=lambda view: (view.state == "seen", view.name))
        told = "; ".join(f"{view.name}: {view.state} ({view.said})" for view in hindered_first)
        detail = f"too few perspectives have looked, at least {settings.least_perspectives} have to: {told}"
        raise TooFew(detail, views)
    return views


def _not_corroborated(asked: Asked, views: Sequence[View]) -> NotCorroborated:
    """Return the refusal; of those that did not fail the client is told no more than that."""
    failed = [view for view in views if view.state == "failed"]
    told = [f"{view.name}: failed ({view.said})" for view in failed]
    told += [f"{view.name}: {view.state}" for view in views if view.state not in {"failed", "none"}]
    types = Counter(view.type or "unauthorized" for view in failed)
    detail = (
        f"{asked.name} answers as it has to where the coordinator is, and not at {len(failed)} of {len(told)} other "
        f"perspectives: {'; '.join(told)}. Let it answer alike everywhere"
    )
    return NotCorroborated(types.most_common(1)[0][0], detail, views)


async def end(ctx: Context, tx: Transaction, authorization_id: str) -> None:
    """Forget the looks at a challenge: what was seen is kept with its evidence."""
    if ctx.settings.acme.perspectives:
        await store.forget(tx, authorization_id)


def _judged(ctx: Context, views: Sequence[View]) -> quorum.Verdict:
    return quorum.judge([view.state for view in views], ctx.settings.acme.least_perspectives)


async def _ask(ctx: Context, authorization_id: str, asked: Asked) -> tuple[dict[str, str], list[str]]:
    """Ask every agent of the group that is connected; return their names by their ids, and the looks."""
    settings = ctx.settings.acme
    async with ctx.db.transaction() as tx:
        agents = await store.connected(tx, settings.perspectives, MOST_PERSPECTIVES)
        if len(agents) < settings.least_perspectives:
            detail = (
                f"{len(agents)} agents of the group {settings.perspectives} (CERTCTL_ACME_SERVER_PERSPECTIVES) are "
                f"connected, and {settings.least_perspectives} are needed: start more, or put more into it"
            )
            raise TooFew(detail)
        items = [_item(ctx, asked) for _ in agents]
        rows = [(item.look_id, agent, msgspec.to_builtins(item)) for item, agent in zip(items, agents, strict=True)]
        await store.ask(tx, authorization_id, rows)
        tx.wake(*map(jobs.agent_topic, agents))
        crash_point("acme.looks_asked")
    return agents, [item.look_id for item in items]


def _item(ctx: Context, asked: Asked) -> LookItem:
    settings = ctx.settings.acme
    return LookItem(
        look_id=new_id("look"),
        type=asked.type,
        name=asked.name,
        wildcard=asked.wildcard,
        token=asked.token,
        thumbprint=asked.thumbprint,
        account_url=asked.account_url,
        caa_identities=settings.caa_identities,
        persist_issuers=settings.persist_issuers,
    )


async def _views(ctx: Context, authorization_id: str, agents: Mapping[str, str], looks: Sequence[str]) -> list[View]:
    """Wait until the verdict is clear and the others have had their time, or all of them."""
    started, clear_at = time.monotonic(), None
    with ctx.db.wakeups.subscribe(_topic(authorization_id)) as waiter:
        while True:
            async with ctx.db.connection() as conn:
                reports = await store.reports(conn, looks)
            views = [_view(agent, name, reports.get(agent)) for agent, name in agents.items()]
            now = time.monotonic()
            if clear_at is None and _judged(ctx, views) != "open":
                clear_at = now
            until = started + LOOKED_WITHIN_S
            if clear_at is not None:
                until = min(until, clear_at + OTHERS_WITHIN_S)
            if len(reports) == len(agents) or now >= until or ctx.db.wakeups.closed:
                return views
            await waiter.wait(until - now + 0.01)


def _view(agent_id: str, name: str, told: Mapping[str, Any] | None) -> View:
    if told is None:
        return View(agent_id, name, "silent", "", "it has not answered", ())
    report = msgspec.convert(told, LookReport)
    evidence = tuple(_printable(each) for each in told["evidence"])
    return View(agent_id, name, report.state, report.type, printable(report.detail, _MOST_DETAIL), evidence)


def _printable(value: object) -> object:
    """Return evidence as it is kept: an agent may say what it likes, and people read it."""
    if isinstance(value, str):
        return printable(value, _MOST_DETAIL)
    if isinstance(value, Mapping):
        return {name: _printable(each) for name, each in value.items()}
    return [_printable(each) for each in value] if isinstance(value, list | tuple) else value


# What agents see -------------------------------------------------------------------------------------------------


async def are_waiting(ctx: Context, conn: Connection, agent_id: str, boot: str) -> bool:
    """Say whether there is a challenge for this process of an agent to look at."""
    return bool(ctx.settings.acme.perspectives) and await store.wait(conn, agent_id, boot, OFFERED_AGAIN, _WANTED)


async def offer(ctx: Context, tx: Transaction, agent_id: str, boot: str) -> tuple[LookItem, ...]:
    """Return what this process of an agent should look at now."""
    if not ctx.settings.acme.perspectives:
        return ()
    rows = await store.offer(tx, agent_id, boot, OFFERED_AGAIN, _WANTED, MOST_A_POLL)
    return tuple(msgspec.convert(row["item"], LookItem) for row in rows)


async def take_report(ctx: Context, actor: Actor, look_id: str, report: LookReport) -> str:
    """Keep what an agent saw, once; raise ``NotFound`` unless somebody waits for it and it is this agent's."""
    async with ctx.db.transaction() as tx:
        row = await store.of_agent(tx, look_id, actor.id)
        if row is None:
            detail = f"there is no look {look_id} for this agent; nobody waits for it any more"
            raise NotFound(detail)
        if row["report"] is None:
            await store.keep(tx, look_id, msgspec.to_builtins(report))
            tx.wake(_topic(row["authorization_id"]))
            crash_point("acme.look_stored")
    return report.state
