"""When credentials were last used: noted in memory, stored for all of them together every few seconds.

A statement for each request would double what a short one costs. What a coordinator that dies has noted and not stored
is a few seconds of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import structlog

from coordinator.access import store
from coordinator.sessions import service as sessions
from core.errors import CertctlError

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger(__name__)
TICK_S = 10.0
_GOODBYE_S = 2.0


class Uses:
    """What was used since the last time: ids, and when (monotonic seconds)."""

    def __init__(self) -> None:
        self.keys: dict[str, float] = {}
        self.sessions: dict[str, float] = {}

    def key(self, key_id: str) -> None:
        """Note that a key was used just now."""
        self.keys[key_id] = time.monotonic()

    def session(self, session_id: str) -> None:
        """Note that a session was used just now."""
        self.sessions[session_id] = time.monotonic()


async def run(ctx: Context) -> None:
    """Store uses until cancelled, and once more then; in each coordinator, since each notes its own."""
    try:
        while True:
            await asyncio.sleep(TICK_S)
            await _tick(ctx)
    finally:
        with contextlib.suppress(TimeoutError):  # a stop does not wait for a database that is away
            async with asyncio.timeout(_GOODBYE_S):
                await _tick(ctx)


async def _tick(ctx: Context) -> None:
    try:
        await store_uses(ctx)
    except CertctlError as error:
        log.warning("uses_not_stored", detail=error.detail)
    except Exception:
        log.exception("uses_not_stored")


async def store_uses(ctx: Context) -> None:
    """Store what was noted since the last time; keep it when that does not work."""
    (keys, ctx.uses.keys), (people, ctx.uses.sessions) = (ctx.uses.keys, {}), (ctx.uses.sessions, {})
    if not keys and not people:
        return
    try:
        async with ctx.db.connection() as conn:
            await store.touch_keys(conn, _ages(keys))
            await sessions.touch(conn, _ages(people))
    except CertctlError:
        ctx.uses.keys, ctx.uses.sessions = keys | ctx.uses.keys, people | ctx.uses.sessions
        raise


def _ages(uses: dict[str, float]) -> dict[str, float]:
    now = time.monotonic()
    return {name: now - at for name, at in uses.items()}
