"""What the loops do, and asking for a run now."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime

import msgspec

from coordinator.audit import service as audit
from coordinator.database.driver import Record as Row
from coordinator.loops import service
from coordinator.web.table import Accepted, Call, NoBody, NoQuery, Permission, Route
from core.errors import NotFound

_PATIENCE_S = 10.0


class LoopView(msgspec.Struct):
    """One loop. ``last_run_at`` and ``last_ms`` are of a run of the last seconds, not of every single one.

    ``last_error`` is empty when that run went well; ``failed_at`` is when one did not. ``waiting`` counts the runs that
    were asked for and are not over.
    """

    name: str
    purpose: str
    interval_s: float
    last_run_at: datetime | None
    last_ms: float | None
    last_error: str
    failed_at: datetime | None
    ran_on: str
    waiting: int


class Loops(msgspec.Struct):
    """All loops; ``runner`` is the coordinator whose turn it is (host, process, a number of its own)."""

    runner: str
    data: list[LoopView]


async def list_loops(call: Call[NoBody, NoQuery]) -> Loops:
    """Return every loop and who runs them."""
    async with call.ctx.db.transaction() as tx:
        runner, rows = await service.runs(tx)
    return Loops(runner, [_view(call, loop, rows) for loop in service.LOOPS])


async def run_loop(call: Call[NoBody, NoQuery]) -> LoopView | Accepted:
    """Have a loop run now on the coordinator whose turn it is; 202 when that takes longer than ten seconds."""
    name = call.path["loop_name"]
    loop = next((each for each in service.LOOPS if each.name == name), None)
    if loop is None:
        names = ", ".join(each.name for each in service.LOOPS)
        detail = f"there is no loop {name}; there are {names}"
        raise NotFound(detail)
    with call.ctx.db.wakeups.subscribe(service.ran_topic(name)) as waiter:
        async with call.ctx.db.transaction() as tx:
            number = await service.ask(tx, name)
            await audit.record(tx, call.actor, "loop.run_asked", "loop", name, {}, call.request_id)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            async with call.ctx.db.transaction() as tx:
                rows = (await service.runs(tx))[1]
            left_s = deadline - time.monotonic()
            if rows[name]["answered"] >= number:
                return _view(call, loop, rows)
            if left_s <= 0 or call.ctx.stopping:
                return Accepted(_view(call, loop, rows))
            await waiter.wait(left_s)


def _view(call: Call[NoBody, NoQuery], loop: service.Loop, rows: Mapping[str, Row]) -> LoopView:
    row = rows.get(loop.name)
    every_s = loop.every_s(call.ctx)
    if row is None or row["started_at"] is None:
        waiting = row["asked"] - row["answered"] if row else 0
        return LoopView(loop.name, loop.purpose, every_s, None, None, "", None, "", waiting)
    return LoopView(
        loop.name,
        loop.purpose,
        every_s,
        last_run_at=row["started_at"],
        last_ms=row["ms"],
        last_error=row["error"],
        failed_at=row["failed_at"],
        ran_on=row["runner"],
        waiting=row["asked"] - row["answered"],
    )


ROUTES = [
    Route("GET", "/api/v1/admin/loops", list_loops, Permission.LOOPS, "List the loops", Loops),
    Route(
        "POST",
        "/api/v1/admin/loops/{loop_name}/run",
        run_loop,
        Permission.LOOPS,
        "Run a loop now",
        LoopView,
        errors=(NotFound,),
        may_take_longer=True,
    ),
]
