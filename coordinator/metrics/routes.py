"""Metrics over HTTP, for who has a key; the metrics listener needs none."""

from __future__ import annotations

import msgspec

from coordinator.metrics import state
from coordinator.metrics.state import Counters, Gauges
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Raw, Route


class Uptime(msgspec.Struct):
    """How long the answering process has been running."""

    seconds: float


class Metrics(msgspec.Struct):
    """The metrics of the state, within the caller's scope."""

    gauge: Gauges
    counter: Counters
    uptime: Uptime


async def read(call: Call[NoBody, NoQuery]) -> Metrics:
    """Return the metrics of the state as JSON."""
    async with call.ctx.db.connection() as conn:
        found = await state.read(call.ctx, conn, call.actor.scope)
    return Metrics(found.gauge, found.counter, Uptime(round(state.uptime_s(), 3)))


async def prometheus(call: Call[NoBody, NoQuery]) -> Raw:
    """Return the metrics in the text format, as the metrics listener does; those of the state within one's scope."""
    async with call.ctx.db.connection() as conn:
        found = await state.read(call.ctx, conn, call.actor.scope)
    return Raw(state.text(found), state.CONTENT_TYPE)


ROUTES = [
    Route("GET", "/api/v1/metrics", read, Permission.READ, "Metrics as JSON", Metrics),
    Route(
        "GET",
        "/api/v1/metrics/prometheus",
        prometheus,
        Permission.READ,
        "Metrics in the text format of Prometheus",
        None,
        content_type="text/plain",
    ),
]
